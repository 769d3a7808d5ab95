"""
Secrets at rest, by envelope encryption: each enterprise has a data key, which a key management service wraps.

AES-256-GCM with a random 96-bit nonce. Where a secret belongs (enterprise, resource, field, key version) is bound in
as associated data, so that a sealed secret opens nowhere else: not in another row, field or enterprise, and not as of
another key version.
"""

import hashlib
import json
import os
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

_NONCE = 12
_KEY_BITS = 256


class VaultError(Exception):
    """A secret does not open: it was changed, moved, or sealed with another key. Says where, never what."""


class Kms(Protocol):
    """
    A key management service: wraps data keys, and the few secrets that belong to no enterprise.

    It knows several keys. The newest one wraps; what older ones wrapped is unwrapped by them until they are forgotten.
    """

    @property
    def key_id(self) -> str:
        """The key that wraps. Kept beside what it has wrapped."""

    def wrap(self, secret: bytes, *place: str) -> bytes:
        """`secret`, wrapped for `place` by the newest key."""

    def unwrap(self, key_id: str, wrapped: bytes, *place: str) -> bytes:
        """What the key with this id wrapped for `place`. Raises VaultError, also when it knows no such key."""


class MasterKey:
    """One key of our own. See `MasterKeys`."""

    def __init__(self, key: bytes) -> None:
        """`key` is 32 random bytes. Raises ValueError for any other length."""
        if len(key) * 8 != _KEY_BITS:
            raise ValueError("the master key must be 32 bytes")
        self._cipher = AESGCM(key)
        self.id = hashlib.sha256(b"numerator master key" + key).hexdigest()[:16]
        """Tells master keys apart. Kept beside what each has wrapped; reveals nothing of the key."""

    def wrap(self, secret: bytes, *place: str) -> bytes:
        """`secret`, sealed for `place`."""
        return _seal(self._cipher, secret, (self.id, *place))

    def unwrap(self, wrapped: bytes, *place: str) -> bytes:
        """What was wrapped for `place`. Raises VaultError."""
        return _open(self._cipher, wrapped, (self.id, *place))


class MasterKeys:
    """The key management service that is made of keys from the settings. Keeps to `Kms`."""

    def __init__(self, newest: MasterKey, *older: MasterKey) -> None:
        self._newest = newest
        self._known = {key.id: key for key in (newest, *older)}

    @property
    def key_id(self) -> str:
        return self._newest.id

    def wrap(self, secret: bytes, *place: str) -> bytes:
        return self._newest.wrap(secret, *place)

    def unwrap(self, key_id: str, wrapped: bytes, *place: str) -> bytes:
        key = self._known.get(key_id)
        if key is None:
            raise VaultError(f"{'/'.join(place)} was wrapped by the master key {key_id}, which is not known")
        return key.unwrap(wrapped, *place)


class DataKey:
    """An enterprise's own key."""

    def __init__(self, enterprise: str, version: int, key: bytes) -> None:
        self.version = version
        self._enterprise = enterprise
        self._cipher = AESGCM(key)

    @classmethod
    def new(cls, kms: Kms, enterprise: str, version: int) -> tuple["DataKey", bytes]:
        """A fresh key, and what to keep of it beside `kms.key_id`."""
        key = AESGCM.generate_key(_KEY_BITS)
        return cls(enterprise, version, key), kms.wrap(key, *data_key_place(enterprise, version))

    @classmethod
    def unwrap(cls, kms: Kms, key_id: str, wrapped: bytes, enterprise: str, version: int) -> "DataKey":
        """The key that was kept. Raises VaultError."""
        return cls(enterprise, version, kms.unwrap(key_id, wrapped, *data_key_place(enterprise, version)))

    def seal(self, secret: SecretStr, resource: str, field: str) -> bytes:
        """`secret`, sealed for one field of one resource."""
        return self.seal_bytes(secret.get_secret_value().encode(), resource, field)

    def open(self, sealed: bytes, resource: str, field: str) -> SecretStr:
        """What was sealed for this field of this resource. Raises VaultError."""
        return SecretStr(self.open_bytes(sealed, resource, field).decode())

    def seal_bytes(self, content: bytes, resource: str, field: str) -> bytes:
        """The same for what is no text."""
        return _seal(self._cipher, content, self._place(resource, field))

    def open_bytes(self, sealed: bytes, resource: str, field: str) -> bytes:
        """The same for what is no text. Raises VaultError."""
        return _open(self._cipher, sealed, self._place(resource, field))

    def _place(self, resource: str, field: str) -> tuple[str, ...]:
        return (self._enterprise, resource, field, str(self.version))


def data_key_place(enterprise: str, version: int) -> tuple[str, ...]:
    """What the wrapping of an enterprise's data key is bound to."""
    return enterprise, "data key", str(version)


def _seal(cipher: AESGCM, secret: bytes, place: tuple[str, ...]) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + cipher.encrypt(nonce, secret, _associated(place))


def _open(cipher: AESGCM, sealed: bytes, place: tuple[str, ...]) -> bytes:
    try:
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _associated(place))
    # ValueError: too short to hold a nonce.
    except (InvalidTag, ValueError):
        raise VaultError(f"the secret of {'/'.join(place[1:])} does not open") from None


def _associated(place: tuple[str, ...]) -> bytes:
    """As JSON, because it keeps the parts apart: ("a", "bc") and ("ab", "c") differ."""
    return json.dumps(place).encode()
