"""Access tokens: ours are taken for their time and use, and nothing else is."""

import base64
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Problem
from gateway.identity import ANONYMOUS, AUDIENCE, AccessTokens
from gateway.keys import Keys
from gateway.revocations import Revocations
from services.chassis.clock import FixedClock
from services.chassis.errors import ServiceError
from services.chassis.principal import Principal, PrincipalSigner, PrincipalVerifier

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
ISSUER = "http://gateway.test"
KEY = Ed25519PrivateKey.generate()
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
KEYS = Keys(PEM)
TOKENS = AccessTokens(KEYS, ISSUER, Revocations(FixedClock(NOW)))
CLIENT = Principal(
    "CLIENT", "enterprises/x/clients/c", "enterprises/x", scopes=frozenset({"profiles.write", "boxes.read"})
)
MEMBER = Principal("MEMBER", "enterprises/x/members/m", "enterprises/x", roles=frozenset({"OWNER"}))
TEN_MINUTES = timedelta(minutes=10)
KID = KEYS.jwks["keys"][0]["kid"]


def claims(**more):
    seconds = int(NOW.timestamp())
    return {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "enterprises/x/clients/c", "iat": seconds, "nbf": seconds,
        "exp": seconds + 600, "jti": "j", "auth_time": seconds, "scope": "a b", "kind": "CLIENT", "enterprise": "enterprises/x", "roles": [],
        **more,
    }  # fmt: skip


def signed(claims, key=KEY, algorithm="EdDSA", **headers):
    return jwt.encode(claims, key, algorithm=algorithm, headers={"typ": "at+jwt", "kid": KID, **headers})


def refused(token, now=NOW) -> Problem:
    with pytest.raises(Problem) as caught:
        TOKENS.verify(token, now)
    assert caught.value.status == 401
    assert "invalid_token" in caught.value.headers["www-authenticate"]
    return caught.value


@pytest.mark.parametrize("principal", [CLIENT, MEMBER, Principal("OPERATOR", "clients/ops")])
def test_token__leads_back_to_its_bearer(principal):
    """Whoever got a token is who it says."""
    token = TOKENS.issue(principal, TEN_MINUTES, NOW)

    assert TOKENS.authenticate(f"Bearer {token.token}", NOW) == principal
    assert token.reply()["expires_in"] == 600


def test_token__anybody_can_verify_it():
    """The JWKS verifies our tokens with an ordinary JWT library."""
    token = TOKENS.issue(CLIENT, TEN_MINUTES, NOW).token
    key = jwt.PyJWK(KEYS.jwks["keys"][0])

    seen = jwt.decode(token, key, audience=AUDIENCE, issuer=ISSUER, options={"verify_exp": False})

    assert seen["sub"] == CLIENT.subject
    assert seen["scope"] == "boxes.read profiles.write"
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "at+jwt", "kid": KID}


def test_token__times():
    """A token is good from its beginning to its end, and no second longer."""
    token = TOKENS.issue(CLIENT, TEN_MINUTES, NOW).token

    TOKENS.verify(token, NOW + TEN_MINUTES - timedelta(seconds=1))
    assert refused(token, NOW + TEN_MINUTES).reason == "TOKEN_EXPIRED"
    assert refused(token, NOW - timedelta(seconds=10)).reason == "CREDENTIALS_INVALID"


def test_token__no_header_is_nobody():
    """Without credentials the caller is ANONYMOUS."""
    assert TOKENS.authenticate(None, NOW) is ANONYMOUS


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "bearer x", "Bearer x.y.z", "Bearer " + "x" * 9000]
)
def test_header__wrong(header):
    """Credentials that are none are refused, not taken for nobody's."""
    with pytest.raises(Problem) as caught:
        TOKENS.authenticate(header, NOW)
    assert caught.value.status == 401


def _none(value):
    header = base64.urlsafe_b64encode(
        json.dumps({"alg": "none", "typ": "at+jwt", "kid": KID}).encode()
    ).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    return f"{header.decode()}.{body.decode()}."


NEGATIVES = {
    "unsigned": _none(claims()),
    "another key": signed(claims(), Ed25519PrivateKey.generate()),
    "public key as an HMAC secret": signed(claims(), "x" * 64, "HS256"),
    "another type": signed(claims(), typ="JWT"),
    "another key id": signed(claims(), kid="x"),
    "another issuer": signed(claims(iss="http://evil")),
    "another audience": signed(claims(aud="numerator")),
    "no kind": signed({name: value for name, value in claims().items() if name != "kind"}),
    "no id": signed({name: value for name, value in claims().items() if name != "jti"}),
    "no end": signed({name: value for name, value in claims().items() if name != "exp"}),
    "not yet": signed(claims(nbf=int(NOW.timestamp()) + 60)),
    "from the future": signed(claims(iat=int(NOW.timestamp()) + 60)),
    "the gateway's own kind": signed(claims(kind="GATEWAY", enterprise=None)),
    "a kind that is none": signed(claims(kind="ROOT")),
    "nobody": signed(claims(kind="ANONYMOUS", enterprise=None)),
    "a member of nothing": signed(claims(kind="MEMBER", enterprise=None)),
    "times that are none": signed(claims(exp="soon")),
    "scopes that are none": signed(claims(scope=5)),
    "roles that are none": signed(claims(roles=5)),
    "a principal": PrincipalSigner(PEM).sign(CLIENT, NOW),
}


@pytest.mark.parametrize("token", NEGATIVES.values(), ids=NEGATIVES.keys())
def test_token__negatives(token):
    """What is not exactly an access token of ours is refused."""
    assert refused(token).reason == "CREDENTIALS_INVALID"


@given(st.data())
def test_token__any_changed_character(data):
    """A token with one character changed is refused."""
    token = TOKENS.issue(CLIENT, TEN_MINUTES, NOW).token
    # The last character of a part may carry padding bits that base64 ignores.
    ends = {len(part) for part in (token.split(".")[0], token[: token.rindex(".")], token)}
    at = data.draw(st.integers(0, len(token) - 1).filter(lambda index: index + 1 not in ends))
    other = data.draw(st.sampled_from("ABCxyz019-_.").filter(lambda character: character != token[at]))

    refused(token[:at] + other + token[at + 1 :])


def test_principal__is_no_access_token_and_the_other_way_round():
    """The same key signs both, and neither passes for the other."""
    token = TOKENS.issue(CLIENT, timedelta(seconds=60), NOW).token

    with pytest.raises(ServiceError, match="not signed by the gateway"):
        PrincipalVerifier(PUBLIC).verify(token, NOW)
