"""Every SQL statement on PostgreSQL: which facts are known, and the log of facts that the columnar store follows."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from services.analytics.model import Fact, Post
from services.chassis.database import Transaction

FACTS = "facts"
"""The change log that holds all facts, in the order in which they were taken in. It is the record of truth, and is kept."""

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
