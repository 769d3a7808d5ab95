"""Principals: what is signed is what is verified, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.chassis.errors import Kind, ServiceError
from services.chassis.principal import AUDIENCE, ISSUER, Principal, PrincipalSigner, PrincipalVerifier
from services.chassis.testing.rpc import anonymous, client, gateway, member, new_keys, operator

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
KEYS = new_keys()
CLAIMS = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "operators/a",
    "kind": "OPERATOR",
    "enterprise": None,
    "roles": [],
    "scopes": [],
}


def _verify(token: str, now: datetime = NOW, key: str = KEYS.public) -> Principal:
    return PrincipalVerifier(key).verify(token, now)


def _reason(token: str, now: datetime = NOW) -> str:
    with pytest.raises(ServiceError) as refused:
        _verify(token, now)
    assert refused.value.kind is Kind.UNAUTHENTICATED
    return refused.value.reason


def _forged(changes: dict, drop: str = "", algorithm: str = "EdDSA", private: str = KEYS.private) -> str:
    at = int(NOW.timestamp())
    claims = {**CLAIMS, "iat": at, "exp": at + 60, **changes}
    claims.pop(drop, None)
    return jwt.encode(claims, load_pem_private_key(private.encode(), None), algorithm=algorithm)


@pytest.mark.parametrize(
    "principal",
    [
        member("enterprises/a", ["EDITOR", "ANALYST"]),
        client("enterprises/a", ["things.read"]),
        replace(
            member("enterprises/a", []),
            grants={"EDITOR": frozenset({"b1", "b2"}), "ANALYST": frozenset({"b1"})},
        ),
        replace(member("enterprises/a"), limits={"bound_accounts": 20, "live_placements": 0}),
        replace(member("enterprises/a"), session="s1"),
        operator(),
        gateway(),
        anonymous(),
    ],
)
def test_principal__survives_the_journey(principal):
    """Whoever is signed is verified to be the same."""
    assert _verify(PrincipalSigner(KEYS.private).sign(principal, NOW)) == principal


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (-4, None),
        (0, None),
        (59, None),
        (64, None),
        (65, "PRINCIPAL_EXPIRED"),
        (3600, "PRINCIPAL_EXPIRED"),
        (-6, "PRINCIPAL_INVALID"),
    ],
)
def test_principal__lives_a_minute(seconds, reason):
    """A token is good for 60 seconds, with 5 seconds of grace for clocks on both sides."""
    token = PrincipalSigner(KEYS.private).sign(operator(), NOW)
    now = NOW + timedelta(seconds=seconds)

    if reason is None:
        assert _verify(token, now) == operator()
    else:
        assert _reason(token, now) == reason


def test_principal__both_keys_count_while_they_rotate():
    """With two public keys, as a list or in one text, principals of either are taken."""
    other = new_keys()
    token = PrincipalSigner(other.private).sign(operator(), NOW)

    assert PrincipalVerifier([KEYS.public, other.public]).verify(token, NOW) == operator()
    assert PrincipalVerifier(KEYS.public + other.public).verify(token, NOW) == operator()
    assert _reason(token) == "PRINCIPAL_INVALID"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        _forged({"aud": "somebody"}),
        _forged({"iss": "somebody"}),
        _forged({}, drop="exp"),
        _forged({}, drop="iat"),
        _forged({}, drop="aud"),
        _forged({}, drop="kind"),
        _forged({}, drop="roles"),
        _forged({"exp": int(NOW.timestamp()) + 3600}),
        _forged({"exp": "later"}),
        _forged({"kind": "ROOT"}),
        _forged({"kind": "MEMBER"}),
        _forged({"kind": "MEMBER", "enterprise": "enterprises/a/accounts/b"}),
        _forged({"kind": "OPERATOR", "enterprise": "enterprises/a"}),
        _forged({"roles": 3}),
        _forged({"grants": None}),
        _forged({"grants": [["EDITOR", "b1"]]}),
        _forged({"grants": {"EDITOR": []}}),
        _forged({"grants": {"EDITOR": [""]}}),
        _forged({"grants": {"EDITOR": [1]}}),
        _forged({"limits": None}),
        _forged({"limits": [["bound_accounts", 20]]}),
        _forged({"limits": {"bound_accounts": -1}}),
        _forged({"limits": {"bound_accounts": 20.0}}),
        _forged({"limits": {"bound_accounts": "20"}}),
        _forged({"limits": {"bound_accounts": True}}),
        _forged({"limits": {"Bound accounts": 20}}),
        _forged({"limits": {"": 20}}),
        _forged({"limits": {"bound_accounts\n": 20}}),
        _forged({"limits": {"a" * 41: 20}}),
        _forged({}, private=new_keys().private),
        jwt.encode(
            {**CLAIMS, "iat": int(NOW.timestamp()), "exp": int(NOW.timestamp()) + 60}, None, algorithm="none"
        ),
        jwt.encode(
            {**CLAIMS, "iat": int(NOW.timestamp()), "exp": int(NOW.timestamp()) + 60},
            "k" * 32,
            algorithm="HS256",
        ),
    ],
)
def test_principal__is_refused_when_it_is_not_ours(token):
    """Another key, algorithm, audience, issuer, a missing claim, a long life and impossible callers are refused."""
    assert _reason(token) == "PRINCIPAL_INVALID"


def test_principal__without_limits_has_none():
    """A principal that an older gateway signed has no limits."""
    assert _verify(_forged({})).limits == {}


def test_principal__cannot_be_given_other_limits():
    """Neither the caller's own mapping nor the principal's changes them; equal principals are one in a set."""
    given = {"bound_accounts": 20}
    principal = replace(member("enterprises/a"), limits=given)

    given["bound_accounts"] = 21
    with pytest.raises(TypeError):
        principal.limits["bound_accounts"] = 21

    assert principal.limits == {"bound_accounts": 20}
    assert len({principal, replace(principal)}) == 1
    assert principal != member("enterprises/a")


def test_verifier__wants_ed25519_keys():
    """A text without a key is refused at the start, not at the first call."""
    with pytest.raises(ValueError):
        PrincipalVerifier("no key")
