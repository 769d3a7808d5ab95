"""
OpenID Connect, as the party that relies on a provider: what a provider is asked, and what of its answers can be believed.

An enterprise names its provider itself, so every request goes through the guard against addresses that are not public
(`chassis/outgoing.py`), and the provider's endpoints do, too. A provider that is slow or bad costs its own enterprise only.
"""

import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import ClaimError, JoseError
from joserfc.jwk import Key, import_key
from pydantic import SecretStr

from services.accounts.model.identity_providers import (
    id_token_invalid,
    login_refused,
    provider_unavailable,
    provider_unusable,
)
from services.chassis.clock import Clock
from services.chassis.outgoing import Answer, LookUp, OutgoingClient
from services.chassis.outgoing_rules import Failure, OutgoingError, OutgoingRules

METADATA_LIFE = timedelta(minutes=10)
"""How long what a provider says of itself is believed. Its keys are read anew at each login."""

_ALGORITHMS: Mapping[str, str] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
}
"""The signatures that are taken, each with its kind of key. Never `none`, and none that a shared secret makes."""
_REFUSED = frozenset({Failure.URL_REFUSED, Failure.ADDRESS_REFUSED})
_REDIRECTS = range(300, 400)
_BYTES = 256 * 1024
_LEEWAY = 30
_CONNECT = timedelta(seconds=2)
_WHOLE = timedelta(seconds=4)
_AT_ONCE = 8
_MOST_KNOWN = 1_000
_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Metadata:
    """
    What a provider says of itself (OpenID Connect Discovery).

    Attributes:
        userinfo_endpoint: empty when there is none.
        names_issuer: whether it promises to name itself in redirects (RFC 9207).
        takes_basic: whether it takes the client's secret by HTTP Basic, not in the form.
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    names_issuer: bool
    takes_basic: bool


@dataclass(frozen=True, slots=True)
class Relying:
    """What a provider knows us as."""

    client_id: str
    client_secret: SecretStr
    redirect_uri: str


@dataclass(frozen=True, slots=True)
class User:
    """
    Whom a provider has named.

    Attributes:
        subject: its own name of the user, which it gives to nobody else.
        email: the address, if the provider has told it; as it was told.
        email_verified: whether it says that the address is the user's.
    """

    subject: str
    email: str
    email_verified: bool


class Providers:
    """
    Asks providers. One instance serves all threads.

    Args:
        rules: what may be reached.
        clock: the time by which tokens are good.
        look_up: finds addresses of names; the system's resolver by default.
    """

    def __init__(self, rules: OutgoingRules, clock: Clock, look_up: LookUp | None = None) -> None:
        self._rules = rules
        self._clock = clock
        self._look_up = look_up
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._known: dict[str, tuple[datetime, Metadata]] = {}

    def metadata(self, issuer: str) -> Metadata:
        """
        What a provider says of itself, at most ten minutes old.

        Raises UNAVAILABLE (`IDENTITY_PROVIDER_UNAVAILABLE`) or FAILED_PRECONDITION (`IDENTITY_PROVIDER_UNUSABLE`).
        """
        now = self._clock.now()
        with self._lock:
            told, known = self._known.get(issuer, (None, None))
        if told and known and now - told < METADATA_LIFE:
            return known
        url = f"{issuer.removesuffix('/')}/.well-known/openid-configuration"
        fresh = self._metadata_of(issuer, self._get(issuer, url))
        with self._lock:
            self._known.pop(issuer, None)
            if len(self._known) >= _MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[issuer] = now, fresh
        return fresh

    def authenticate(
        self, metadata: Metadata, relying: Relying, *, code: str, verifier: SecretStr, nonce: str
    ) -> User:
        """
        Whom the provider names for a code. The ID token is verified; an address that it lacks is asked for.

        Raises as `metadata` does, or UNAUTHENTICATED (`LOGIN_REFUSED`, `ID_TOKEN_INVALID`).
        """
        granted = self._redeem(metadata, relying, code, verifier)
        id_token, access_token = granted.get("id_token"), granted.get("access_token")
        if not isinstance(id_token, str) or not isinstance(access_token, str):
            raise provider_unusable("TOKENS_MISSING")
        claims = verify(
            id_token,
            self._get(metadata.issuer, metadata.jwks_uri),
            issuer=metadata.issuer,
            client_id=relying.client_id,
            nonce=nonce,
            access_token=access_token,
            now=self._clock.now(),
        )
        told: Mapping[str, Any] = claims
        if not claims.get("email") and metadata.userinfo_endpoint and access_token.isascii():
            headers = {"authorization": f"Bearer {access_token}"}
            told = self._get(metadata.issuer, metadata.userinfo_endpoint, headers)
            if told.get("sub") != claims["sub"]:
                raise id_token_invalid("userinfo")
        # `xms_edov` is what Microsoft Entra says instead; some providers write truth values as texts.
        verified = any(told.get(each) in (True, "true", "1") for each in ("email_verified", "xms_edov"))
        return User(claims["sub"], _address(told.get("email")), verified)

    def _redeem(
        self, metadata: Metadata, relying: Relying, code: str, verifier: SecretStr
    ) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": relying.redirect_uri,
            "code_verifier": verifier.get_secret_value(),
        }
        headers = {"content-type": "application/x-www-form-urlencoded"}
        client = (relying.client_id, relying.client_secret.get_secret_value())
        if metadata.takes_basic:
            headers["authorization"] = _basic(*client)
        else:
            form |= dict(zip(("client_id", "client_secret"), client, strict=True))
        answer = self._ask(
            "POST", metadata.issuer, metadata.token_endpoint, headers, urlencode(form).encode()
        )
        if answer.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED}:
            if _json(answer).get("error") == "invalid_grant":
                raise login_refused("LOGIN_REFUSED", "the identity provider does not take the code")
            raise provider_unusable("CLIENT_REFUSED")
        return _told(answer)

    def _metadata_of(self, issuer: str, told: Mapping[str, Any]) -> Metadata:
        if told.get("issuer") != issuer:
            raise provider_unusable("ISSUER_DIFFERS")
        methods = told.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        takes_basic = isinstance(methods, list) and "client_secret_basic" in methods
        if not takes_basic and not (isinstance(methods, list) and "client_secret_post" in methods):
            raise provider_unusable("CLIENT_AUTHENTICATION")
        return Metadata(
            issuer=issuer,
            authorization_endpoint=self._endpoint(told, "authorization_endpoint"),
            token_endpoint=self._endpoint(told, "token_endpoint"),
            jwks_uri=self._endpoint(told, "jwks_uri"),
            userinfo_endpoint=self._endpoint(told, "userinfo_endpoint")
            if told.get("userinfo_endpoint")
            else "",
            names_issuer=told.get("authorization_response_iss_parameter_supported") is True,
            takes_basic=takes_basic,
        )

    def _endpoint(self, told: Mapping[str, Any], key: str) -> str:
        """An endpoint that we, and browsers, may be sent to."""
        try:
            return self._rules.check(str(told.get(key, "")))
        except OutgoingError as error:
            raise provider_unusable(error.failure) from None

    def _get(self, issuer: str, url: str, headers: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        return _told(self._ask("GET", issuer, url, headers or {}))

    def _ask(
        self, method: str, issuer: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        async def ask() -> Answer:
            client = OutgoingClient(
                self._rules, connect_timeout=_CONNECT, timeout=_WHOLE, look_up=self._look_up
            )
            plain = {"accept": "application/json", "accept-encoding": "identity", **headers}
            async with client:
                return await client.fetch(method, url, headers=plain, body=body, limit=_BYTES)

        with self._place(issuer):
            try:
                return asyncio.run(ask())
            except OutgoingError as error:
                failed = provider_unusable if error.failure in _REFUSED else provider_unavailable
                raise failed(error.failure) from None

    @contextmanager
    def _place(self, issuer: str) -> Iterator[None]:
        """One of a few places: a provider that hangs does not hold all of our threads."""
        with self._lock:
            if self._busy[issuer] >= _AT_ONCE:
                raise provider_unavailable("TOO_MANY_AT_ONCE")
            self._busy[issuer] += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy[issuer] -= 1
                if not self._busy[issuer]:
                    del self._busy[issuer]


def authorization_url(
    metadata: Metadata, *, client_id: str, redirect_uri: str, state: str, nonce: str, challenge: str
) -> str:
    """The provider's page that a browser is sent to."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": "openid email",
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    endpoint = metadata.authorization_endpoint
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"


def verify(
    token: str,
    jwks: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    now: datetime,
) -> Mapping[str, Any]:
    """
    The claims of an ID token, if it is the provider's, for us, for this login and still good.

    Raises UNAUTHENTICATED (`ID_TOKEN_INVALID`): `metadata.cause` names the claim that is wrong, or `signature`.
    """
    try:
        read = jwt.decode(token, lambda signed: _key(jwks, signed.headers()), algorithms=[*_ALGORITHMS])
    # Whatever else than a signed token a provider sends is read by libraries until something does not fit.
    except (JoseError, ValueError, TypeError, AttributeError):
        raise id_token_invalid("signature") from None
    claims = CodeIDToken(
        read.claims,
        read.header,
        options={
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": client_id},
            "sub": {"essential": True},
        },
        params={"nonce": nonce, "client_id": client_id, "access_token": access_token},
    )
    try:
        claims.validate(now=int(now.timestamp()), leeway=_LEEWAY)
    except ClaimError as error:
        raise id_token_invalid(error.claim) from None
    except (JoseError, ValueError, TypeError, AttributeError):
        raise id_token_invalid("claims") from None
    subject = claims["sub"]
    if not (0 < len(subject) <= _LENGTH and subject.isascii() and subject.isprintable()):
        raise id_token_invalid("sub")
    return dict(claims)


def _key(jwks: Mapping[str, Any], header: Mapping[str, Any]) -> Key:
    """The key that a token names; it may leave that out when only one fits. Raises ValueError or JoseError."""
    algorithm, kid = header["alg"], header.get("kid")
    kind = _ALGORITHMS.get(algorithm)
    keys = jwks.get("keys")
    fitting = [
        each
        for each in (keys if isinstance(keys, list) else ())
        if isinstance(each, dict)
        and each.get("kty") == kind
        and each.get("use", "sig") == "sig"
        and each.get("alg", algorithm) == algorithm
        and kid in (None, each.get("kid"))
    ]
    if len(fitting) != 1:
        raise ValueError("none of the provider's keys is the token's, or more than one may be")
    return import_key(fitting[0])


def _address(told: object) -> str:
    """An address that can be looked for; empty for anything else."""
    return told if isinstance(told, str) and len(told) <= _LENGTH and told.isprintable() else ""


def _told(answer: Answer) -> Mapping[str, Any]:
    """The object that a provider answers with when it does what it is asked."""
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise provider_unavailable("HTTP_STATUS")
    if answer.status != HTTPStatus.OK:
        raise provider_unusable("REDIRECT" if answer.status in _REDIRECTS else "HTTP_STATUS")
    told = _json(answer)
    if not told:
        raise provider_unusable("NO_JSON_OBJECT")
    return told


def _json(answer: Answer) -> Mapping[str, Any]:
    """The object that was answered; an empty one when it is none."""
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _basic(client_id: str, secret: str) -> str:
    """HTTP Basic as RFC 6749 has it (2.3.1): id and secret are form-encoded first."""
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
