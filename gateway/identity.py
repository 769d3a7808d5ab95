"""
Who asks: access tokens of ours, for members who log in and for clients with OAuth2 credentials.

The accounts service knows passwords and secrets; here a verified identity becomes an access token (a JWT, EdDSA,
RFC 9068), and each request's token becomes a principal. An access token and a principal are signed with the same key
and never mistaken for one another: they differ in type, issuer and audience.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.errors import Problem
from services.chassis.ids import new_id
from services.chassis.principal import Principal

CLIENT_LIFETIME = timedelta(minutes=10)
MEMBER_LIFETIME = timedelta(hours=1)
AUDIENCE = "numerator-api"
ANONYMOUS = Principal("ANONYMOUS", "anonymous")
GATEWAY = Principal("GATEWAY", "gateway")

_ALGORITHM = "EdDSA"
_TYPE = "at+jwt"
_LEEWAY = 5
_LONGEST_TOKEN = 8192
_CLAIMS = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope", "kind")
_BEARERS = frozenset({"MEMBER", "CLIENT", "OPERATOR"})


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and how long it lives."""

    token: str
    lifetime: timedelta
    scopes: frozenset[str]

    def reply(self) -> dict[str, Any]:
        """The members that RFC 6749 gives a token response."""
        return {
            "access_token": self.token,
            "token_type": "Bearer",
            "expires_in": int(self.lifetime.total_seconds()),
            "scope": " ".join(sorted(self.scopes)),
        }


class AccessTokens:
    """Signs and verifies access tokens."""

    def __init__(self, private_key_pem: str, issuer: str) -> None:
        """`issuer` is the gateway's public URL."""
        self._private = load_key(private_key_pem)
        self._public = self._private.public_key()
        self._issuer = issuer
        raw = self._public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        required = {"crv": "Ed25519", "kty": "OKP", "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}
        thumbprint = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()  # RFC 7638
        self._key_id = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
        self.jwks: dict[str, Any] = {
            "keys": [
                {**required, "kid": self._key_id, "use": "sig", "alg": _ALGORITHM, "key_ops": ["verify"]}
            ]
        }

    def issue(self, principal: Principal, lifetime: timedelta, now: datetime) -> AccessToken:
        """A token with which its bearer is `principal`."""
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": principal.subject,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int((now + lifetime).timestamp()),
            "jti": new_id(),
            "scope": " ".join(sorted(principal.scopes)),
            "kind": principal.kind,
            "roles": sorted(principal.roles),
            **(
                {"grants": {right: sorted(groups) for right, groups in principal.grants.items()}}
                if principal.grants
                else {}
            ),
            **({"enterprise": principal.enterprise} if principal.enterprise else {}),
        }
        headers = {"typ": _TYPE, "kid": self._key_id}
        token = jwt.encode(claims, self._private, algorithm=_ALGORITHM, headers=headers)
        return AccessToken(token, lifetime, principal.scopes)

    def authenticate(self, authorization: str | None, now: datetime) -> Principal:
        """
        The principal of an `Authorization` header; ANONYMOUS without one.

        Raises 401 `CREDENTIALS_INVALID` or `TOKEN_EXPIRED`, also where no credentials are needed: a caller who sends
        some means them.
        """
        if authorization is None:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
            raise _refused("CREDENTIALS_INVALID", "send `Authorization: Bearer <access token>`")
        return self.verify(token.strip(), now)

    def verify(self, token: str, now: datetime) -> Principal:
        """The principal of an access token. Raises 401."""
        claims = self._claims(token)
        try:
            issued, starts, ends = (int(claims[name]) for name in ("iat", "nbf", "exp"))
            principal = Principal(
                kind=claims["kind"],
                subject=claims["sub"],
                enterprise=claims.get("enterprise"),
                roles=frozenset(claims.get("roles", ())),
                scopes=frozenset(claims["scope"].split()),
                grants={right: frozenset(groups) for right, groups in claims.get("grants", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _refused("CREDENTIALS_INVALID", "the access token is not ours") from None
        seconds = now.timestamp()
        if principal.kind not in _BEARERS or max(issued, starts) > seconds + _LEEWAY:
            raise _refused("CREDENTIALS_INVALID", "the access token is not good for this, or not yet")
        if ends <= seconds:
            raise _refused("TOKEN_EXPIRED", "the access token has expired; get another one")
        return principal

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != _TYPE or header.get("kid") != self._key_id:
                raise _refused("CREDENTIALS_INVALID", "the access token is not ours")
            # Times are checked against our clock, in `verify`.
            return jwt.decode(
                token,
                self._public,
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                issuer=self._issuer,
                options={
                    "require": list(_CLAIMS),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidTokenError:
            raise _refused("CREDENTIALS_INVALID", "the access token is not ours") from None


def load_key(private_key_pem: str) -> Ed25519PrivateKey:
    """The gateway's key. Raises TypeError for one of another kind."""
    key = load_pem_private_key(private_key_pem.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("the gateway's key must be Ed25519")
    return key


def _refused(reason: str, detail: str) -> Problem:
    return Problem(
        401, reason, detail, headers={"www-authenticate": 'Bearer realm="numerator", error="invalid_token"'}
    )
