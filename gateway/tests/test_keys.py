"""Several keys are accepted, and one signs."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.errors import Problem
from gateway.identity import AccessTokens
from gateway.keys import Keys
from gateway.ofrep_events import EventTokens
from gateway.revocations import Revocations
from services.chassis.clock import FixedClock
from services.chassis.principal import Principal

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
ISSUER = "http://gateway.test"
CLIENT = Principal("CLIENT", "enterprises/x/clients/c", "enterprises/x", scopes=frozenset({"boxes.read"}))
TEN_MINUTES = timedelta(minutes=10)


def pair() -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


OLD, NEW = pair(), pair()


def tokens(keys: Keys) -> AccessTokens:
    return AccessTokens(keys, ISSUER, Revocations(FixedClock(NOW)))


def test_keys__take_over_one_after_the_other():
    """In each step of a rollover, gateways of this step and of the one before take each other's tokens."""
    steps = [
        Keys(OLD[0]),
        Keys(OLD[0], NEW[1]),
        Keys(NEW[0], OLD[1]),
        Keys(NEW[0]),
    ]
    for before, after in pairwise(steps):
        for signs, reads in ((before, after), (after, before)):
            token = tokens(signs).issue(CLIENT, TEN_MINUTES, NOW).token
            assert tokens(reads).verify(token, NOW) == CLIENT
            event = EventTokens(signs, ISSUER).issue(CLIENT, NOW)
            assert EventTokens(reads, ISSUER).verify(event, NOW).subject == CLIENT.subject
    late = tokens(steps[1]).issue(CLIENT, TEN_MINUTES, NOW).token
    with pytest.raises(Problem) as refused:
        tokens(steps[3]).verify(late, NOW)
    assert refused.value.reason == "CREDENTIALS_INVALID"


def test_jwks__tells_all_keys_and_the_signing_one_first():
    """Others learn of a key before the first token that it signs; each key once."""
    keys = Keys(OLD[0], f"# a comment\n{NEW[1]}\n{OLD[1]}")
    token = keys.sign({"sub": "x"}, "t")
    assert [each["kid"] for each in keys.jwks["keys"]] == [
        Keys(private).jwks["keys"][0]["kid"] for private in (OLD[0], NEW[0])
    ]
    assert jwt.get_unverified_header(token)["kid"] == keys.jwks["keys"][0]["kid"]
    assert all("d" not in each for each in keys.jwks["keys"])


def test_keys__of_another_kind_are_refused():
    """The gateway does not start with a key that it could not use."""
    other = generate_private_key(SECP256R1())
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for wrong in ((private, ""), (OLD[0], public)):
        with pytest.raises(TypeError, match="Ed25519"):
            Keys(*wrong)
    with pytest.raises(ValueError, match="PEM"):
        Keys(OLD[0], "no key")
