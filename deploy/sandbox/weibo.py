"""
The part of Weibo's API (v2) that lets an account be bound: OAuth2 of its own kind, and who somebody is.

Of the same people as the Mastodon API, under other ids (`uid`). Errors have Weibo's form: a number in the body.
"""

import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.sandbox.calls import ApiError, Call, Operation
from deploy.sandbox.entities import Entities, Json
from deploy.sandbox.model import Account, Application, Token
from deploy.sandbox.oauth import CODE_SECONDS, equal, signed_in
from deploy.sandbox.pages import Pages
from deploy.sandbox.settings import SandboxSettings
from deploy.sandbox.store import Network

SCOPE = "weibo"
"""Of apps and tokens of this API. The Mastodon API has no such scope, so that neither takes the other's tokens."""
TOKEN_SECONDS = 30 * 86_400.0
"""How long tokens live, unless control says otherwise: here they always expire."""
_UID_OFFSET = 10**18


class WeiboError(ApiError):
    """An answer that is not a success; the number says what is wrong."""

    def __init__(self, code: int, error: str, path: str) -> None:
        super().__init__(400, error)
        self.body = {"error": error, "error_code": code, "request": path}


@dataclass(slots=True)
class _Grant:
    """What an authorization code stands for. Codes live in memory, and work once."""

    application: Application
    account: Account
    redirect_uri: str
    expires_at: float


class _UntrustedError(Exception):
    """The request cannot be trusted enough to send the browser anywhere."""


class Weibo:
    """OAuth2 and `users/show`."""

    def __init__(self, settings: SandboxSettings, network: Network, pages: Pages) -> None:
        self._network = network
        self._pages = pages
        self._entities = Entities(network, settings.url)
        self._grants: dict[str, _Grant] = {}

    def operations(self) -> list[Operation]:
        return [
            Operation("POST", "/oauth2/access_token", self.access_token),
            Operation("POST", "/oauth2/get_token_info", self.get_token_info),
            Operation("POST", "/oauth2/revokeoauth2", self.revokeoauth2),
            Operation("GET", "/2/users/show.json", self.users_show),
        ]

    def routes(self) -> list[Route]:
        """The pages for people."""
        return [
            Route("/oauth2/authorize", self.ask, methods=["GET"]),
            Route("/oauth2/authorize", self.decide, methods=["POST"]),
        ]

    # The user's decision

    async def ask(self, request: Request) -> Response:
        try:
            application, parameters = self._request(request.query_params)
        except _UntrustedError as error:
            return self._pages.problem(str(error), 400)
        return self._page(application, parameters)

    async def decide(self, request: Request) -> Response:
        form = await request.form()
        try:
            application, parameters = self._request(form)
        except _UntrustedError as error:
            return self._pages.problem(str(error), 400)
        if form.get("decision") == "deny":
            return _redirect(
                parameters,
                error_uri="/oauth2/authorize",
                error="access_denied",
                error_description="user denied your request.",
                error_code="21330",
            )
        account = signed_in(self._network, form)
        if account is None:
            return self._page(application, parameters, error="This is not a user name and its password.")
        code = secrets.token_hex(16)
        self._grants[code] = _Grant(
            application, account, parameters["redirect_uri"], time.time() + CODE_SECONDS
        )
        return _redirect(parameters, code=code)

    def _request(self, form: QueryParams | FormData) -> tuple[Application, dict[str, str]]:
        names = ("client_id", "redirect_uri", "response_type", "state", "scope", "forcelogin", "display")
        values = {name: form.get(name) for name in names}
        parameters = {name: value for name, value in values.items() if isinstance(value, str) and value}
        application = self._application(parameters.get("client_id", ""))
        if application is None:
            raise _UntrustedError("Error 21324: the application that sent you here is not known.")
        if parameters.get("redirect_uri") not in application.redirect_uris:
            raise _UntrustedError("Error 21322: the redirect URI is not the one that the application has.")
        if parameters.get("response_type", "code") != "code":
            raise _UntrustedError("Error 21329: this type of response is not supported.")
        return application, parameters

    def _page(self, application: Application, parameters: dict[str, str], error: str = "") -> Response:
        return self._pages.render(
            "authorize.html",
            code=401 if error else 200,
            action="/oauth2/authorize",
            application=application,
            parameters=parameters,
            scopes=[("all", "Use your account as Weibo's apps do")],
            users=list(self._network.accounts.values()),
            error=error,
        )

    # Tokens

    async def access_token(self, call: Call) -> Response:
        asked = await call.parameters()
        path = call.request.url.path
        application = self._application(asked.text("client_id") or "")
        if application is None or not equal(application.client_secret, asked.text("client_secret") or ""):
            raise WeiboError(21324, "invalid_client", path)
        if asked.text("grant_type") != "authorization_code":
            raise WeiboError(21328, "unsupported_grant_type", path)
        grant = self._grants.get(asked.text("code") or "")
        if grant is None or grant.application is not application or time.time() > grant.expires_at:
            raise WeiboError(21325, "invalid_grant", path)
        if asked.text("redirect_uri") != grant.redirect_uri:
            raise WeiboError(21322, "redirect_uri_mismatch", path)
        del self._grants[asked.text("code") or ""]
        seconds = self._network.token_seconds
        token = self._network.create_token(
            application, grant.account, [SCOPE], TOKEN_SECONDS if seconds is None else seconds
        )
        life = str(_seconds_left(token))
        told = {"access_token": token.value, "remind_in": life, "expires_in": life}
        return JSONResponse({**told, "uid": str(uid_of(grant.account)), "isRealName": "true"})

    async def get_token_info(self, call: Call) -> Response:
        token, account = await self._token(call)
        return JSONResponse(
            {
                "uid": uid_of(account),
                "appkey": token.application.client_id,
                "scope": None,
                "create_at": int(token.created_at.timestamp()),
                "expire_in": str(_seconds_left(token)),
            }
        )

    async def revokeoauth2(self, call: Call) -> Response:
        token, _ = await self._token(call)
        self._network.revoke_token(token)
        return JSONResponse({"result": "true"})

    # People

    async def users_show(self, call: Call) -> Response:
        await self._token(call)
        asked = await call.parameters()
        wanted = asked.text("uid"), asked.text("screen_name")
        account = next(
            (
                each
                for each in self._network.accounts.values()
                if str(uid_of(each)) == wanted[0] or each.username == wanted[1]
            ),
            None,
        )
        if account is None:
            raise WeiboError(20003, "User does not exists!", call.request.url.path)
        return JSONResponse(self._user(account))

    def _user(self, account: Account) -> Json:
        return {
            "id": uid_of(account),
            "idstr": str(uid_of(account)),
            "screen_name": account.username,
            "name": account.display_name,
            "description": "",
            "gender": "n",
            "followers_count": account.followers,
            "friends_count": 0,
            "statuses_count": len(account.statuses),
            "profile_image_url": self._entities.avatar(account),
            "verified": False,
        }

    async def _token(self, call: Call) -> tuple[Token, Account]:
        """The token of a call, in a parameter or as `Authorization: OAuth2 …`, and whose it is."""
        kind, _, header = call.request.headers.get("authorization", "").partition(" ")
        asked = await call.parameters()
        given = header.strip() if kind == "OAuth2" else asked.text("access_token") or ""
        known = self._network.tokens.get(given)
        if known is None or known.account is None or not known.allows(SCOPE):
            raise WeiboError(21332, "invalid_access_token", call.request.url.path)
        if known.expired:
            raise WeiboError(21327, "expired_token", call.request.url.path)
        return known, known.account

    def _application(self, client_id: str) -> Application | None:
        application = self._network.applications.get(client_id)
        return application if application and SCOPE in application.scopes else None


def uid_of(account: Account) -> int:
    """The account's id in this API: another number than in the Mastodon API, as on two networks."""
    return account.id + _UID_OFFSET


def _seconds_left(token: Token) -> int:
    return round(token.expires_at.timestamp() - time.time()) if token.expires_at else 0


def _redirect(parameters: dict[str, str], **answer: str) -> Response:
    if state := parameters.get("state"):
        answer["state"] = state
    uri = parameters["redirect_uri"]
    return RedirectResponse(f"{uri}{'&' if urlsplit(uri).query else '?'}{urlencode(answer)}", 302)
