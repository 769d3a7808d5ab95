"""Logins by identity providers at the gateway, before an accounts service that is made up."""

from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from numerator.accounts.v1 import identity_providers_pb2 as pb
from numerator.accounts.v1 import sessions_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.errors import Problem
from gateway.limits import TokenBuckets
from gateway.login import LoginTries
from gateway.oidc import TEMPLATE, OidcLogins

BACK = "/oidc/tianshan?state=s&code=c&iss=https%3A%2F%2Flogin.example"
START = {"enterprise": "enterprises/tianshan"}


class Sessions:
    """Answers with the session that it is given."""

    def answer(self, opened: sessions_pb2.OpenedSession) -> JSONResponse:
        return JSONResponse({"session": opened.session.name})


@dataclass
class Gateway:
    """The endpoints, what accounts was asked, and a browser."""

    asked: list[Any] = field(default_factory=list)
    scopes: list[Any] = field(default_factory=list)
    secure: bool = False

    async def start(self, request: pb.StartLoginRequest) -> pb.StartLoginResponse:
        self.asked.append(request)
        return pb.StartLoginResponse(authorization_url="https://login.example/authorize?state=s")

    async def complete(self, request: pb.CompleteLoginRequest) -> sessions_pb2.OpenedSession:
        self.asked.append(request)
        return sessions_pb2.OpenedSession(session=sessions_pb2.Session(name="session"))

    def browser(self, burst: int = 100) -> httpx.AsyncClient:
        """A browser of this gateway."""
        buckets = TokenBuckets(0.01, burst)
        logins = OidcLogins(
            sessions=Sessions(),  # type: ignore[arg-type]
            tries=LoginTries(by_account=buckets, by_address=buckets),
            start_login=self.start,
            complete_login=self.complete,
            secure=self.secure,
        )

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.scopes.append(scope)
            if scope["path"] == "/v1/sessions:startOidc":
                await (await logins.start(Request(scope, receive)))(scope, receive, send)
            else:
                await logins(scope, receive, send)

        origin = "https://gateway" if self.secure else "http://gateway"
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=origin)


async def test_login__is_completed_by_the_browser_that_began() -> None:
    """A cookie that no script reads proves it; the answer is kept nowhere, and tells nobody the address with the code."""
    gateway = Gateway()
    browser = gateway.browser()
    started = await browser.post("/v1/sessions:startOidc", json=START)
    assert started.json()["authorization_url"] == "https://login.example/authorize?state=s"
    assert started.headers["cache-control"] == "no-store"
    cookie = started.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    answer = await browser.get(BACK, headers={"user-agent": "browser/1"})
    assert (answer.json(), answer.headers["referrer-policy"]) == ({"session": "session"}, "no-referrer")
    begun, completed = gateway.asked
    assert (begun.parent, completed.parent) == ("enterprises/tianshan", "enterprises/tianshan")
    assert (completed.state, completed.code, completed.iss) == ("s", "c", "https://login.example")
    assert (completed.browser, len(begun.browser)) == (begun.browser, 43)
    assert (completed.user_agent, completed.address) == ("browser/1", "127.0.0.1")
    assert gateway.scopes[-1]["route_template"] == TEMPLATE


async def test_cookie__of_another_browser_or_none() -> None:
    """Accounts is told what the browser shows: nothing, if that is none of ours."""
    gateway = Gateway()
    for shown in ({}, {"cookie": "numerator-login=made-up"}):
        await gateway.browser().get(BACK, headers=shown)
        assert gateway.asked[-1].browser == ""


async def test_cookie__is_for_https_only_where_there_is_https() -> None:
    """And for this host only."""
    answer = await Gateway(secure=True).browser().post("/v1/sessions:startOidc", json=START)
    assert answer.headers["set-cookie"].startswith("__Host-numerator-login=")
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("POST", "/v1/sessions:startOidc", {}, 400, "INVALID_ARGUMENT"),
        ("POST", "/v1/sessions:startOidc", {"enterprise": "enterprises/X"}, 400, "INVALID_ARGUMENT"),
        ("POST", "/v1/sessions:startOidc", {**START, "next": "https://x.example"}, 400, "INVALID_ARGUMENT"),
        ("GET", "/oidc/", None, 404, "NO_SUCH_ROUTE"),
        ("GET", "/oidc", None, 404, "NO_SUCH_ROUTE"),
        ("GET", "/oidc/tianshan/members", None, 404, "NO_SUCH_ROUTE"),
        ("POST", "/oidc/tianshan", {}, 405, "METHOD_NOT_ALLOWED"),
        ("HEAD", "/oidc/tianshan", None, 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_errors(method: str, path: str, body: Any, status: int, reason: str) -> None:
    """Accounts is asked nothing. A HEAD, as of those who look at links, uses up no state."""
    gateway = Gateway()
    with pytest.raises(Problem) as problem:
        await gateway.browser().request(method, path, json=body)
    assert (problem.value.status, problem.value.reason) == (status, reason)
    assert not gateway.asked


async def test_tries__are_limited() -> None:
    """By address, as those by password are."""
    gateway = Gateway()
    browser = gateway.browser(burst=2)
    await browser.post("/v1/sessions:startOidc", json=START)
    await browser.get(BACK)
    with pytest.raises(Problem) as problem:
        await browser.get(BACK)
    assert problem.value.reason == "TOO_MANY_LOGINS"
