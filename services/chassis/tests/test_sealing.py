"""Sealed secrets: open with the right key and context, and in no other way."""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.sealing import SealBrokenError, load_private_key, load_public_key, open_sealed, seal

KEY = X25519PrivateKey.generate()
CONTEXT = "enterprises/tianshan/accounts/brand"


@given(plaintext=st.binary(max_size=200), context=st.text(max_size=80))
def test_seal__opens_to_what_was_sealed(plaintext: bytes, context: str) -> None:
    """Any secret in any context comes back, and never as it was."""
    sealed = seal(KEY.public_key(), plaintext, context)
    assert open_sealed(KEY, sealed, context) == plaintext
    assert len(plaintext) < 4 or plaintext not in sealed


def test_seal__differs_each_time() -> None:
    """Two seals of the same secret cannot be told to be the same."""
    assert seal(KEY.public_key(), b"token", CONTEXT) != seal(KEY.public_key(), b"token", CONTEXT)


def test_open_sealed__refuses_every_flipped_bit() -> None:
    """A change of any single bit is found."""
    sealed = seal(KEY.public_key(), b"token", CONTEXT)
    # The highest bit of the X25519 share (bit 7 of byte 31) means nothing by RFC 7748, yet HPKE binds it into the key.
    for bit in range(len(sealed) * 8):
        broken = bytearray(sealed)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBrokenError):
            open_sealed(KEY, bytes(broken), CONTEXT)


def test_open_sealed__refuses_other_context_key_and_bytes() -> None:
    """What was sealed for one account does not open as another's, nor with another key, nor do random bytes."""
    sealed = seal(KEY.public_key(), b"token", CONTEXT)
    with pytest.raises(SealBrokenError):
        open_sealed(KEY, sealed, "enterprises/tianshan/accounts/dealer")
    with pytest.raises(SealBrokenError):
        open_sealed(X25519PrivateKey.generate(), sealed, CONTEXT)
    dice = random.Random(1)
    for length in range(100):
        with pytest.raises(SealBrokenError):
            open_sealed(KEY, dice.randbytes(length), CONTEXT)


def test_keys__are_read_from_pem() -> None:
    """X25519 keys are read; other kinds are refused when the process starts, not at the first token."""
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert (
        open_sealed(load_private_key(private), seal(load_public_key(public), b"token", "c"), "c") == b"token"
    )

    other = Ed25519PrivateKey.generate()
    with pytest.raises(ValueError, match="X25519"):
        load_private_key(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    with pytest.raises(ValueError, match="X25519"):
        load_public_key(
            other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )
