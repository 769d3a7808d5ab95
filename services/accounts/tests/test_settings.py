"""The settings, as the environment gives them."""

import base64
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.accounts.settings import Settings
from services.accounts.vault import MasterKey
from services.chassis.testing.rpc import shared_keys

KEY = os.urandom(32)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A right environment."""
    public = X25519PrivateKey.generate().public_key()
    pem = tmp_path / "publishing.pub.pem"
    pem.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    secret = tmp_path / "operator-secret"
    secret.write_text("canary-operator-secret\n")
    for name, value in {
        "ACCOUNTS_DATABASE_URL": "postgresql://accounts:canary@127.0.0.1/numerator",
        "AMQP_URL": "amqp://127.0.0.1",
        "PRINCIPAL_PUBLIC_KEY": shared_keys().public,
        "ACCOUNTS_MASTER_KEY": base64.b64encode(KEY).decode(),
        "ACCOUNTS_PUBLISHING_PUBLIC_KEY_FILE": str(pem),
        "ACCOUNTS_OPERATOR_SECRET_FILE": str(secret),
        "ACCOUNTS_NETWORK_SECRET": "canary-network-secret",
        "ACCOUNTS_NETWORK_SERVERS": '["HTTPS://Social.example/"]',
        "ACCOUNTS_BINDING_REDIRECT_URI": "https://console.example/bound",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_settings__are_read(environment: pytest.MonkeyPatch, encode: object) -> None:
    """Values, files, lists, the master key in either alphabet and with or without padding; secrets are not shown."""
    environment.setenv("ACCOUNTS_MASTER_KEY", encode(KEY).decode().rstrip("="))
    settings = Settings.load()
    assert settings.open_master_keys().key_id == MasterKey(KEY).id
    assert settings.operator_secret.get_secret_value() == "canary-operator-secret"
    assert settings.operators == {}
    assert settings.network_servers == {"https://social.example"}
    assert "canary" not in repr(settings)


def test_settings__several_master_keys(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first line wraps, and the next still opens what it has wrapped."""
    keys = tmp_path / "master-key"
    newest = os.urandom(32)
    keys.write_text("".join(f"{base64.b64encode(key).decode()}\n" for key in (newest, KEY)))
    environment.delenv("ACCOUNTS_MASTER_KEY")
    environment.setenv("ACCOUNTS_MASTER_KEY_FILE", str(keys))
    kms, old = Settings.load().open_master_keys(), MasterKey(KEY)
    assert kms.key_id == MasterKey(newest).id
    assert kms.unwrap(old.id, old.wrap(b"data key", "x"), "x") == b"data key"


def test_settings__further_operators__from_a_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of names and secrets, as it is mounted into a container."""
    operators = tmp_path / "operators"
    operators.write_text('{"reviewer": "canary-reviewer-secret", "night-shift": "canary-night-secret"}\n')
    environment.setenv("ACCOUNTS_OPERATORS_FILE", str(operators))
    settings = Settings.load()
    assert {name: secret.get_secret_value() for name, secret in settings.operators.items()} == {
        "reviewer": "canary-reviewer-secret",
        "night-shift": "canary-night-secret",
    }
    assert "canary" not in repr(settings)


def test_settings__apps_of_weibo(environment: pytest.MonkeyPatch) -> None:
    """By the servers' base URLs in their normal form; none by default. Secrets are not shown."""
    assert Settings.load().weibo_apps == {}
    environment.setenv(
        "ACCOUNTS_WEIBO_APPS",
        '{"HTTPS://api.weibo.com/": {"client_id": "1234567890", "client_secret": "canary-app-secret"}}',
    )
    settings = Settings.load()
    (app,) = settings.weibo_apps.items()
    assert (app[0], app[1].client_id) == ("https://api.weibo.com", "1234567890")
    assert app[1].client_secret.get_secret_value() == "canary-app-secret"
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ACCOUNTS_MASTER_KEY", "canary-not-a-key"),
        ("ACCOUNTS_MASTER_KEY", f"{'A' * 43}\ncanary-not-a-key"),
        ("ACCOUNTS_MASTER_KEY", "\n"),
        ("ACCOUNTS_PUBLISHING_PUBLIC_KEY", shared_keys().public),
        ("ACCOUNTS_NETWORK_SECRET", "canary"),
        ("ACCOUNTS_OPERATORS", '{"reviewer": "canary"}'),
        ("ACCOUNTS_OPERATORS", '{"operator": "canary-operator-secret"}'),
        ("ACCOUNTS_OPERATORS", '{"network": "canary-operator-secret"}'),
        ("ACCOUNTS_OPERATORS", '{"Re viewer": "canary-operator-secret"}'),
        ("ACCOUNTS_NETWORK_SERVERS", '["canary"]'),
        ("ACCOUNTS_WEIBO_APPS", '{"canary": {"client_id": "1", "client_secret": "canary"}}'),
        ("ACCOUNTS_WEIBO_APPS", '{"https://api.weibo.com": {"client_id": "1"}}'),
    ],
)
def test_settings__say_what_is_wrong(environment: pytest.MonkeyPatch, name: str, wrong: str) -> None:
    """The variable, and never its value: the process does not start."""
    environment.setenv(name, wrong)
    with pytest.raises(SystemExit) as refused:
        Settings.load()
    assert name in str(refused.value)
    assert "canary" not in str(refused.value)
