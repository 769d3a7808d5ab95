"""Settings, and the worker as the tests call it, without a broker."""

import base64
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from services.accounts.settings import Settings
from services.accounts.tests.world import NETWORK_SECRET, OPERATOR_SECRET, REDIRECT_URI, SERVER
from services.accounts.worker import Worker
from services.chassis.testing.rpc import shared_keys


def make_settings(database_url: str = "postgresql://nowhere", audit_anchors: Path | None = None) -> Settings:
    """Settings with keys of their own."""
    public = X25519PrivateKey.generate().public_key()
    return Settings(
        database_url=SecretStr(database_url),
        amqp_url=SecretStr("amqp://nowhere"),
        principal_public_key=shared_keys().public,
        master_key=SecretStr(base64.b64encode(os.urandom(32)).decode()),
        publishing_public_key=public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        operator_secret=SecretStr(OPERATOR_SECRET),
        network_secret=SecretStr(NETWORK_SECRET),
        network_servers=frozenset({SERVER}),
        binding_redirect_uri=REDIRECT_URI,
        audit_anchors=audit_anchors,
    )


def make_worker() -> Worker:
    """A worker with keys of its own."""
    return Worker(make_settings())
