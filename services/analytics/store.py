"""Every SQL statement on PostgreSQL: which facts are known, and the log of facts that the columnar store follows."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from services.analytics.model import Fact, Post
from services.chassis.database import Transaction

FACTS = "facts"
"""The change log that holds all facts, in the order in which they were taken in. It is the record of truth."""


def posts_known(tx: Transaction, enterprise: str, posts: Iterable[str]) -> dict[str, Post]:
    """Those of these posts that are known."""
    rows = tx.execute(
        "select post, time, publication, account from posts where enterprise = %s and post = any(%s)",
        (enterprise, sorted(set(posts))),
    )
    return {
        row["post"]: Post(row["post"], row["time"], row["publication"], row["account"])
        for row in rows.fetchall()
    }


def save_posts(tx: Transaction, enterprise: str, posts: Sequence[Post]) -> None:
    """Remember posts; the first word on a post stands, but one that we published ourselves knows more."""
    tx.executemany(
        """
        insert into posts as known (enterprise, post, time, publication, account) values (%s, %s, %s, %s, %s)
        on conflict (enterprise, post) do update
          set time = excluded.time, publication = excluded.publication, account = excluded.account
          where known.publication = '' and excluded.publication <> ''
        """,
        [(enterprise, p.post, p.time, p.publication, p.account) for p in posts],
    )


def ids_known(tx: Transaction, enterprise: str, ids: Sequence[str]) -> set[str]:
    """Those of these fact ids that are known."""
    rows = tx.execute(
        "select id from fact_ids where enterprise = %s and id = any(%s)", (enterprise, list(ids))
    )
    return {row["id"] for row in rows.fetchall()}


def claim_ids(tx: Transaction, enterprise: str, ids: Sequence[str]) -> set[str]:
    """
    Take these fact ids for this transaction; returns those that were new.

    In sorted order, so that two files with the same events wait for each other instead of deadlocking.
    """
    rows = tx.execute(
        """
        insert into fact_ids (enterprise, id) select %s, id from unnest(%s::text[]) as given (id) order by id
        on conflict do nothing returning id
        """,
        (enterprise, sorted(set(ids))),
    )
    return {row["id"] for row in rows.fetchall()}


def append_facts(tx: Transaction, enterprise: str, facts: Sequence[Fact]) -> int:
    """Append facts to the log, as one change; returns its sequence number."""
    body = json.dumps([_row(enterprise, fact) for fact in facts], ensure_ascii=False, separators=(",", ":"))
    return tx.append_change(FACTS, enterprise, body.encode(), enterprise=enterprise)


def last_sequence(tx: Transaction) -> int:
    """The newest change of the log of facts."""
    return tx.last_change(FACTS)


def _row(enterprise: str, fact: Fact) -> dict[str, Any]:
    """A row of the columnar store, without its sequence number."""
    return {
        "enterprise": enterprise,
        "id": fact.id,
        "kind": fact.kind,
        "time": _clickhouse_time(fact.time),
        "post": fact.post,
        "parent": fact.parent,
        "person": fact.person,
        "publication": fact.publication,
        "account": fact.account,
        "placement": fact.placement,
        "campaign": fact.campaign,
        "value": fact.value,
    }


def _clickhouse_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"
