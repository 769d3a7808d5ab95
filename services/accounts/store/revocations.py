"""Access tokens that are refused before they expire."""

from datetime import datetime

from services.accounts.model.revocations import Revocation
from services.chassis.database import Transaction


def revoke(tx: Transaction, subject: str, *, until: datetime) -> None:
    """
    Refuse, at every gateway within seconds of the commit, the access tokens of a member, client or session.

    It concerns tokens whose identity was read before (`read_time`). Save what changes first, then revoke, then commit soon: other
    revocations wait for this one.

    Args:
        tx: in which what the tokens stand for changes.
        subject: the member's or client's name, or the session's id.
        until: when the last of the tokens has expired, and the revocation may be forgotten.
    """
    tx.execute("select revoke(%s, %s)", (subject, until))


def read_time(tx: Transaction) -> datetime:
    """
    The time to give to an identity that was just read, in the order of revocations.

    Read the row with `for share` before: then no revocation of what was read can have an earlier time and commit later.
    """
    time: datetime = tx.execute("select clock_timestamp() as time").fetchall()[0]["time"]
    return time


def list_revocations(tx: Transaction, since: int, *, limit: int) -> list[Revocation]:
    """
    What was revoked after `since` and is in force, oldest first; everything when there has been no such number.

    So a gateway hears of all of it after a restored backup, in which numbers begin anew.
    """
    rows = tx.execute(
        """
        select * from revocations
        where expire_time > %(now)s
          and (sequence > %(since)s or %(since)s > coalesce(pg_sequence_last_value('revocation_sequence'), 0))
        order by sequence limit %(limit)s
        """,
        {"since": since, "now": tx.now, "limit": limit},
    )
    return [Revocation(**row) for row in rows]


def purge_revocations(tx: Transaction) -> None:
    """Forget what is in force no more."""
    tx.execute("delete from revocations where expire_time <= %s", (tx.now,))
