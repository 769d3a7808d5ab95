"""
Members' logins at their enterprise's own identity provider: `POST /v1/sessions:startOidc` says where the browser goes, and
`GET /oidc/{enterprise}` is where the provider sends it back to. The accounts service does all that is OpenID Connect.

A cookie proves that it is the same browser, so nobody can have somebody else's browser complete a login of their own.
"""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from numerator.accounts.v1 import identity_providers_pb2 as pb
from numerator.accounts.v1 import sessions_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.browsers import BrowserSecret
from gateway.errors import Problem, invalid
from gateway.login import NO_STORE, LoginTries
from gateway.routes import not_allowed
from gateway.sessions import Sessions, device_of, read_fields

PATH = "/oidc"
TEMPLATE = f"{PATH}/{{enterprise}}"
_ENTERPRISE = re.compile(r"enterprises/[a-z0-9][a-z0-9-]{0,62}")

StartLogin = Callable[[pb.StartLoginRequest], Awaitable[pb.StartLoginResponse]]
CompleteLogin = Callable[[pb.CompleteLoginRequest], Awaitable[sessions_pb2.OpenedSession]]


class OidcLogins:
    """The two endpoints. `app` is an ASGI application for all paths under `/oidc/`."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        tries: LoginTries,
        start_login: StartLogin,
        complete_login: CompleteLogin,
        secure: bool,
    ) -> None:
        """`secure`: whether browsers reach us by HTTPS."""
        self._sessions = sessions
        self._tries = tries
        self._start = start_login
        self._complete = complete_login
        self._browser = BrowserSecret("numerator-login", secure=secure)

    async def start(self, request: Request) -> Response:
        """Say where the browser goes to log in."""
        given = await read_fields(request, required=("enterprise",))
        if not _ENTERPRISE.fullmatch(given["enterprise"]):
            raise invalid("enterprise", "must be as enterprises/{enterprise}", "NAME_MALFORMED")
        self._tries.count(request)
        browser = self._browser.of(request)
        started = await self._start(pb.StartLoginRequest(parent=given["enterprise"], browser=browser))
        response = JSONResponse(
            {
                "authorization_url": started.authorization_url,
                "expire_time": started.expire_time.ToJsonString(),
            },
            headers=NO_STORE,
        )
        self._browser.keep(browser, response)
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Where the provider sends the browser back to: complete the login, and answer with the session."""
        enterprise = f"enterprises/{scope['path'].removeprefix(f'{PATH}/')}"
        scope["route_template"] = TEMPLATE
        if not _ENTERPRISE.fullmatch(enterprise):
            raise Problem(HTTPStatus.NOT_FOUND, "NO_SUCH_ROUTE", "there is no such path")
        if scope["method"] != "GET":
            raise not_allowed({"GET"})
        response = await self._completed(Request(scope, receive), enterprise)
        await response(scope, receive, send)

    async def _completed(self, request: Request, enterprise: str) -> Response:
        self._tries.count(request)
        query = request.query_params
        opened = await self._complete(
            pb.CompleteLoginRequest(
                parent=enterprise,
                state=query.get("state", ""),
                code=query.get("code", ""),
                error=query.get("error", "")[:100],
                iss=query.get("iss", ""),
                browser=self._browser.given(request),
                **device_of(request),
            )
        )
        response = self._sessions.answer(opened)
        # The address has the code in it.
        response.headers["referrer-policy"] = "no-referrer"
        return response
