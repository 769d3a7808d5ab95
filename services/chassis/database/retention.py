"""How long things are kept: removing what has served its time, and telling anew what has not."""

from datetime import datetime, timedelta
from typing import LiteralString

from services.chassis.database.transaction import KEPT, Transaction

SENT_KEPT = timedelta(days=7)
"""How long a sent event stays, so that a broker that lost its disk can be filled again."""

RECEIVED_KEPT = timedelta(days=30)
"""How long a handled event is remembered; longer than any dead letter is replayed after."""

RETOLD = RECEIVED_KEPT - SENT_KEPT
"""The age up to which an event may be told anew: in the week until it arrives no handler forgets that it had it."""

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


def retell(tx: Transaction, since: datetime) -> int:
    """
    Have the relay tell anew, in their order, the events that it has told since a time; needs the scope PLATFORM.

    Whoever has handled one does nothing. Events older than `RETOLD` stay told, because that would not be sure.

    Returns how many will be told anew.
    """
    update = "update outbox set sent_time = null where sent_time >= %s and time > %s"
    return tx.execute(update, (since, tx.now - RETOLD)).rowcount


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
