"""Members' second factors, and their recovery codes."""

from collections.abc import Collection
from dataclasses import dataclass

from services.accounts.store.secrets import Sealed
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """What is kept of a member's second factor; `last_step` is that of the newest code that was used."""

    seed: Sealed
    last_step: int


def save_factor(tx: Transaction, member: str, seed: Sealed) -> None:
    """Keep a member's seed, in place of the one before and its recovery codes."""
    delete_factor(tx, member)
    tx.execute(
        """
        insert into second_factors (enterprise, member, key_version, sealed_seed, last_step, create_time)
        values (%s, %s, %s, %s, 0, %s)
        """,
        (enterprise_of(member), member, seed.key_version, seed.sealed, tx.now),
    )


def lock_factor(tx: Transaction, member: str) -> SecondFactor | None:
    """A member's second factor, with which nobody else logs in before this transaction ends."""
    row = tx.execute(
        "select * from second_factors where enterprise = %s and member = %s for update",
        (enterprise_of(member), member),
    ).fetchone()
    return SecondFactor(Sealed(row["key_version"], row["sealed_seed"]), row["last_step"]) if row else None


def use_step(tx: Transaction, member: str, step: int) -> None:
    """Keep that the code of a step was used."""
    tx.execute(
        "update second_factors set last_step = %s where enterprise = %s and member = %s",
        (step, enterprise_of(member), member),
    )


def delete_factor(tx: Transaction, member: str) -> None:
    """Forget a member's second factor and its recovery codes."""
    tx.execute(
        "delete from second_factors where enterprise = %s and member = %s", (enterprise_of(member), member)
    )


def insert_recovery_codes(tx: Transaction, member: str, hashes: Collection[bytes]) -> None:
    """Keep a member's recovery codes."""
    tx.executemany(
        "insert into recovery_codes (enterprise, member, hash) values (%s, %s, %s)",
        [(enterprise_of(member), member, each) for each in hashes],
    )


def use_recovery_code(tx: Transaction, member: str, code_hash: bytes) -> bool:
    """Use up a recovery code; False when it is none."""
    deleted = tx.execute(
        "delete from recovery_codes where enterprise = %s and member = %s and hash = %s",
        (enterprise_of(member), member, code_hash),
    )
    return deleted.rowcount == 1
