"""Removing what has served its time."""

from datetime import datetime, timedelta
from typing import LiteralString

from services.chassis.database.transaction import KEPT, Transaction

SENT_KEPT = timedelta(days=7)
"""How long a sent event stays, so that a broker that lost its disk can be filled again."""

RECEIVED_KEPT = timedelta(days=30)
"""How long a handled event is remembered; longer than any dead letter is replayed after."""

BATCH = 10_000
"""The most rows that one call removes from one table: no call holds locks for long."""

_PURGES: tuple[tuple[LiteralString, timedelta], ...] = (
    (
        """
        delete from outbox where ctid = any (array(
          select ctid from outbox where sent_time < %s limit %s for update skip locked))
        """,
        SENT_KEPT,
    ),
    (
        """
        delete from inbox where ctid = any (array(
          select ctid from inbox where received_time < %s limit %s for update skip locked))
        """,
        RECEIVED_KEPT,
    ),
    (
        """
        delete from idempotency where ctid = any (array(
          select ctid from idempotency where create_time < %s limit %s for update skip locked))
        """,
        KEPT,
    ),
)


def purge(tx: Transaction, now: datetime) -> int:
    """
    Remove old rows of outbox (only sent ones), inbox and idempotency; needs the scope PLATFORM.

    Returns how many rows went. Call it again, in a new transaction, while that is not 0.
    """
    return sum(tx.execute(delete, (now - kept, BATCH)).rowcount for delete, kept in _PURGES)


def purge_changes(tx: Transaction, log: str, before: datetime) -> int:
    """
    Remove old changes of a log, once no follower can still need them; needs the scope PLATFORM.

    Returns how many rows went. Call it again, in a new transaction, while that is not 0.
    """
    deleted = tx.execute(
        "delete from changes where (log, sequence) in "
        "(select log, sequence from changes where log = %s and create_time < %s order by sequence limit %s)",
        (log, before, BATCH),
    )
    return deleted.rowcount
