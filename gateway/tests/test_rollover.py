"""The key that signs is replaced, gateway by gateway, while people work: no request fails."""

from contextlib import AsyncExitStack

import pytest

from gateway.tests.conftest import NEXT_PRIVATE_PEM, NEXT_PUBLIC_PEM, PRIVATE_PEM, PUBLIC_PEM, log_in

pytestmark = pytest.mark.asyncio(loop_scope="session")
BOTH = PUBLIC_PEM + NEXT_PUBLIC_PEM
STEPS = (
    {"private_key": PRIVATE_PEM},
    {"private_key": PRIVATE_PEM, "public_keys": BOTH},
    {"private_key": NEXT_PRIVATE_PEM, "public_keys": BOTH},
)
LAST = {"private_key": NEXT_PRIVATE_PEM, "public_keys": NEXT_PUBLIC_PEM}


async def test_rollover__no_request_fails(make_gateway):
    """
    Two gateways, replaced one after the other in each step: every token that any of them has given is taken by all, and services take
    what any of them signs. When the old key goes, so do its tokens.
    """
    headers: list[dict[str, str]] = []
    statuses: list[int] = []

    async def work(gateways):
        headers.extend([await log_in(each) for each in gateways])
        for each in gateways:
            statuses.extend(
                [(await each.http.get("/v1/boxes/b", headers=bearer)).status_code for bearer in headers]
            )

    async with AsyncExitStack() as stack:
        one = other = await stack.enter_async_context(make_gateway(**STEPS[0]))
        for step in STEPS:
            one = await stack.enter_async_context(make_gateway(**step))
            await work((one, other))
            other = await stack.enter_async_context(make_gateway(**step))
            await work((one, other))
        assert len(statuses) == 2 * sum(range(2, 13, 2))
        assert set(statuses) == {200}

        last = await stack.enter_async_context(make_gateway(**LAST))
        oldest, newest = [
            (await last.http.get("/v1/boxes/b", headers=bearer)).status_code
            for bearer in (headers[0], headers[-1])
        ]
        assert (oldest, newest) == (401, 200)
        told = [(await each.http.get("/.well-known/jwks.json")).json()["keys"] for each in (one, last)]
        assert [len(keys) for keys in told] == [2, 1]
