"""Asking the gateway as an operator, of a gateway that is made up."""

import json
from pathlib import Path

import httpx
import pytest

from deploy.compose import operator
from deploy.compose.settings import ComposeSettings
from deploy.compose.stack import Stack, StackError

Requests = list[httpx.Request]


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """With the operator's secret."""
    (tmp_path / "operator-client-secret").write_text("hush")
    return Stack(ComposeSettings(numerator_secrets=tmp_path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Requests:
    """What a gateway is asked that knows the operator and one enterprise."""
    asked: Requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        match request.url.path:
            case "/oauth2/token":
                return httpx.Response(200, json={"access_token": "t"})
            case "/v1/enterprises/x/freezes":
                return httpx.Response(200, json={"freezes": []})
            case "/v1/enterprises/x/clients/c":
                return httpx.Response(204)
            case _:
                return httpx.Response(404, json={"reason": "NOT_FOUND"})

    real = httpx.Client
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(operator.httpx, "Client", lambda **more: real(transport=transport, **more))
    return asked


def test_ask__is_the_operator(stack: Stack, asked: Requests) -> None:
    """With a token for the secret, and a key that lets the gateway know a repetition."""
    assert operator.ask(stack, "POST", "/v1/enterprises/x/freezes", {"reason": "r"}) == {"freezes": []}

    login, request = asked
    assert login.headers["authorization"] == httpx.BasicAuth("operator", "hush")._auth_header
    assert (request.method, request.headers["authorization"]) == ("POST", "Bearer t")
    assert request.headers["idempotency-key"]
    assert json.loads(request.content) == {"reason": "r"}


def test_ask__no_content__is_nothing(stack: Stack, asked: Requests) -> None:
    """As of what was deleted."""
    assert operator.ask(stack, "DELETE", "/v1/enterprises/x/clients/c") == {}


def test_ask__refused__says_why(stack: Stack, asked: Requests) -> None:
    """With the gateway's own words."""
    with pytest.raises(StackError, match=r"404.*NOT_FOUND"):
        operator.ask(stack, "GET", "/v1/enterprises/y")
