"""The pages by which holders of accounts bind them, before an accounts service that is made up."""

from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from markupsafe import escape
from numerator.accounts.v1 import binding_pb2 as pb
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from gateway.errors import Problem
from gateway.identity import GATEWAY
from gateway.invitations import _SAID, TEMPLATE, Invitations
from gateway.limits import RequestLimits
from gateway.serving import StageLimits
from services.chassis.principal import Principal

TOKEN = "t0ken-of-forty-three-characters-0123456789a"
LINK = f"/invitations/tianshan/{TOKEN}"
STATE = "invitation.tianshan.secret"
NETWORK = "https://social.example/oauth/authorize?state=x"


@dataclass
class Accounts:
    """Remembers what it is asked, and answers, or fails."""

    asked: list[tuple[Any, Principal]] = field(default_factory=list)
    failure: Problem | None = None

    async def open(self, request: pb.OpenInvitationRequest, caller: Principal) -> pb.OpenInvitationResponse:
        self._note(request, caller)
        return pb.OpenInvitationResponse(authorization_url=NETWORK)

    async def complete(
        self, request: pb.CompleteInvitationRequest, caller: Principal
    ) -> pb.CompleteInvitationResponse:
        self._note(request, caller)
        return pb.CompleteInvitationResponse(
            row=pb.BindingRow(server="https://social.example"),
            handle="kash<b>gar",
            enterprise_display_name="Tianshan & Sons",
        )

    def _note(self, request: Any, caller: Principal) -> None:
        self.asked.append((request, caller))
        if self.failure:
            raise self.failure


class Admissions:
    """Lets in, with the limits of a stage, or not."""

    def __init__(self) -> None:
        self.limits = StageLimits()
        self.failure: Problem | None = None

    def require(self, flag: str, enterprise: str) -> Any:
        assert (flag, enterprise) == ("enterprise-beta", "enterprises/tianshan")
        if self.failure:
            raise self.failure
        return SimpleNamespace(rollout=SimpleNamespace(stage="beta", limits=self.limits))


@dataclass
class Pages:
    """The pages, and all around them."""

    accounts: Accounts
    admissions: Admissions
    scopes: list[dict[str, Any]]
    browser: httpx.AsyncClient


def pages(*, secure: bool = False) -> Pages:
    """The pages as a browser sees them."""
    accounts, admissions, scopes = Accounts(), Admissions(), []
    served = Invitations(
        admissions=admissions,
        exposures=SimpleNamespace(note=lambda _: None),
        limits=RequestLimits(credential_rate=100, tenant_rate=100, tenant_concurrency=10),
        open_invitation=accounts.open,
        complete_invitation=accounts.complete,
        secure=secure,
    )

    async def app(scope, receive, send):
        scopes.append(scope)
        await served(scope, receive, send)

    async def handler(scope, receive, send):
        if scope["path"].startswith("/invitations"):
            await app(scope, receive, send)
        else:
            await Starlette(routes=[Route("/bound", served.bound), Mount("/", app)])(scope, receive, send)

    origin = "https://gateway" if secure else "http://gateway"
    browser = httpx.AsyncClient(transport=httpx.ASGITransport(handler), base_url=origin)
    return Pages(accounts, admissions, scopes, browser)


async def test_open__sends_the_browser_to_the_network() -> None:
    """With a cookie that no script reads, and nothing that tells the network the invitation's address."""
    shown = pages()
    answer = await shown.browser.get(LINK)
    assert (answer.status_code, answer.headers["location"]) == (302, NETWORK)
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    ((request, caller),) = shown.accounts.asked
    assert (request.parent, request.token, caller) == ("enterprises/tianshan", TOKEN, GATEWAY)
    assert request.browser == answer.cookies["numerator-binding"]
    assert len(request.browser) == 43


async def test_open__token_is_in_no_path_that_is_logged() -> None:
    """Who logs the path of a request, or answers with it, has the template."""
    shown = pages()
    await shown.browser.get(LINK)
    assert shown.scopes[0]["path"] == shown.scopes[0]["route_template"] == TEMPLATE


async def test_open__cookie_is_for_https_only_where_there_is_https() -> None:
    """And for this host only."""
    answer = await pages(secure=True).browser.get(LINK)
    assert answer.headers["set-cookie"].startswith("__Host-numerator-binding=")
    assert "Secure" in answer.headers["set-cookie"]


async def test_open__windows_of_a_browser_share_a_cookie() -> None:
    """The second does not end the first; a cookie that is none of ours is replaced."""
    shown = pages()
    await shown.browser.get(LINK)
    await shown.browser.get(LINK)
    first, second = (request.browser for request, _ in shown.accounts.asked)
    assert first == second
    shown.browser.cookies.clear()
    await shown.browser.get(LINK, headers={"cookie": "numerator-binding=made-up"})
    assert shown.accounts.asked[-1][0].browser not in {first, "made-up"}


async def test_open__tells_what_the_stage_allows() -> None:
    """The service counts; the gateway knows the limit."""
    shown = pages()
    shown.admissions.limits = StageLimits.model_validate({"boundAccounts": 20})
    await shown.browser.get(LINK)
    assert dict(shown.accounts.asked[0][1].limits) == {"bound_accounts": 20}


@pytest.mark.parametrize(
    "path",
    [
        "/invitations",
        "/invitations/x",
        "/invitations/../x/y",
        f"/invitations/Ä/{TOKEN}",
        LINK + "/more",
        "/invitations/x/short",
    ],
)
async def test_open__malformed_links_are_unknown(path: str) -> None:
    """A page, and no question to anybody."""
    shown = pages()
    answer = await shown.browser.get(path)
    assert (answer.status_code, "This link does not work" in answer.text) == (404, True)
    assert not shown.accounts.asked


async def test_open__reads_only() -> None:
    """Other methods do nothing."""
    shown = pages()
    with pytest.raises(Problem) as refused:
        await shown.browser.post(LINK)
    assert refused.value.status == 405


async def test_bound__completes_what_an_invitation_began() -> None:
    """With the cookie of this browser; the page says who may do what now, and escapes what others wrote."""
    shown = pages()
    await shown.browser.get(LINK)
    answer = await shown.browser.get(
        "/bound", params={"state": STATE, "code": "c0de", "iss": "https://social.example"}
    )
    assert answer.status_code == 200
    assert "<h1>@kash&lt;b&gt;gar is connected</h1>" in answer.text
    assert "Tianshan &amp; Sons can now act for" in answer.text
    assert '<html lang="en">' in answer.text
    opened, completed = (request for request, _ in shown.accounts.asked)
    assert (completed.state, completed.code, completed.iss) == (STATE, "c0de", "https://social.example")
    assert completed.browser == opened.browser


async def test_bound__other_bindings_are_their_starters() -> None:
    """The page says what to do, as before."""
    shown = pages()
    answer = await shown.browser.get(
        "/bound", params={"state": "plain", "code": "c0de", "iss": "https://social.example"}
    )
    assert "One step left" in answer.text
    assert '"iss": "https://social.example"' in answer.text
    assert not shown.accounts.asked


@pytest.mark.parametrize("reason", sorted(_SAID))
async def test_pages__say_what_to_do(reason: str) -> None:
    """For each refusal: a heading, what to do, and the reason; with the status of the refusal."""
    shown = pages()
    shown.accounts.failure = Problem(409, reason, "for developers")
    opened = await shown.browser.get(LINK)
    completed = await shown.browser.get("/bound", params={"state": STATE, "code": "c0de"})
    for answer in (opened, completed):
        assert answer.status_code == 409
        assert f"<h1>{escape(_SAID[reason][0])}</h1>" in answer.text
        assert f"Reason: {reason}" in answer.text
        assert "for developers" not in answer.text
        assert answer.headers["content-type"].startswith("text/html")


async def test_pages__enterprise_that_is_not_admitted() -> None:
    """Nobody is sent to the network in vain."""
    shown = pages()
    shown.admissions.failure = Problem(403, "NOT_ADMITTED", "not admitted")
    answer = await shown.browser.get(LINK)
    assert answer.status_code == 403
    assert "not admitted at present" in answer.text
    assert not shown.accounts.asked


async def test_pages__unforeseen_refusals_have_a_page_too() -> None:
    """It says to try again; when that may succeed stands in the header."""
    shown = pages()
    shown.accounts.failure = Problem(503, "NETWORK_UNAVAILABLE", "away", retry_after=timedelta(seconds=30))
    answer = await shown.browser.get(LINK)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "Open the link of your invitation again" in answer.text
