"""What is looked at before a backup is believed; tests/compose makes backups and restores them."""

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from deploy.compose.backup import Manifest, back_up, check
from deploy.compose.stack import Stack, StackError


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with the secrets that belong to data."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in ("accounts-master-key", "publishing.pem"):
        (folder / name).write_text(f"the {name} of this installation")
    return folder


@pytest.fixture
def backup(tmp_path: Path, secrets: Path) -> Path:
    """A whole backup that belongs to the secrets."""
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / "database.dump").write_bytes(b"rows")
    (folder / "roles.sql").write_text("create role accounts;")
    manifest = Manifest(
        time=datetime(2026, 1, 31, 12, tzinfo=UTC),
        version="1.0 abc",
        files={path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()},
        keys={path.name: sha256(path.read_bytes()).hexdigest() for path in secrets.iterdir()},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def test_check__whole__says_of_when_it_is(backup: Path, secrets: Path) -> None:
    """What was written is what is read."""
    assert check(backup, secrets).time == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_check__damaged__is_refused(backup: Path, secrets: Path) -> None:
    """One byte is enough."""
    (backup / "database.dump").write_bytes(b"rowz")

    with pytest.raises(StackError, match=r"damaged: database\.dump"):
        check(backup, secrets)


@pytest.mark.parametrize("missing", ["manifest.json", "roles.sql"])
def test_check__incomplete__is_refused(backup: Path, secrets: Path, missing: str) -> None:
    """A folder that lacks a file is no backup."""
    (backup / missing).unlink()

    with pytest.raises(StackError, match="is no backup"):
        check(backup, secrets)


@pytest.mark.parametrize("lost", [True, False])
def test_check__other_secrets__is_refused(backup: Path, secrets: Path, *, lost: bool) -> None:
    """With new keys the database would come up, and no token in it could be opened."""
    (secrets / "accounts-master-key").unlink()
    if not lost:
        (secrets / "accounts-master-key").write_text("made up anew")

    with pytest.raises(StackError, match="other secrets: accounts-master-key"):
        check(backup, secrets)


def test_back_up__folder_is_there__is_left_alone(backup: Path) -> None:
    """No backup is ever written over."""
    with pytest.raises(StackError, match="already"):
        back_up(Stack(), backup)

    assert (backup / "database.dump").read_bytes() == b"rows"
