"""The audit trail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done: by whom, as `account.bound`, to whom. Sequence numbers grow, and have gaps."""

    sequence: int
    time: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are asked for; what is empty or None is not asked for."""

    actor: str = ""
    action_prefix: str = ""
    subject: str = ""
    start: datetime | None = None
    end: datetime | None = None


def audit(
    tx: Transaction, *, enterprise: str, actor: str, action: str, subject: str, **detail: str | Sequence[str]
) -> None:
    """Write down who (`actor`) did what (`action`, as `account.bound`) to whom. No secrets in `detail`."""
    tx.execute(
        "insert into audit (enterprise, time, actor, action, subject, detail) values (%s, %s, %s, %s, %s, %s)",
        (enterprise, tx.now, actor, action, subject, Jsonb(detail)),
    )


def list_entries(
    tx: Transaction, enterprise: str, wanted: Filter, *, before: int | None, limit: int
) -> list[Entry]:
    """An enterprise's entries, newest first; only those before the one with this number, where given."""
    rows = tx.execute(
        """
        select sequence, time, actor, action, subject, detail from audit
        where enterprise = %(enterprise)s
          and (%(before)s::bigint is null or sequence < %(before)s)
          and (%(actor)s = '' or actor = %(actor)s)
          and (%(subject)s = '' or subject = %(subject)s)
          and starts_with(action, %(action_prefix)s)
          and (%(start)s::timestamptz is null or time >= %(start)s)
          and (%(end)s::timestamptz is null or time < %(end)s)
        order by sequence desc limit %(limit)s
        """,
        {
            "enterprise": enterprise,
            "before": before,
            "actor": wanted.actor,
            "subject": wanted.subject,
            "action_prefix": wanted.action_prefix,
            "start": wanted.start,
            "end": wanted.end,
            "limit": limit,
        },
    )
    return [Entry(**row) for row in rows]
