"""
Somebody who may write to the database changes what is sealed: nothing of it may open.

For tests and `make verify-accounts`. That an account's *own* older token, of the same key version, can be put back is known, and no
attack here: only a new key version ends it.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psycopg.errors import DivisionByZero
from pydantic import SecretStr

from services.accounts.tests.vault_plants import keep_token, plant, read_token
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import MasterKey, MasterKeys, VaultError
from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.names import enterprise_of


@dataclass(frozen=True, slots=True)
class Attacked:
    """How many attacks of each kind were made, and how many of them opened something: that must be none."""

    made: Counter[str]
    opened: Counter[str]


def attack(database: Database, count: int, seed: int) -> Attacked:
    """
    Make `count` changes to sealed tokens and wrapped keys, each alone, and try to read the token that it concerns.

    `database` is empty. Two enterprises are planted; of the first, half of the tokens is sealed by the second version of its key.
    """
    dice = random.Random(seed)
    older, newer = MasterKey(os.urandom(32)), MasterKey(os.urandom(32))
    vault = Vault(MasterKeys(newer, older))
    scene = _Scene(vault, older.id, *_planted(database, vault))
    made, opened = Counter[str](), Counter[str]()
    for _ in range(count):
        kind = dice.choice(list(_KINDS))
        made[kind] += 1
        try:
            with database.transaction(PLATFORM) as tx:
                victim = dice.choice(scene.first)
                assert read_token(tx, vault, victim).startswith("canary-")
                _KINDS[kind](tx, dice, scene, victim)
                opened[kind] += _opens(tx, vault, victim)
                # Undone by an error: the next attack finds all as it was planted.
                tx.execute("select 1 / 0")
        except DivisionByZero:
            continue
    return Attacked(made, opened)


@dataclass(frozen=True, slots=True)
class _Scene:
    """
    What there is to take from.

    Attributes:
        master: the id of a master key that is known, and has wrapped nothing here.
        first: tokens of the first version of the key.
        second: tokens of the same enterprise, of the second version.
        others: tokens of another enterprise.
    """

    vault: Vault
    master: str
    first: list[str]
    second: list[str]
    others: list[str]


def _opens(tx: Transaction, vault: Vault, account: str) -> bool:
    try:
        read_token(tx, vault, account)
    except VaultError:
        return False
    return True


def _planted(database: Database, vault: Vault) -> tuple[list[str], list[str], list[str]]:
    north = list(plant(database, vault, "enterprises/north", 8))
    south = list(plant(database, vault, "enterprises/south", 4))
    with database.transaction(PLATFORM) as tx:
        vault.new_key(tx, "enterprises/north", 2)
        for account in north[4:]:
            keep_token(tx, vault, account, "canary-second")
    return north[:4], north[4:], south


def _flip(dice: random.Random, right: bytes) -> bytes:
    changed = bytearray(right)
    bit = dice.randrange(len(changed) * 8)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _token(tx: Transaction, account: str) -> bytes:
    (row,) = tx.execute("select sealed from tokens where account = %s", (account,)).fetchall()
    return bytes(row["sealed"])


def _put(tx: Transaction, account: str, sealed: bytes) -> None:
    tx.execute("update tokens set sealed = %s where account = %s", (sealed, account))


def _key(tx: Transaction, account: str, version: int = 1) -> bytes:
    (row,) = tx.execute(
        "select wrapped from data_keys where enterprise = %s and version = %s",
        (enterprise_of(account), version),
    ).fetchall()
    return bytes(row["wrapped"])


def _put_key(tx: Transaction, account: str, wrapped: bytes) -> None:
    tx.execute(
        "update data_keys set wrapped = %s where enterprise = %s and version = 1",
        (wrapped, enterprise_of(account)),
    )


def _flip_token(tx: Transaction, dice: random.Random, _: _Scene, victim: str) -> None:
    _put(tx, victim, _flip(dice, _token(tx, victim)))


def _cut_token(tx: Transaction, dice: random.Random, _: _Scene, victim: str) -> None:
    sealed = _token(tx, victim)
    _put(tx, victim, sealed[: dice.randrange(len(sealed))])


def _flip_key(tx: Transaction, dice: random.Random, _: _Scene, victim: str) -> None:
    _put_key(tx, victim, _flip(dice, _key(tx, victim)))


def _swap_account(tx: Transaction, dice: random.Random, scene: _Scene, victim: str) -> None:
    _put(tx, victim, _token(tx, dice.choice([each for each in scene.first if each != victim])))


def _swap_enterprise(tx: Transaction, dice: random.Random, scene: _Scene, victim: str) -> None:
    _put(tx, victim, _token(tx, dice.choice(scene.others)))


def _swap_enterprise_and_key(tx: Transaction, dice: random.Random, scene: _Scene, victim: str) -> None:
    other = dice.choice(scene.others)
    _put(tx, victim, _token(tx, other))
    _put_key(tx, victim, _key(tx, other))


def _swap_field(tx: Transaction, dice: random.Random, scene: _Scene, victim: str) -> None:
    sealed = scene.vault.seal(
        tx, SecretStr("canary"), victim, dice.choice(["refresh_token", "code_verifier"])
    )
    tx.execute(
        "update tokens set sealed = %s, key_version = %s where account = %s",
        (sealed.sealed, sealed.key_version, victim),
    )


def _swap_version(tx: Transaction, dice: random.Random, scene: _Scene, victim: str) -> None:
    number, whose = dice.choice([(2, victim), (1, dice.choice(scene.second))])
    tx.execute("update tokens set key_version = %s where account = %s", (number, whose))
    _put(tx, victim, _token(tx, whose))


def _roll_back_key(tx: Transaction, _: random.Random, __: _Scene, victim: str) -> None:
    _put_key(tx, victim, _key(tx, victim, version=2))


def _swap_master_key(tx: Transaction, _: random.Random, scene: _Scene, victim: str) -> None:
    tx.execute(
        "update data_keys set master_key = %s where enterprise = %s", (scene.master, enterprise_of(victim))
    )


_KINDS: Mapping[str, Callable[[Transaction, random.Random, _Scene, str], None]] = {
    "bit of a token": _flip_token,
    "end of a token": _cut_token,
    "bit of a key": _flip_key,
    "another account's token": _swap_account,
    "another enterprise's token": _swap_enterprise,
    "another enterprise's token and key": _swap_enterprise_and_key,
    "another field's secret": _swap_field,
    "another version": _swap_version,
    "another version's key": _roll_back_key,
    "another master key": _swap_master_key,
}
