"""Access tokens that end before they expire."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from numerator.accounts.v1 import accounts_pb2, apps_pb2

from gateway.errors import Problem
from gateway.identity import AccessTokens
from gateway.keys import Keys
from gateway.revocations import PULL_SECONDS, RevocationPull, Revocations
from gateway.tests.conftest import PRIVATE_PEM, log_in
from gateway.tests.fakes import Apps
from services.chassis.clock import FixedClock
from services.chassis.errors import Kind, ServiceError
from services.chassis.principal import Principal
from services.chassis.testing.waiting import eventually

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
MEMBER = "enterprises/x/members/m"
PATIENCE = PULL_SECONDS + 3


def pull(apps: Apps, revocations: Revocations) -> None:
    async def answer(request: apps_pb2.ListRevocationsRequest) -> apps_pb2.ListRevocationsResponse:
        return apps.ListRevocations(request, None)

    asyncio.run(RevocationPull(revocations, answer).once())


def test_revocations__concern_what_was_read_before():
    """By name and by session; what was read a microsecond later is good."""
    clock, apps = FixedClock(NOW), Apps()
    revocations = Revocations(clock)
    apps.revoke("enterprises/x/clients/c", NOW.timestamp())
    apps.revoke("session-1", NOW.timestamp())
    pull(apps, revocations)
    tokens = AccessTokens(Keys(PRIVATE_PEM), "http://gateway.test", revocations)

    def token(principal: Principal, read: datetime | None, session: str = "") -> str:
        identity = accounts_pb2.Identity(session=session)
        if read:
            identity.authenticate_time.FromDatetime(read)
        return tokens.issue(principal, timedelta(minutes=10), NOW, identity).token

    client = Principal("CLIENT", "enterprises/x/clients/c", "enterprises/x")
    other = Principal("CLIENT", "enterprises/x/clients/d", "enterprises/x")
    member = Principal("MEMBER", MEMBER, "enterprises/x")
    later = NOW + timedelta(microseconds=1)
    for refused in (token(client, NOW), token(client, None), token(member, NOW, "session-1")):
        with pytest.raises(Problem) as caught:
            tokens.verify(refused, NOW)
        assert (caught.value.status, caught.value.reason) == (401, "TOKEN_REVOKED")
    for taken in (token(client, later), token(other, None), token(member, NOW, "session-2")):
        tokens.verify(taken, NOW)


def test_revocations__are_forgotten_when_the_tokens_have_expired():
    """The list does not grow with time, and says for how long it is not known to be the newest."""
    clock, apps = FixedClock(NOW), Apps()
    revocations = Revocations(clock)
    assert not revocations.informed
    for number in range(10):
        apps.revoke(f"s{number}", NOW.timestamp(), life=60 * (number + 1))
    apps.page_size = 3
    pull(apps, revocations)
    assert (len(revocations), revocations.last, revocations.informed) == (10, 10, True)
    assert revocations.age() < 1
    clock.advance(timedelta(minutes=5))
    pull(apps, revocations)
    assert len(revocations) == 5
    assert revocations.revoked("s9", NOW.timestamp())
    assert not revocations.revoked("s0", NOW.timestamp())


@pytest.mark.asyncio(loop_scope="session")
async def test_gateways__refuse_what_is_revoked(make_gateway, services):
    """At two gateways within seconds; with the accounts service away, what is known stays in force."""
    async with make_gateway() as one, make_gateway() as other:
        headers = await log_in(one)
        assert (await one.http.get("/v1/boxes/b", headers=headers)).status_code == 200
        services.apps.revoke(MEMBER, time.time())
        began = time.monotonic()
        for gateway in (one, other):
            known = gateway.gateway.revocations
            await asyncio.to_thread(eventually, known.__len__, PATIENCE)
            answer = await gateway.http.get("/v1/boxes/b", headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_REVOKED")
            assert "invalid_token" in answer.headers["www-authenticate"]
        assert time.monotonic() - began < PATIENCE

        services.apps.error = ServiceError(Kind.UNAVAILABLE, "AWAY", "away")
        age = one.gateway.revocations.age()
        await asyncio.to_thread(eventually, lambda: one.gateway.revocations.age() > PULL_SECONDS + age, 10)
        answer = await one.http.get("/v1/boxes/b", headers=headers)
        assert answer.json()["reason"] == "TOKEN_REVOKED"


@pytest.mark.asyncio(loop_scope="session")
async def test_streams__end_with_the_token(make_gateway, services):
    """A stream that is open already ends with the reason, instead of going on for minutes."""
    async with make_gateway(heartbeat_seconds=0.2) as gateway:
        headers = await log_in(gateway)
        lines = []
        async with gateway.http.stream("GET", "/v1/enterprises/x/boxes:watch", headers=headers) as stream:
            assert stream.status_code == 200
            coming = stream.aiter_lines()
            for subject in ("somebody else", MEMBER):
                services.apps.revoke(subject, time.time())
                answer = services.apps.ListRevocations(apps_pb2.ListRevocationsRequest(), None)
                gateway.gateway.revocations.take(answer)
                async for line in coming:
                    lines.append(line)
                    if line.startswith(": alive"):
                        break
        assert lines.count("event: error") == 1
        assert "TOKEN_REVOKED" in lines[-2]
        services.boxes.watch_until.set()


@pytest.mark.asyncio(loop_scope="session")
async def test_readiness__needs_the_list(make_gateway, services):
    """A gateway that has never heard what is revoked says so; balancers may send to it all the same."""
    services.apps.error = ServiceError(Kind.UNAVAILABLE, "AWAY", "away")
    async with make_gateway(informed=False) as gateway:
        await asyncio.to_thread(eventually, lambda: gateway.gateway.knowledge.serving, PATIENCE)
        ready = await gateway.http.get("/readyz")
        assert ready.status_code == 503
        assert "revocations" in ready.json()["reason"]
        assert (await gateway.http.get("/openz")).status_code == 200
        services.apps.error = None
        await asyncio.to_thread(eventually, lambda: gateway.gateway.revocations.informed, PATIENCE)
        assert (await gateway.http.get("/readyz")).status_code == 200
