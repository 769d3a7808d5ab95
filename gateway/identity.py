"""
Who asks: access tokens of ours, for members who log in and for clients with OAuth2 credentials.

The accounts service knows passwords and secrets; here a verified identity becomes an access token (a JWT, EdDSA,
RFC 9068), and each request's token becomes a principal. An access token and a principal are signed with the same key
and never mistaken for one another: they differ in type, issuer and audience.

Besides what RFC 9068 asks for, an access token says when the accounts service read the identity (`auth_time`, to the
microsecond) and, for members, in which session (`sid`): what is revoked after that ends it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from numerator.accounts.v1 import accounts_pb2 as pb

from gateway.errors import Problem
from gateway.keys import Keys
from gateway.revocations import Revocations
from services.chassis.ids import new_id
from services.chassis.principal import Principal

CLIENT_LIFETIME = timedelta(minutes=10)
MEMBER_LIFETIME = timedelta(minutes=10)
AUDIENCE = "numerator-api"
ANONYMOUS = Principal("ANONYMOUS", "anonymous")
GATEWAY = Principal("GATEWAY", "gateway")

_TYPE = "at+jwt"
_LEEWAY = 5
_LONGEST_TOKEN = 8192
_CLAIMS = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope", "kind", "auth_time")
_BEARERS = frozenset({"MEMBER", "CLIENT", "OPERATOR"})


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token, how long it lives, and the scopes that it gives, be it for some groups of accounts only."""

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

    def __init__(self, keys: Keys, issuer: str, revocations: Revocations) -> None:
        """`issuer` is the gateway's public URL."""
        self._keys = keys
        self._issuer = issuer
        self.revocations = revocations

    def issue(
        self, principal: Principal, lifetime: timedelta, now: datetime, identity: pb.Identity | None = None
    ) -> AccessToken:
        """
        A token with which its bearer is `principal`.

        Args:
            principal: with the rights that the token gives.
            lifetime: how long it does.
            now: the time.
            identity: what the principal was made from. Without it, any revocation of the bearer ends the token.
        """
        identity = identity or pb.Identity()
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
            "auth_time": identity.authenticate_time.ToMicroseconds() / 1_000_000,
            **({"sid": identity.session} if identity.session else {}),
            **(
                {"grants": {right: sorted(groups) for right, groups in principal.grants.items()}}
                if principal.grants
                else {}
            ),
            **({"enterprise": principal.enterprise} if principal.enterprise else {}),
        }
        granted = principal.grants.keys() if principal.kind == "CLIENT" else ()
        return AccessToken(self._keys.sign(claims, _TYPE), lifetime, principal.scopes.union(granted))

    def authenticate(self, authorization: str | None, now: datetime) -> Principal:
        """
        The principal of an `Authorization` header; ANONYMOUS without one.

        Raises 401 `CREDENTIALS_INVALID`, `TOKEN_REVOKED` or `TOKEN_EXPIRED`, also where no credentials are needed: a caller
        who sends some means them.
        """
        if authorization is None:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
            raise _refused("CREDENTIALS_INVALID", "send `Authorization: Bearer <access token>`")
        return self.verify(token.strip(), now)

    def verify(self, token: str, now: datetime) -> Principal:
        """The principal of an access token. Raises 401."""
        try:
            claims = self._keys.read(token, _TYPE, issuer=self._issuer, audience=AUDIENCE, require=_CLAIMS)
            issued, starts, ends = (int(claims[name]) for name in ("iat", "nbf", "exp"))
            read, session = float(claims["auth_time"]), str(claims.get("sid", ""))
            principal = Principal(
                kind=claims["kind"],
                subject=claims["sub"],
                enterprise=claims.get("enterprise"),
                roles=frozenset(claims.get("roles", ())),
                scopes=frozenset(claims["scope"].split()),
                grants={right: frozenset(groups) for right, groups in claims.get("grants", {}).items()},
                session=session,
            )
        except (jwt.InvalidTokenError, TypeError, ValueError, ArithmeticError, AttributeError):
            raise _refused("CREDENTIALS_INVALID", "the access token is not ours") from None
        seconds = now.timestamp()
        if principal.kind not in _BEARERS or max(issued, starts) > seconds + _LEEWAY:
            raise _refused("CREDENTIALS_INVALID", "the access token is not good for this, or not yet")
        if any(self.revocations.revoked(each, read) for each in (principal.subject, session)):
            raise _refused(
                "TOKEN_REVOKED", "what the access token stands for has changed or ended; get another one"
            )
        if ends <= seconds:
            raise _refused("TOKEN_EXPIRED", "the access token has expired; get another one")
        return principal


def _refused(reason: str, detail: str) -> Problem:
    return Problem(
        401, reason, detail, headers={"www-authenticate": 'Bearer realm="numerator", error="invalid_token"'}
    )
