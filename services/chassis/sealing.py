"""
Secrets on their way from one service to another: sealed to the receiver's public key, so that nothing between
them (broker, table, log) holds them readable.

HPKE (RFC 9180) in base mode: X25519, HKDF-SHA256, AES-256-GCM. A context, as the name of the resource to which
the secret belongs, is bound in: what was sealed for one resource does not open as another's.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealBrokenError(ValueError):
    """The bytes were not sealed to this key with this context, or were changed since."""


def load_public_key(pem: str) -> X25519PublicKey:
    """The receiver's public key. Raises ValueError for any other kind of key."""
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, X25519PublicKey):
        raise ValueError("a key to seal to must be X25519")  # noqa: TRY004 -- the PEM's content is a value
    return key


def load_private_key(pem: str) -> X25519PrivateKey:
    """The receiver's private key. Raises ValueError for any other kind of key."""
    key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, X25519PrivateKey):
        raise ValueError("a key to open seals with must be X25519")  # noqa: TRY004
    return key


def seal(public_key: X25519PublicKey, plaintext: bytes, context: str) -> bytes:
    """`plaintext` for the private key's holder alone. `context` is needed to open it, and is no secret."""
    return _SUITE.encrypt(plaintext, public_key, context.encode())


def open_sealed(private_key: X25519PrivateKey, sealed: bytes, context: str) -> bytes:
    """What was sealed. Raises SealBrokenError."""
    try:
        return _SUITE.decrypt(sealed, private_key, context.encode())
    except InvalidTag:
        raise SealBrokenError(f"what was sealed for {context} does not open") from None
