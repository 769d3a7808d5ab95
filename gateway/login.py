"""Where clients get access tokens: `POST /oauth2/token`. Members: see `gateway.sessions`."""

import base64
import binascii
from collections.abc import Awaitable, Callable
from datetime import timedelta
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote_plus

from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.options.v1 import options_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway import metrics
from gateway.errors import Problem, whole_seconds
from gateway.identity import CLIENT_LIFETIME, AccessTokens
from gateway.limits import Body, TokenBuckets
from services.chassis.clock import Clock
from services.chassis.principal import Principal

BODY_BYTES = 16 * 1024
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}
AuthenticateClient = Callable[[pb.AuthenticateClientRequest], Awaitable[pb.Identity]]


class OAuthError(Exception):
    """An error answer of the token endpoint, in the form of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.status = status


class LoginTries:
    """Limits tries to log in, in this process's memory, by account and by address. Accounts counts failed ones exactly."""

    def __init__(self, *, by_account: TokenBuckets, by_address: TokenBuckets) -> None:
        self._by_account = by_account
        self._by_address = by_address

    def count(self, request: Request, account: str = "") -> None:
        """Count a try, before a secret is looked at. Raises 429 `TOO_MANY_LOGINS`."""
        address = request.client.host if request.client else ""
        waits = [self._by_address.take(address), self._by_account.take(account) if account else None]
        wait = max((each for each in waits if each is not None), default=None)
        if wait is not None:
            metrics.limited.add(1, {"limit": "login"})
            raise Problem(
                429,
                "TOO_MANY_LOGINS",
                f"too many tries to log in; try again in {whole_seconds(wait)} s",
                retry_after=max(wait, timedelta(seconds=1)),
            )


class Login:
    """The endpoint that gives clients access tokens."""

    def __init__(
        self,
        *,
        tokens: AccessTokens,
        clock: Clock,
        tries: LoginTries,
        authenticate_client: AuthenticateClient,
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._tries = tries
        self._authenticate_client = authenticate_client

    async def token(self, request: Request) -> Response:
        """OAuth2 client credentials (RFC 6749, section 4.4)."""
        try:
            return await self._token(request)
        except OAuthError as error:
            headers = (
                {"www-authenticate": 'Basic realm="numerator"'}
                if error.status == HTTPStatus.UNAUTHORIZED
                else {}
            )
            return _oauth_error(error.error, str(error), error.status, headers)
        except Problem as problem:
            if problem.status == HTTPStatus.UNAUTHORIZED:
                headers = {"www-authenticate": 'Basic realm="numerator"'}
                return _oauth_error("invalid_client", "unknown client or wrong secret", 401, headers)
            if problem.status == HTTPStatus.BAD_REQUEST:
                return _oauth_error("invalid_request", problem.detail, 400, {})
            raise

    async def _token(self, request: Request) -> Response:
        form = await _form(request)
        client_id, secret = _client_credentials(request.headers.get("authorization"), form)
        grant = form.get("grant_type")
        if grant is None:
            raise OAuthError("invalid_request", "grant_type is missing")
        if grant != "client_credentials":
            raise OAuthError("unsupported_grant_type", "only client_credentials is offered")
        self._tries.count(request, f"client {client_id}")
        identity = await self._authenticate_client(
            pb.AuthenticateClientRequest(client_id=client_id, client_secret=secret)
        )
        principal = principal_of(identity, set(form["scope"].split()) if form.get("scope") else None)
        token = self._tokens.issue(principal, CLIENT_LIFETIME, self._clock.now(), identity)
        return JSONResponse(token.reply(), headers=NO_STORE)


def principal_of(identity: pb.Identity, wanted: set[str] | None = None) -> Principal:
    """The principal of an identity, with the scopes that were asked for. Raises `invalid_scope`."""
    scopes = frozenset(identity.scopes)
    grants = {grant.right: frozenset(grant.groups) for grant in identity.grants}
    if wanted is not None:
        if not wanted <= scopes | grants.keys():
            missing = sorted(wanted - scopes - grants.keys())
            raise OAuthError("invalid_scope", f"the client has not the scope {' '.join(missing)}")
        scopes &= wanted
        grants = {right: groups for right, groups in grants.items() if right in wanted}
    return Principal(
        kind=options_pb2.Caller.Name(identity.kind),
        subject=identity.subject,
        enterprise=identity.enterprise or None,
        roles=frozenset(options_pb2.Role.Name(role) for role in identity.roles),
        scopes=scopes,
        grants=grants,
        session=identity.session,
    )


async def _form(request: Request) -> dict[str, str]:
    if (
        request.headers.get("content-type", "").partition(";")[0].strip()
        != "application/x-www-form-urlencoded"
    ):
        raise OAuthError("invalid_request", "the body must be application/x-www-form-urlencoded")
    body = await Body(request.receive, BODY_BYTES, request.headers.get("content-length")).whole()
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise OAuthError("invalid_request", "the body is no form") from None
    form = {name: value for name, value in pairs if value}
    if len(dict(pairs)) != len(pairs):
        raise OAuthError("invalid_request", "a parameter is given twice")
    return form


def _client_credentials(authorization: str | None, form: dict[str, str]) -> tuple[str, str]:
    """Id and secret, by HTTP Basic or in the form, but not both (RFC 6749, section 2.3)."""
    if authorization is None:
        if "client_id" not in form or "client_secret" not in form:
            raise OAuthError("invalid_client", "send client_id and client_secret, best by HTTP Basic", 401)
        return form["client_id"], form["client_secret"]
    if "client_secret" in form:
        raise OAuthError("invalid_request", "send the secret once: by HTTP Basic or in the form")
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise OAuthError("invalid_client", "authenticate by HTTP Basic or in the form", 401)
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise OAuthError("invalid_client", "the Basic credentials are not base64 of id:secret", 401) from None
    client_id, secret = unquote_plus(client_id), unquote_plus(secret)
    if not colon or not client_id or form.get("client_id", client_id) != client_id:
        raise OAuthError("invalid_client", "the Basic credentials are not id:secret", 401)
    return client_id, secret


def _oauth_error(error: str, description: str, status: int, headers: dict[str, str]) -> Response:
    # RFC 6749 allows printable ASCII without quote and backslash in a description.
    plain = "".join(each if " " <= each <= "~" and each not in '"\\' else "'" for each in description)
    return JSONResponse(
        {"error": error, "error_description": plain}, status_code=status, headers={**NO_STORE, **headers}
    )
