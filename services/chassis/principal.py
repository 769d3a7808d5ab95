"""
Who calls. The gateway authenticates and signs a principal for one minute; services verify the signature.

The token is a JWT signed with EdDSA, in the call's metadata under `METADATA_KEY`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from services.chassis.compact import is_compact
from services.chassis.errors import Kind, ServiceError
from services.chassis.names import NamePattern

METADATA_KEY = "x-numerator-principal"
ISSUER = "numerator-gateway"
AUDIENCE = "numerator"
LIFETIME = timedelta(seconds=60)
LEEWAY = timedelta(seconds=5)

_ALGORITHM = "EdDSA"
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_ENTERPRISE = NamePattern("enterprises/{enterprise}")
_OF_AN_ENTERPRISE = frozenset({"MEMBER", "CLIENT"})
_OF_THE_PLATFORM = frozenset({"OPERATOR", "GATEWAY", "ANONYMOUS"})
_LIMIT = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Principal:
    """
    A caller.

    Attributes:
        kind: MEMBER, CLIENT, OPERATOR, GATEWAY or ANONYMOUS, as in `numerator.options.v1.Caller`.
        subject: who exactly, as `enterprises/x/members/y`; "anonymous" for nobody.
        enterprise: `enterprises/x` for members and clients, None for everybody else.
        roles: a member's roles in the whole enterprise, as `EDITOR`.
        scopes: a client's scopes in the whole enterprise, as `publications.write`.
        grants: roles and scopes that hold only for some groups of accounts and all below them: ids of these groups, by
            role or scope. A member of an agency has nothing else. Cannot be changed.
        limits: how much of something the enterprise may have in its stage of a rollout, as `bound_accounts`; absent
            or 0 is no limit. The service that owns the rows counts them (docs/adr/0010). Cannot be changed.
        session: the id of a member's session; empty for anybody else.
    """

    kind: str
    subject: str
    enterprise: str | None = None
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    # A mapping has no hash: equal principals have equal hashes without it.
    grants: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    limits: Mapping[str, int] = field(default_factory=dict, hash=False)
    session: str = ""

    def __post_init__(self) -> None:
        if self.kind in _OF_AN_ENTERPRISE:
            if self.enterprise is None or not _ENTERPRISE.matches(self.enterprise):
                raise ValueError(f"a {self.kind} belongs to an enterprise, as enterprises/x")
        elif self.kind not in _OF_THE_PLATFORM or self.enterprise is not None:
            raise ValueError(f"{self.kind!r} is no kind of caller, or belongs to no enterprise")
        if not isinstance(self.grants, Mapping) or not all(map(_is_grant, self.grants, self.grants.values())):
            raise ValueError("grants are sets of ids that are not empty, by roles and scopes")
        object.__setattr__(self, "grants", MappingProxyType(dict(self.grants)))
        if not isinstance(self.limits, Mapping) or not all(map(_is_limit, self.limits, self.limits.values())):
            raise ValueError("limits are whole numbers that are not negative, by short words")
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))


class PrincipalSigner:
    """Signs principals; the gateway alone has the private key (Ed25519, PEM)."""

    def __init__(self, private_key_pem: str) -> None:
        key = load_pem_private_key(private_key_pem.encode(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("the principal's key must be Ed25519")
        self._key = key

    def sign(self, principal: Principal, now: datetime) -> str:
        """A token that is good for 60 seconds from `now`."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": principal.subject,
            "iat": int(now.timestamp()),
            "exp": int((now + LIFETIME).timestamp()),
            "kind": principal.kind,
            "enterprise": principal.enterprise,
            "roles": sorted(principal.roles),
            "scopes": sorted(principal.scopes),
            "grants": {right: sorted(groups) for right, groups in principal.grants.items()},
            "limits": dict(principal.limits),
            "session": principal.session,
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)


class PrincipalVerifier:
    """
    Verifies principals. Keeps nothing between calls but the keys.

    Takes one PEM text or several; all keys in them are accepted, so that a new key can be made known before
    the gateway signs with it.
    """

    def __init__(self, public_key_pem: str | Sequence[str]) -> None:
        text = public_key_pem if isinstance(public_key_pem, str) else "\n".join(public_key_pem)
        keys = [load_pem_public_key(pem.encode()) for pem in _PEM.findall(text)]
        if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys):
            raise ValueError("the principal's public key must be one or more Ed25519 keys in PEM form")
        self._keys = cast("list[Ed25519PublicKey]", keys)

    def verify(self, token: str, now: datetime) -> Principal:
        """
        The principal in `token`.

        Raises UNAUTHENTICATED with the reason PRINCIPAL_EXPIRED, or PRINCIPAL_INVALID for all that is not
        ours.
        """
        claims = self._claims(token)
        issued, expires = claims["iat"], claims["exp"]
        if not isinstance(issued, int) or not isinstance(expires, int):
            raise _refused("PRINCIPAL_INVALID")
        seconds, leeway = now.timestamp(), LEEWAY.total_seconds()
        # A longer life than we sign for is not ours, whoever holds the key.
        if issued > seconds + leeway or expires - issued > LIFETIME.total_seconds():
            raise _refused("PRINCIPAL_INVALID")
        if expires <= seconds - leeway:
            raise _refused("PRINCIPAL_EXPIRED")
        try:
            return Principal(
                kind=claims["kind"],
                subject=claims["sub"],
                enterprise=claims["enterprise"],
                roles=frozenset(claims["roles"]),
                scopes=frozenset(claims["scopes"]),
                grants={right: frozenset(groups) for right, groups in claims.get("grants", {}).items()},
                limits=claims.get("limits", {}),
                session=str(claims.get("session", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _refused("PRINCIPAL_INVALID") from None

    def _claims(self, token: str) -> dict[str, Any]:
        for key in self._keys if is_compact(token) else ():
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[_ALGORITHM],
                    audience=AUDIENCE,
                    issuer=ISSUER,
                    # Times are checked against the caller's clock, in `verify`.
                    options={
                        "require": ["iss", "aud", "sub", "iat", "exp"],
                        "verify_exp": False,
                        "verify_iat": False,
                        "verify_nbf": False,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, RecursionError):  # or brackets without end
                break
        raise _refused("PRINCIPAL_INVALID")


def _is_grant(right: object, groups: object) -> bool:
    return (
        isinstance(right, str)
        and isinstance(groups, frozenset)
        and bool(groups)
        and all(isinstance(group, str) and group for group in groups)
    )


def _is_limit(name: object, value: object) -> bool:
    # A bool is an int to Python, and no number to anybody else.
    return isinstance(name, str) and bool(_LIMIT.fullmatch(name)) and type(value) is int and value >= 0


def _refused(reason: str) -> ServiceError:
    text = {
        "PRINCIPAL_EXPIRED": "the principal has expired: the gateway signs a fresh one for each call",
        "PRINCIPAL_INVALID": "the principal is not signed by the gateway, or not for this use",
    }[reason]
    return ServiceError(Kind.UNAUTHENTICATED, reason, text)
