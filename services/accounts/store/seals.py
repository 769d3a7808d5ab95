"""Seals over the audit trail, and what they cover."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.chassis.database import Transaction

_PAGE = 200
# A moment that Python cannot hold was not written by us.
_SEAL = """
    select number, case when time between '0001-01-02' and '9999-12-30' then time end as time, entries, previous_hash, hash
    from audit_seals
"""


@dataclass(frozen=True, slots=True)
class Seal:
    """A link of the chain: the entries that it covers, by their sequence numbers. `time` is None where it is none of ours."""

    number: int
    time: datetime | None
    entries: Sequence[int]
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class SealedEntry:
    """
    An entry as it is hashed: all its columns, as texts.

    Attributes:
        early: whether it says to be older than the moment that was asked about.
    """

    content: Sequence[str | int | None]
    early: bool


def hold_seals(tx: Transaction) -> bool:
    """Nobody else seals before this transaction ends. False: somebody else does right now."""
    row = tx.execute(
        "select pg_try_advisory_xact_lock(hashtextextended('audit seals', 0)) as held"
    ).fetchone()
    return bool(row and row["held"])


def newest_seal(tx: Transaction) -> Seal | None:
    """The chain's last link."""
    row = tx.execute(_SEAL + " order by number desc limit 1").fetchone()
    return _seal(row) if row else None


def take_unsealed(tx: Transaction, limit: int) -> list[int]:
    """The sequence numbers of entries that no seal covers; from now on they count as covered."""
    rows = tx.execute(
        """
        delete from audit_unsealed where (enterprise, sequence) in (
          select enterprise, sequence from audit_unsealed order by sequence limit %s
        ) returning sequence
        """,
        (limit,),
    )
    return sorted(row["sequence"] for row in rows)


def insert_seal(tx: Transaction, seal: Seal) -> None:
    """Append a link."""
    tx.execute(
        "insert into audit_seals (number, time, entries, previous_hash, hash) values (%s, %s, %s, %s, %s)",
        (seal.number, seal.time, list(seal.entries), seal.previous_hash, seal.hash),
    )


def entries_of(
    tx: Transaction, sequences: Sequence[int], before: datetime | None = None
) -> list[SealedEntry]:
    """Entries by their sequence numbers, in that order; of one number there may be several when somebody has forged."""
    rows = tx.execute(
        """
        select sequence, enterprise, to_char(time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') as time,
               actor, action, subject, detail::text as detail, coalesce(time < %s, false) as early
        from audit where sequence = any (%s) order by sequence, enterprise
        """,
        (before, list(sequences)),
    ).fetchall()
    columns = ("sequence", "enterprise", "time", "actor", "action", "subject", "detail")
    return [SealedEntry([row[column] for column in columns], row["early"]) for row in rows]


def all_seals(tx: Transaction) -> Iterator[Seal]:
    """
    The whole chain, a page at a time; once in a transaction.

    By a cursor and not by numbers: an administrator who forges may also have dropped the key, and made numbers twice.
    """
    tx.execute("declare audit_chain no scroll cursor for " + _SEAL + " order by number")
    while rows := tx.execute(f"fetch {_PAGE} from audit_chain").fetchall():
        for row in rows:
            yield _seal(row)


def _seal(row: dict[str, Any]) -> Seal:
    return Seal(row["number"] or 0, row["time"], row["entries"] or (), row["previous_hash"], row["hash"])


def count_entries(tx: Transaction) -> tuple[int, int, datetime | None]:
    """How many entries there are, how many of them no seal covers, and since when the oldest of these waits."""
    row = tx.execute(
        """
        select (select count(*) from audit) as entries, count(*) as unsealed,
               min(case when time between '0001-01-02' and '9999-12-30' then time end) as since
        from audit_unsealed join audit using (enterprise, sequence)
        """
    ).fetchall()[0]
    return row["entries"], row["unsealed"], row["since"]
