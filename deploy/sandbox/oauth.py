"""Applications, and the OAuth2 flows by which they get tokens."""

import base64
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from urllib.parse import unquote_plus, urlencode, urlsplit

from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.sandbox.calls import Access, ApiError, Call, Operation, Parameters
from deploy.sandbox.entities import Entities
from deploy.sandbox.model import Account, Application, Token
from deploy.sandbox.pages import Pages
from deploy.sandbox.settings import SandboxSettings
from deploy.sandbox.store import Network

OUT_OF_BAND = "urn:ietf:wg:oauth:2.0:oob"
CODE_SECONDS = 600
SCOPES = {
    "profile": "Read only your profile",
    "read": "Read all of your account's data",
    "read:accounts": "See accounts",
    "read:notifications": "See your notifications",
    "read:statuses": "See posts",
    "write": "Change all of your account's data",
    "write:accounts": "Change your profile",
    "write:favourites": "Favourite posts",
    "write:media": "Upload media files",
    "write:statuses": "Publish, repost and delete posts",
    "follow": "Change account relationships",
    "push": "Receive push notifications",
}
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(slots=True)
class Grant:
    """What an authorization code stands for. Codes live in memory: a restart asks the user again."""

    application: Application
    account: Account
    redirect_uri: str
    scopes: list[str]
    challenge: str | None
    expires_at: float
    token: Token | None = None
    """The token it was exchanged for; a second exchange revokes it."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request for authorization whose client and redirect URI are known to belong together."""

    application: Application
    redirect_uri: str
    parameters: dict[str, str]
    scopes: list[str]

    def problem(self) -> tuple[str, str] | None:
        """What is wrong with the rest, as an OAuth error and its description."""
        challenge = self.parameters.get("code_challenge", "")
        method = self.parameters.get("code_challenge_method", "plain")
        if self.parameters.get("response_type") != "code":
            return (
                "unsupported_response_type",
                "The authorization server does not support this response type.",
            )
        if not set(self.scopes) <= set(self.application.scopes):
            return "invalid_scope", "The requested scope is invalid, unknown, or malformed."
        if challenge and method != "S256":
            return "invalid_request", "The code_challenge_method must be S256."
        if challenge and not _CHALLENGE.fullmatch(challenge):
            return "invalid_request", "The code_challenge is malformed."
        return None

    def redirect(self, **answer: str) -> Response:
        """Send the browser back to the client; `state` goes with it."""
        if state := self.parameters.get("state"):
            answer["state"] = state
        if self.redirect_uri == OUT_OF_BAND:
            return RedirectResponse(f"/oauth/authorize/native?{urlencode(answer)}", 302)
        joint = "&" if urlsplit(self.redirect_uri).query else "?"
        return RedirectResponse(f"{self.redirect_uri}{joint}{urlencode(answer)}", 302)


class AuthorizationError(Exception):
    """The request cannot be trusted enough to send the browser anywhere."""


class OAuth:
    """The authorization server."""

    def __init__(self, settings: SandboxSettings, network: Network, pages: Pages) -> None:
        self._settings = settings
        self._network = network
        self._pages = pages
        self._entities = Entities(network, settings.url)
        self._grants: dict[str, Grant] = {}

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/.well-known/oauth-authorization-server", self.metadata),
            Operation("POST", "/api/v1/apps", self.create_app),
            Operation("GET", "/api/v1/apps/verify_credentials", self.verify_app, Access.TOKEN),
            Operation("POST", "/oauth/token", self.token),
            Operation("POST", "/oauth/revoke", self.revoke),
            Operation(
                "GET", "/oauth/userinfo", self.userinfo, Access.USER, ("profile", "read", "read:accounts")
            ),
        ]

    def routes(self) -> list[Route]:
        """The pages for people."""
        return [
            Route("/oauth/authorize", self.ask, methods=["GET"]),
            Route("/oauth/authorize", self.decide, methods=["POST"]),
            Route("/oauth/authorize/native", self.show_code, methods=["GET"]),
        ]

    async def metadata(self, _: Call) -> Response:
        url = self._settings.url
        return JSONResponse(
            {
                "issuer": url + "/",
                "authorization_endpoint": f"{url}/oauth/authorize",
                "token_endpoint": f"{url}/oauth/token",
                "revocation_endpoint": f"{url}/oauth/revoke",
                "userinfo_endpoint": f"{url}/oauth/userinfo",
                "app_registration_endpoint": f"{url}/api/v1/apps",
                "scopes_supported": list(SCOPES),
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    async def create_app(self, call: Call) -> Response:
        parameters = await call.parameters()
        name = parameters.text("client_name")
        uris = [uri for value in parameters.texts("redirect_uris") for uri in value.split()]
        scopes = (parameters.text("scopes") or "read").split()
        if not name:
            raise ApiError(422, "Validation failed: Application name can't be blank")
        if not uris or not all(map(_is_redirect_uri, uris)):
            raise ApiError(422, "Validation failed: Redirect URI must be an absolute URI.")
        if not set(scopes) <= set(SCOPES):
            raise ApiError(422, "Validation failed: Scopes doesn't match configured on the server.")
        made = self._network.create_application(name, uris, scopes, parameters.text("website"))
        secret = {"client_id": made.client_id, "client_secret": made.client_secret}
        return JSONResponse(self._entities.application(made) | secret | {"client_secret_expires_at": 0})

    async def verify_app(self, call: Call) -> Response:
        if call.token is None:
            raise ApiError(401, "The access token is invalid")
        return JSONResponse(self._entities.application(call.token.application))

    async def userinfo(self, call: Call) -> Response:
        return JSONResponse(
            {
                "iss": self._settings.url + "/",
                "sub": self._entities.actor(call.me),
                "name": call.me.display_name,
                "preferred_username": call.me.username,
                "profile": f"{self._settings.url}/@{call.me.username}",
                "picture": self._entities.avatar(call.me),
            }
        )

    # The user's decision

    async def ask(self, request: Request) -> Response:
        try:
            asked = self._request(request.query_params)
        except AuthorizationError as error:
            return self._pages.problem(str(error), 400)
        if problem := asked.problem():
            return asked.redirect(error=problem[0], error_description=problem[1])
        return self._page(asked)

    async def decide(self, request: Request) -> Response:
        form = await request.form()
        try:
            asked = self._request(form)
        except AuthorizationError as error:
            return self._pages.problem(str(error), 400)
        if problem := asked.problem():
            return asked.redirect(error=problem[0], error_description=problem[1])
        if form.get("decision") == "deny":
            return asked.redirect(
                error="access_denied", error_description="The resource owner denied the request."
            )
        account = signed_in(self._network, form)
        if account is None:
            return self._page(asked, error="This is not a user name and its password.")
        code = secrets.token_urlsafe(32)
        challenge = asked.parameters.get("code_challenge") or None
        self._grants[code] = Grant(
            asked.application,
            account,
            asked.redirect_uri,
            asked.scopes,
            challenge,
            time.time() + CODE_SECONDS,
        )
        return asked.redirect(code=code)

    async def show_code(self, request: Request) -> Response:
        return self._pages.render("code.html", authorization_code=request.query_params.get("code", ""))

    def _request(self, form: QueryParams | FormData) -> AuthorizationRequest:
        names = ("response_type", "client_id", "redirect_uri", "scope", "state")
        values = {name: form.get(name) for name in (*names, "code_challenge", "code_challenge_method")}
        parameters = {name: value for name, value in values.items() if isinstance(value, str) and value}
        application = self._network.applications.get(parameters.get("client_id", ""))
        if application is None:
            raise AuthorizationError("The application that sent you here is not known.")
        redirect_uri = parameters.get("redirect_uri", "")
        if redirect_uri not in application.redirect_uris:
            raise AuthorizationError("The redirect URI is not one that the application registered.")
        scopes = parameters.get("scope", "read").split()
        return AuthorizationRequest(application, redirect_uri, parameters, scopes)

    def _page(self, asked: AuthorizationRequest, error: str = "") -> Response:
        return self._pages.render(
            "authorize.html",
            code=401 if error else 200,
            action="/oauth/authorize",
            application=asked.application,
            parameters=asked.parameters,
            scopes=[(scope, SCOPES.get(scope, scope)) for scope in asked.scopes],
            users=list(self._network.accounts.values()),
            error=error,
        )

    # Tokens

    async def token(self, call: Call) -> Response:
        parameters = await call.parameters()
        grant_type = parameters.require("grant_type")
        application = self._client(call, parameters)
        if application is None:
            raise ApiError(
                401,
                "invalid_client",
                "Client authentication failed due to unknown client, no client authentication included, "
                "or unsupported authentication method.",
            )
        match grant_type:
            case "authorization_code":
                token = self._exchange(application, parameters)
            case "refresh_token":
                token = self._refresh(application, parameters)
            case "client_credentials":
                scopes = (parameters.text("scope") or "read").split()
                if not set(scopes) <= set(application.scopes):
                    raise ApiError(
                        400, "invalid_scope", "The requested scope is invalid, unknown, or malformed."
                    )
                token = self._network.create_token(application, None, scopes)
            case _:
                raise ApiError(
                    400, "unsupported_grant_type", "The authorization grant type is not supported."
                )
        return JSONResponse(self._entities.token(token), headers={"Cache-Control": "no-store"})

    async def revoke(self, call: Call) -> Response:
        """Idempotent: a token that is not there is revoked already."""
        parameters = await call.parameters()
        application = self._client(call, parameters)
        token = self._network.tokens.get(parameters.text("token") or "")
        if application is None or (token and token.application is not application):
            raise ApiError(403, "unauthorized_client", "You are not authorized to revoke this token")
        if token:
            self._network.revoke_token(token)
        return JSONResponse({})

    def _exchange(self, application: Application, parameters: Parameters) -> Token:
        """A code is good for one token, for the client it was made for, with its challenge's verifier."""
        grant = self._grants.get(parameters.require("code"))
        if grant and grant.application is application and grant.token:
            self._network.revoke_token(grant.token)
        verifier = parameters.text("code_verifier")
        if (
            grant is None
            or grant.token
            or grant.application is not application
            or time.time() > grant.expires_at
            or parameters.text("redirect_uri") != grant.redirect_uri
            or (_challenge(verifier) if verifier else None) != grant.challenge
        ):
            raise ApiError(
                400,
                "invalid_grant",
                "The provided authorization grant is invalid, expired, revoked, does not match the "
                "redirection URI used in the authorization request, or was issued to another client.",
            )
        grant.token = self._network.create_token(application, grant.account, grant.scopes)
        return grant.token

    def _refresh(self, application: Application, parameters: Parameters) -> Token:
        token = self._network.refresh_token(application, parameters.require("refresh_token"))
        if token is None:
            raise ApiError(400, "invalid_grant", "The refresh token is invalid, or was used.")
        return token

    def _client(self, call: Call, parameters: Parameters) -> Application | None:
        client_id, client_secret = _basic(call.request) or (
            parameters.text("client_id") or "",
            parameters.text("client_secret") or "",
        )
        application = self._network.applications.get(client_id)
        return application if application and equal(application.client_secret, client_secret) else None


def _basic(request: Request) -> tuple[str, str] | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return None
    return unquote_plus(name), unquote_plus(secret)


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def signed_in(network: Network, form: FormData) -> Account | None:
    """Who decides: by name and password, or just picked from the list, because nobody here has anything to hide."""
    if form.get("decision") == "pick":
        return network.accounts_by_name.get(str(form.get("pick", "")).lower())
    account = network.accounts_by_name.get(str(form.get("username", "")).lower())
    return account if account and equal(account.password, str(form.get("password", ""))) else None


def equal(expected: str, given: str) -> bool:
    """Whether two secrets are the same; in the same time when they are not."""
    return hmac.compare_digest(expected.encode(), given.encode(errors="replace"))


def _is_redirect_uri(uri: str) -> bool:
    if uri == OUT_OF_BAND:
        return True
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    web = parts.scheme in ("http", "https")
    return (
        bool(parts.scheme)
        and parts.scheme not in ("javascript", "data", "vbscript")
        and not parts.fragment
        and (bool(parts.netloc) or not web)
    )
