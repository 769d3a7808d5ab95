"""Secrets at rest: they open where they belong, and nowhere else."""

import os
import random
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from services.accounts.store.secrets import Sealed
from services.accounts.tests.vault_attacks import attack
from services.accounts.tests.vault_plants import plant, read_token
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import DataKey, MasterKey, MasterKeys, VaultError
from services.chassis.database import PLATFORM
from services.chassis.testing.databases import TemporaryDatabase

Make = Callable[..., TemporaryDatabase]
KEY_BYTES = os.urandom(32)
MASTER = MasterKeys(MasterKey(KEY_BYTES))
ENTERPRISE = "enterprises/a"
ACCOUNT = "enterprises/a/accounts/b"
FIELD = "access_token"
TOKEN = SecretStr("canary-token")
KEY, WRAPPED = DataKey.new(MASTER, ENTERPRISE, 1)


def test_data_key__opens_what_it_sealed() -> None:
    """Also after it was kept wrapped, and sealed never looks like the secret nor twice the same."""
    sealed = KEY.seal(TOKEN, ACCOUNT, FIELD)
    kept = DataKey.unwrap(MASTER, MASTER.key_id, WRAPPED, ENTERPRISE, 1)
    assert kept.open(sealed, ACCOUNT, FIELD).get_secret_value() == "canary-token"
    assert b"canary" not in sealed
    assert sealed != KEY.seal(TOKEN, ACCOUNT, FIELD)


def test_data_key__refuses_1000_random_changes() -> None:
    """Flipped bits, cut tails, added bytes: in the sealed token and in the wrapped key."""
    dice = random.Random(5)
    sealed = KEY.seal(TOKEN, ACCOUNT, FIELD)
    openers = {
        sealed: lambda changed: KEY.open(changed, ACCOUNT, FIELD),
        WRAPPED: lambda changed: DataKey.unwrap(MASTER, MASTER.key_id, changed, ENTERPRISE, 1),
    }
    for _ in range(1000):
        right = dice.choice([sealed, WRAPPED])
        changed = bytearray(right)
        match dice.randrange(3):
            case 0:
                bit = dice.randrange(len(changed) * 8)
                changed[bit // 8] ^= 1 << bit % 8
            case 1:
                del changed[dice.randrange(len(changed)) :]
            case _:
                changed += dice.randbytes(dice.randint(1, 16))
        with pytest.raises(VaultError):
            openers[right](bytes(changed))


def test_data_key__refuses_a_secret_from_another_place() -> None:
    """Rows that are swapped between accounts, fields, enterprises, key versions or master keys do not open."""
    sealed = KEY.seal(TOKEN, ACCOUNT, FIELD)
    for resource, field in [
        ("enterprises/a/accounts/c", FIELD),
        (ACCOUNT, "code_verifier"),
        (FIELD, ACCOUNT),
    ]:
        with pytest.raises(VaultError):
            KEY.open(sealed, resource, field)
    for master, enterprise, version in [
        (MASTER, "enterprises/b", 1),
        (MASTER, ENTERPRISE, 2),
        (MasterKeys(MasterKey(os.urandom(32))), ENTERPRISE, 1),
    ]:
        with pytest.raises(VaultError):
            DataKey.unwrap(master, master.key_id, WRAPPED, enterprise, version)
    # The same bytes of a key under another version or enterprise: a row that was rolled back.
    stolen = MASTER.unwrap(MASTER.key_id, WRAPPED, ENTERPRISE, "data key", "1")
    for enterprise, version in [(ENTERPRISE, 2), ("enterprises/b", 1)]:
        with pytest.raises(VaultError):
            DataKey(enterprise, version, stolen).open(sealed, ACCOUNT, FIELD)


def test_vault__tells_where_and_never_what() -> None:
    """Neither errors nor reprs hold a key or a secret."""
    with pytest.raises(VaultError) as refused:
        KEY.open(b"", ACCOUNT, FIELD)
    assert ACCOUNT in str(refused.value)
    for holder in (MasterKey(KEY_BYTES), KEY):
        assert not any(isinstance(value, bytes) for value in vars(holder).values())
    assert "canary" not in repr(TOKEN) + repr(vars(KEY))


def test_master_key__tells_keys_apart() -> None:
    """Its id is the same for the same key only, and a key of another length is refused."""
    key = os.urandom(32)
    assert MasterKey(key).id == MasterKey(key).id != MASTER.key_id
    with pytest.raises(ValueError, match="32 bytes"):
        MasterKey(b"short")


def test_vault__refuses_what_somebody_changed_in_the_database(make_database: Make) -> None:
    """Flipped bits, swapped rows, rolled back versions: of 500 random attacks of all kinds, none opens anything."""
    attacked = attack(make_database("accounts"), 500, seed=5)
    assert attacked.made.total() == 500
    assert len(attacked.made) == 10
    assert attacked.opened.total() == 0, attacked.opened


class RemoteKms:
    """A key management service as clouds have them: it keeps the keys, and finds out itself which one it was."""

    key_id = "remote/1"

    def __init__(self) -> None:
        self._key = MasterKey(os.urandom(32))
        self.asked: list[tuple[str, ...]] = []

    def wrap(self, secret: bytes, *place: str) -> bytes:
        self.asked.append(place)
        return self._key.wrap(secret, *place)

    def unwrap(self, key_id: str, wrapped: bytes, *place: str) -> bytes:
        self.asked.append((key_id, *place))
        return self._key.unwrap(wrapped, *place)


def test_vault__takes_any_kms(make_database: Make) -> None:
    """Data keys are wrapped by it for their place, and its key's id is kept beside them."""
    database, kms = make_database("accounts"), RemoteKms()
    planted = plant(database, Vault(kms), ENTERPRISE, 1)
    with database.transaction(PLATFORM) as tx:
        assert read_token(tx, Vault(kms), *planted) == planted[f"{ENTERPRISE}/accounts/a0"]
        (row,) = tx.execute("select master_key from data_keys").fetchall()
    assert row["master_key"] == "remote/1"
    assert kms.asked == [(ENTERPRISE, "data key", "1"), ("remote/1", ENTERPRISE, "data key", "1")]


def test_vault__opens_tokens_only_with_a_purpose(make_database: Make) -> None:
    """Whoever opens one without saying why is refused, whatever the token."""
    with make_database("accounts").transaction(PLATFORM) as tx:
        for field in ("access_token", "refresh_token"):
            with pytest.raises(ValueError, match="open_token"):
                Vault(MASTER).open(tx, Sealed(1, b""), ACCOUNT, field)
