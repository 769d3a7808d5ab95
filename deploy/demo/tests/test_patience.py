from collections.abc import Callable

import httpx
import pytest

from deploy.demo import client
from deploy.demo.client import Gateway, Problem

Answer = Callable[[httpx.Request], httpx.Response]


def gateway(answer: Answer) -> Gateway:
    made = Gateway("http://gateway")
    made._http = httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(answer))
    return made


@pytest.fixture
def restarting() -> tuple[Answer, list[str | None]]:
    """Nobody listens, then it is not ready, then it answers; and the keys that came."""
    keys: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("idempotency-key"))
        if len(keys) == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(503 if len(keys) == 2 else 200, json={"fine": True})

    return answer, keys


def test_read__again_until_answered(restarting: tuple[Answer, list[str | None]]) -> None:
    """A read outlasts a restart."""
    answer, keys = restarting
    assert gateway(answer).get("/v1/edition") == {"fine": True}
    assert len(keys) == 3


def test_write__again_under_the_same_key(restarting: tuple[Answer, list[str | None]]) -> None:
    """A write outlasts it too, and is the same write each time."""
    answer, keys = restarting
    assert gateway(answer).post("/v1/enterprises") == {"fine": True}
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]


def test_once__a_single_time(restarting: tuple[Answer, list[str | None]]) -> None:
    """What the API takes a single time is sent a single time, without a key."""
    answer, keys = restarting
    with pytest.raises(httpx.ConnectError):
        gateway(answer).post("/v1/accounts:completeBinding", once=True)
    assert keys == [None]


def test_patience__ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is over the last answer is what the caller gets."""
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    with pytest.raises(Problem, match="503 AWAY"):
        gateway(lambda _: httpx.Response(503, json={"reason": "AWAY"})).get("/v1/edition")


def test_refusal__at_once() -> None:
    """Any other answer is final."""
    calls: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(409, json={"reason": "NO"})

    with pytest.raises(Problem, match="NO"):
        gateway(answer).post("/v1/enterprises")
    assert len(calls) == 1
