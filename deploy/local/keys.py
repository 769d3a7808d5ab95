"""The secrets of a local platform: made up once, one file each, readable by its owner only."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


class Keys:
    """
    The files in a folder.

    Attributes:
        gateway: Ed25519, signs principals and access tokens; the public half in `gateway_public`.
        publishing: X25519, to which accounts seals network tokens; the public half in `publishing_public`.
        accounts_master: 32 bytes (base64url) that wrap the enterprises' data keys.
        placement_token: 32 bytes (base64url) that sign decision tokens.
        operator_secret: Of the OAuth2 client `operator`, the platform's staff.
        operators: Of the staff besides, by client (JSON); `reviewer` is made, who approves what `operator` proposes.
        network_secret: Of the OAuth2 client `network`, the microblog network's own systems.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.gateway = self._file("gateway.pem", lambda: _pem(Ed25519PrivateKey.generate()))
        self.gateway_public = self._file("gateway.pub.pem", lambda: _public_pem(self.gateway))
        self.publishing = self._file("publishing.pem", lambda: _pem(X25519PrivateKey.generate()))
        self.publishing_public = self._file("publishing.pub.pem", lambda: _public_pem(self.publishing))
        self.accounts_master = self._file("accounts-master-key", _random)
        self.placement_token = self._file("placement-token-key", _random)
        self.operator_secret = self._file("operator-client-secret", _random)
        self.operators = self._file("operators", lambda: json.dumps({"reviewer": _random()}))
        self.network_secret = self._file("network-client-secret", _random)

    def operator_secret_of(self, name: str) -> str:
        """The secret of one of `operators`."""
        return str(json.loads(self.operators.read_text())[name])

    def database_password(self, service: str) -> str:
        """The password of a service's application role."""
        return self.password(f"{service}-database")

    def broker_password(self, user: str) -> str:
        """The password of a service, or of the gateway, at the broker."""
        return self.password(f"{user}-broker")

    def password(self, name: str) -> str:
        """Any other password."""
        return self._file(f"{name}-password", _random).read_text()

    def _file(self, name: str, make: Callable[[], str]) -> Path:
        path = self.folder / name
        if not path.exists():
            fresh = path.with_name(f".{name}.{os.getpid()}")
            fresh.touch(mode=0o600)
            fresh.write_text(make())
            fresh.rename(path)
        return path


def _random() -> str:
    return secrets.token_urlsafe(32)


def _pem(key: Ed25519PrivateKey | X25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _public_pem(private: Path) -> str:
    key = load_pem_private_key(private.read_bytes(), password=None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
