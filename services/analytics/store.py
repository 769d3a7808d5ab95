"""Every SQL statement on PostgreSQL: facts and their log, which the columnar store follows, and guardrails' numbers."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, cast

from services.analytics.model import Fact, Post, Source, Tally
from services.chassis.database import Transaction

FACTS = "facts"
"""The change log that holds all facts, in the order in which they were taken in. It is the record of truth, and is kept."""

_PURGED_AT_ONCE = 10_000
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat).encode


class Log(NamedTuple):
    """The log of facts: which one it is (another database has another), and how far it goes."""

    id: str
    newest: int


def lock(tx: Transaction, enterprise: str) -> None:
    """Let nobody else take in an enterprise's facts until the transaction ends: what is known stays so meanwhile."""
    tx.execute("select pg_advisory_xact_lock(hashtext('analytics'), hashtext(%s))", (enterprise,))


def posts_known(tx: Transaction, enterprise: str, posts: Iterable[str]) -> dict[str, Post]:
    """Those of these posts that are known."""
    rows = tx.execute(
        "select post, time, publication, account from posts where enterprise = %s and post = any(%s)",
        (enterprise, list(posts)),
    )
    return {row["post"]: Post(**row) for row in rows.fetchall()}


def save_posts(tx: Transaction, enterprise: str, posts: Sequence[Post]) -> None:
    """Remember different posts; the first word on a post stands, but one that we published ourselves knows more."""
    tx.execute(
        """
        insert into posts as known (enterprise, post, time, publication, account)
        select %s, * from unnest(%s::text[], %s::timestamptz[], %s::text[], %s::text[])
        on conflict (enterprise, post) do update
          set time = excluded.time, publication = excluded.publication, account = excluded.account
          where known.publication = '' and excluded.publication <> ''
        """,
        (
            enterprise,
            [post.post for post in posts],
            [post.time for post in posts],
            [post.publication for post in posts],
            [post.account for post in posts],
        ),
    )


def ids_known(tx: Transaction, enterprise: str, ids: Sequence[str]) -> set[str]:
    """Those of these fact ids that are known."""
    rows = tx.execute(
        "select id from fact_ids where enterprise = %s and id = any(%s)", (enterprise, list(ids))
    )
    return {row["id"] for row in rows.fetchall()}


def claim_ids(tx: Transaction, enterprise: str, ids: Iterable[str]) -> set[str]:
    """Take these different fact ids; returns those that were taken before, and so are not new."""
    rows = tx.execute(
        """
        with given as materialized (select * from unnest(%(ids)s::text[]) as given (id)),
             claimed as (
               insert into fact_ids (enterprise, id) select %(enterprise)s, id from given order by id
               on conflict do nothing returning id
             )
        select id from given except all select id from claimed
        """,
        {"enterprise": enterprise, "ids": list(ids)},
    )
    return {row["id"] for row in rows.fetchall()}


def append_facts(tx: Transaction, enterprise: str, facts: Sequence[Fact]) -> int:
    """Append facts to the log, as one change that names its columns; returns its sequence number."""
    body = _encode({"columns": Fact._fields, "rows": facts})
    return tx.append_change(FACTS, enterprise, body.encode(), enterprise=enterprise)


def last_sequence(tx: Transaction) -> int:
    """The newest change of the log of facts, of those that the transaction sees."""
    return tx.last_change(FACTS)


def log(tx: Transaction) -> Log:
    """The log of facts; needs the scope PLATFORM."""
    row = tx.execute("select id from log").fetchall()[0]
    return Log(row["id"], last_sequence(tx))


def add_usage(tx: Transaction, tallies: Iterable[Tally]) -> None:
    """Add to guardrails' numbers. Rows are taken in one order, so that no two transactions wait for one another."""
    metrics, windows, enterprises, totals, bads = zip(*tallies, strict=True)
    tx.execute(
        """
        insert into usage as known (window_start, metric, enterprise, count, bad)
        select window_start, metric, enterprise, sum(total), sum(bad)
        from unnest(%s::text[], %s::timestamptz[], %s::text[], %s::bigint[], %s::bigint[])
          as given (metric, window_start, enterprise, total, bad)
        group by window_start, metric, enterprise order by window_start, metric, enterprise
        on conflict (window_start, metric, enterprise) do update
          set count = known.count + excluded.count, bad = known.bad + excluded.bad, changed = true
        """,
        [list(column) for column in (metrics, windows, enterprises, totals, bads)],
    )


def note_measured(tx: Transaction, source: Source, through: datetime) -> None:
    """Note until when everything from a source is in. It never goes back."""
    tx.execute(
        "update sources set measured_through = greatest(measured_through, %s) where source = %s",
        (through, source),
    )


def lock_untold(tx: Transaction, source: Source, since: datetime) -> bool:
    """Keep a source for this transaction. False: it was told since that time, maybe by another process a moment ago."""
    found = tx.execute(
        "select from sources where source = %s and told_time <= %s for update", (source, since)
    )
    return found.rowcount == 1


def measured_through(tx: Transaction, source: Source) -> datetime | None:
    """Until when everything from a source is in; None before anything is."""
    row = tx.execute("select measured_through from sources where source = %s", (source,)).fetchall()[0]
    return cast("datetime | None", row["measured_through"])


def note_told(tx: Transaction, source: Source) -> None:
    """Note that all of a source's numbers were told."""
    tx.execute("update sources set told_time = %s where source = %s", (tx.now, source))


def take_changed(tx: Transaction, metrics: Iterable[str], limit: int) -> list[Tally]:
    """
    Mark changed numbers of these metrics as told, the earliest windows first, and return them in order.

    What another transaction adds to at the moment is passed over; it is still marked as changed the next time.
    """
    rows = tx.execute(
        """
        with chosen as materialized (
          select window_start, metric, enterprise from usage where changed and metric = any(%s)
          order by window_start limit %s for update skip locked
        )
        update usage set changed = false from chosen
        where (usage.window_start, usage.metric, usage.enterprise) = (chosen.window_start, chosen.metric, chosen.enterprise)
        returning usage.metric, usage.window_start, usage.enterprise, usage.count as total, usage.bad
        """,
        (list(metrics), limit),
    )
    return sorted(Tally(**row) for row in rows)


def purge_usage(tx: Transaction, before: datetime) -> int:
    """Forget some of the numbers of windows before a time; needs the scope PLATFORM. Returns how many."""
    deleted = tx.execute(
        """
        delete from usage where ctid = any (array(
            select ctid from usage where window_start < %s limit %s for update skip locked))
        """,
        (before, _PURGED_AT_ONCE),
    )
    return deleted.rowcount
