"""
How the holder of an account binds it without a login of ours: `/invitations/{enterprise}/{token}`, which an invitation's link
leads to, and `/bound`, where the network sends the browser back to.

A link starts a binding for the browser that opened it, which a cookie proves, and sends it to the network. So nobody can have
somebody else's browser complete what they have begun themselves. Whatever goes wrong, the same link can be opened again.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from http import HTTPStatus

from jinja2 import Environment
from numerator.accounts.v1 import binding_pb2 as pb
from numerator.options.v1 import options_pb2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.admission import Admissions
from gateway.bound import bound
from gateway.browsers import BrowserSecret
from gateway.callers import introduce
from gateway.catalogue import Shape
from gateway.errors import Problem, problem_headers
from gateway.identity import ANONYMOUS, GATEWAY
from gateway.limits import RequestLimits
from gateway.replica import Exposures
from gateway.routes import not_allowed
from services.chassis.principal import Principal

PATH = "/invitations"
TEMPLATE = f"{PATH}/{{enterprise}}/{{token}}"
_LINK = re.compile(rf"{PATH}/(?P<enterprise>[a-z0-9][a-z0-9-]{{0,62}})/(?P<token>[A-Za-z0-9_-]{{20,100}})")
_STATE = re.compile(r"invitation\.(?P<enterprise>[a-z0-9][a-z0-9-]{0,62})\.[A-Za-z0-9_-]{1,100}")
_FEATURE = (
    pb.DESCRIPTOR.services_by_name["BindingService"]
    .methods_by_name["OpenInvitation"]
    .GetOptions()
    .Extensions[options_pb2.access]
    .feature
)
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    # The address of the page has the invitation's token in it.
    "referrer-policy": "no-referrer",
}
_AGAIN = "Open the link of your invitation again to try once more."
_ASK = "Ask whoever invited you for a new link."
_SAID: Mapping[str, tuple[str, str]] = {
    "INVITATION_UNKNOWN": (
        "This link does not work",
        "There is no such invitation, or a newer link took its place. " + _ASK,
    ),
    "INVITATION_EXPIRED": ("This link has expired", _ASK),
    "INVITATION_CANCELLED": (
        "This invitation was cancelled",
        "Nothing was changed at your account. If you expected to be invited, ask whoever sent you the link.",
    ),
    "INVITATION_USED": ("This account is connected already", "There is nothing left for you to do."),
    "BINDING_STATE_INVALID": (
        "This browser has not started this",
        "It must be completed in the browser in which you opened the link. " + _AGAIN,
    ),
    "BINDING_STATE_EXPIRED": ("That took longer than ten minutes", _AGAIN),
    "BINDING_STATE_USED": ("This page was shown before", _AGAIN),
    "AUTHORIZATION_DENIED": ("You did not agree", "Nothing was connected. " + _AGAIN),
    "AUTHORIZATION_REFUSED": ("The network did not confirm", _AGAIN),
    "AUTHORIZATION_INCOMPLETE": (
        "Some rights are missing",
        "The network did not grant all the rights that were asked for. Open the link again, and agree to all of them.",
    ),
    "AUTHORIZATION_MISMATCH": ("The network's answer does not fit", _AGAIN),
    "AUTHORIZATION_ISSUER": ("The answer came from another server", _AGAIN),
    "ACCOUNT_BOUND_ELSEWHERE": (
        "This account is connected with another company",
        "That company has to release it first. If you meant another account, open the link again and log in with that one.",
    ),
    "STAGE_LIMIT_REACHED": (
        "No more accounts can be connected now",
        "The company that invited you has as many accounts as it may have. Tell whoever invited you.",
    ),
    "NOT_ADMITTED": (
        "Accounts cannot be connected now",
        "The company that invited you is not admitted at present. Tell whoever invited you.",
    ),
    "RATE_LIMITED": ("Too many requests", "Wait for a moment. " + _AGAIN),
}
_OTHERWISE = ("That did not work", "Nothing was connected. Wait for a moment. " + _AGAIN)

_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:18px/1.6 system-ui,sans-serif;max-width:38rem;margin:12vh auto;padding:0 1.5rem;color:#1c2430;background:#fff}
h1{font-size:1.9rem;line-height:1.25}p.r{color:#5a6676;font-size:.9rem}</style></head>
<body><main><h1>{{ title }}</h1><p>{{ text }}</p>{% if reason %}<p class="r">Reason: {{ reason }}</p>{% endif %}</main></body>
</html>""")

OpenInvitation = Callable[[pb.OpenInvitationRequest, Principal], Awaitable[pb.OpenInvitationResponse]]
CompleteInvitation = Callable[
    [pb.CompleteInvitationRequest, Principal], Awaitable[pb.CompleteInvitationResponse]
]


class Invitations:
    """The two pages. `app` is an ASGI application for all paths under `/invitations/`."""

    def __init__(
        self,
        *,
        admissions: Admissions,
        exposures: Exposures,
        limits: RequestLimits,
        open_invitation: OpenInvitation,
        complete_invitation: CompleteInvitation,
        secure: bool,
    ) -> None:
        """`secure`: whether browsers reach us by HTTPS, so that the cookie is never sent otherwise."""
        self._admissions = admissions
        self._exposures = exposures
        self._limits = limits
        self._open = open_invitation
        self._complete = complete_invitation
        self._browser = BrowserSecret("numerator-binding", secure=secure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        # Whatever is logged or answered from here on has no token in it.
        scope["path"] = scope["route_template"] = TEMPLATE
        if scope["method"] != "GET":
            raise not_allowed({"GET"})
        response = await self._answered(scope, lambda: self._opened(Request(scope, receive), path))
        await response(scope, receive, send)

    async def bound(self, request: Request) -> Response:
        """Complete what an invitation has started; for all else say what to do with what the network handed over."""
        found = _STATE.fullmatch(request.query_params.get("state", ""))
        if found is None:
            return await bound(request)
        return await self._answered(request.scope, lambda: self._completed(request, found["enterprise"]))

    async def _answered(self, scope: Scope, answer: Callable[[], Awaitable[Response]]) -> Response:
        """The answer, or a page that says what went wrong and what to do."""
        try:
            with self._limits.request(*introduce(scope, ANONYMOUS, Shape.UNARY)):
                return await answer()
        except Problem as problem:
            title, text = _SAID.get(problem.reason, _OTHERWISE)
            return _page(title, text, problem.reason, problem.status, problem_headers(problem))

    async def _opened(self, request: Request, path: str) -> Response:
        found = _LINK.fullmatch(path)
        if found is None:
            raise Problem(HTTPStatus.NOT_FOUND, "INVITATION_UNKNOWN", "there is no such invitation")
        enterprise = f"enterprises/{found['enterprise']}"
        browser = self._browser.of(request)
        opened = await self._open(
            pb.OpenInvitationRequest(parent=enterprise, token=found["token"], browser=browser),
            self._caller(enterprise),
        )
        response = RedirectResponse(opened.authorization_url, HTTPStatus.FOUND, headers=_HEADERS)
        self._browser.keep(browser, response)
        return response

    async def _completed(self, request: Request, enterprise_id: str) -> Response:
        query = request.query_params
        enterprise = f"enterprises/{enterprise_id}"
        completed = await self._complete(
            pb.CompleteInvitationRequest(
                parent=enterprise,
                state=query["state"],
                code=query.get("code", ""),
                error=query.get("error", "")[:100],
                iss=query.get("iss", ""),
                browser=self._browser.given(request),
            ),
            self._caller(enterprise),
        )
        server = completed.row.server.partition("://")[2]
        return _page(
            f"@{completed.handle} is connected",
            f"{completed.enterprise_display_name} can now act for @{completed.handle} on {server}. "
            "You can close this page. To end it, ask the company, or revoke the access in your account's settings.",
        )

    def _caller(self, enterprise: str) -> Principal:
        """The gateway, with what the enterprise's stage allows. Raises Problem when the enterprise is not admitted."""
        stage = self._admissions.require(_FEATURE, enterprise).rollout
        if stage is None:
            return GATEWAY
        self._exposures.note((_FEATURE, enterprise, stage.stage))
        return replace(GATEWAY, limits=stage.limits.told())


def _page(
    title: str,
    text: str,
    reason: str = "",
    status: int = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    content = _PAGE.render(title=title, text=text, reason=reason)
    return HTMLResponse(content, status, headers={**(headers or {}), **_HEADERS})
