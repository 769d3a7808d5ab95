"""Publications."""

from datetime import datetime
from typing import LiteralString

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction
from services.publishing.model.callers import ITSELF, Caller
from services.publishing.model.deliveries import DeliveryState, Rule
from services.publishing.model.publications import PlanEntry, Publication, PublicationState, Variant
from services.publishing.store.rows import Row, after_params


def insert_publication(tx: Transaction, publication: Publication) -> None:
    """Keep a new publication."""
    tx.execute(
        """
        insert into publications (enterprise, name, text, variants, accounts, exclude_accounts, schedule_time,
          state, plan, interaction, creator, create_time, update_time)
        values (%(enterprise)s, %(name)s, %(text)s, %(variants)s, %(accounts)s, %(exclude_accounts)s,
          %(schedule_time)s, %(state)s, %(plan)s, %(interaction)s, %(creator)s, %(create_time)s, %(update_time)s)
        """,
        {
            "enterprise": publication.enterprise,
            "name": publication.name,
            "text": publication.text,
            "variants": Jsonb(
                [{"accounts": each.accounts, "text": each.text} for each in publication.variants]
            ),
            "accounts": list(publication.accounts),
            "exclude_accounts": list(publication.exclude_accounts),
            "interaction": publication.interaction,
            "creator": publication.creator,
            "create_time": publication.create_time,
            **_progress(publication),
        },
    )


def update_publication(tx: Transaction, publication: Publication) -> None:
    """Keep a publication's new state, time and frozen plan."""
    tx.execute(
        """
        update publications set schedule_time = %(schedule_time)s, state = %(state)s, plan = %(plan)s,
          update_time = %(update_time)s
        where enterprise = %(enterprise)s and name = %(name)s
        """,
        {"enterprise": publication.enterprise, "name": publication.name, **_progress(publication)},
    )


def _progress(publication: Publication) -> Row:
    plan = [
        {"account": entry.account, "handle": entry.handle, "rule": entry.rule, "text": entry.text}
        for entry in publication.plan
    ]
    return {
        "schedule_time": publication.schedule_time,
        "state": publication.state,
        "plan": Jsonb(plan),
        "update_time": publication.update_time,
    }


def lock_publication(
    tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF
) -> Publication | None:
    """A publication, if the caller sees it, that nobody else can change or materialise until the transaction ends."""
    tx.execute(
        "select 1 from publications where enterprise = %s and name = %s for update", (enterprise, name)
    )
    return publication(tx, enterprise, name, caller)


_PUBLICATIONS: LiteralString = """
select p.*, (
  select jsonb_object_agg(counted.state, counted.count) from (
    select d.state, count(*) from deliveries d
    where d.enterprise = p.enterprise and d.publication = p.name group by d.state
  ) counted
) as counts
from publications p
"""


_SEEN: LiteralString = """
(%(reach)s::text[] is null or p.creator = %(caller)s or exists (
  select from places a
  where a.enterprise = p.enterprise and a.groups && %(reach)s and case
    when p.plan <> '[]' then p.plan @> jsonb_build_array(jsonb_build_object('account', a.account))
    else (p.accounts = '{}' or a.account = any (p.accounts)) and not a.account = any (p.exclude_accounts)
  end
))
"""
"""The caller made it, or it has an account within reach: in its plan, or while it has none, among those that it is for."""


def publication(tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF) -> Publication | None:
    """One publication with its deliveries counted, if the caller sees it."""
    row = tx.execute(
        _PUBLICATIONS + "where p.enterprise = %(enterprise)s and p.name = %(name)s and " + _SEEN,
        {"enterprise": enterprise, "name": name, **caller.params},
    ).fetchone()
    return _publication(row) if row else None


def publications(
    tx: Transaction,
    enterprise: str,
    after: tuple[datetime, str] | None,
    limit: int,
    caller: Caller = ITSELF,
) -> list[Publication]:
    """Publications of an enterprise's own that the caller sees, newest first, older than `after` (create time and name)."""
    rows = tx.execute(
        _PUBLICATIONS
        + """
        where p.enterprise = %(enterprise)s and p.interaction = ''
          and (%(time)s::timestamptz is null or (p.create_time, p.name) < (%(time)s, %(name)s))
          and """
        + _SEEN
        + "order by p.create_time desc, p.name desc limit %(limit)s",
        {"enterprise": enterprise, **after_params(after), **caller.params, "limit": limit},
    )
    return [_publication(row) for row in rows]


def _publication(row: Row) -> Publication:
    return Publication(
        name=row["name"],
        enterprise=row["enterprise"],
        text=row["text"],
        variants=tuple(Variant(tuple(each["accounts"]), each["text"]) for each in row["variants"]),
        accounts=tuple(row["accounts"]),
        exclude_accounts=tuple(row["exclude_accounts"]),
        schedule_time=row["schedule_time"],
        state=PublicationState(row["state"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
        plan=tuple(
            PlanEntry(each["account"], each["handle"], Rule(each["rule"]), each["text"])
            for each in row["plan"]
        ),
        interaction=row["interaction"],
        creator=row["creator"],
        counts={DeliveryState(state): count for state, count in (row["counts"] or {}).items()},
    )
