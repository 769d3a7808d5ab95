"""The SQL of rollouts, of what is known of enterprises, and of the records of who is in: model objects in and out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from psycopg.types.json import Jsonb

from services.chassis.buckets import bucket_of
from services.chassis.database import Transaction
from services.rollout import plan as plans
from services.rollout.decision import Taken
from services.rollout.model import (
    AdmissionState,
    Anchor,
    Cause,
    Listed,
    Reason,
    Record,
    Rollout,
    RolloutState,
    Source,
    Subject,
)

_PART = "case a.state when 'ACTIVE' then 0 when 'SUSPENDED' then 1 when 'WAITLISTED' then 2 else 3 end"
_PLACE = _PART + ", coalesce(a.seat, e.arrival), a.enterprise"


def lock(tx: Transaction) -> None:
    """
    Wait until nobody else decides, and let others wait until the transaction ends.

    Whoever changes a rollout or learns of an enterprise comes through here first: so quotas are exact, a rollout that is
    being made misses no enterprise, and versions have one order.
    """
    tx.execute("select pg_advisory_xact_lock(hashtext('rollout'), hashtext('decisions'))")


# Rollouts


def insert_rollout(tx: Transaction, rollout: Rollout) -> bool:
    """Store a new rollout. False when its name or its flag is taken."""
    stored = tx.execute(
        """
        insert into rollouts (name, flag, salt, plan, plan_version, author, state, stage, stage_time, basis_points, killed,
                              cause, reason, revision, create_time, update_time)
        values (%(name)s, %(flag)s, %(salt)s, %(plan)s, %(plan_version)s, %(author)s, %(state)s, %(stage)s, %(stage_time)s,
                %(basis_points)s, %(killed)s, %(cause)s, %(reason)s, %(revision)s, %(create_time)s, %(update_time)s)
        on conflict do nothing
        """,
        _row(rollout),
    )
    return stored.rowcount == 1


def update_rollout(tx: Transaction, rollout: Rollout) -> None:
    """Store a changed rollout."""
    tx.execute(
        """
        update rollouts set plan = %(plan)s, plan_version = %(plan_version)s, author = %(author)s, state = %(state)s,
               stage = %(stage)s, stage_time = %(stage_time)s, basis_points = %(basis_points)s, killed = %(killed)s,
               cause = %(cause)s, reason = %(reason)s, revision = %(revision)s, update_time = %(update_time)s
        where name = %(name)s
        """,
        _row(rollout),
    )


_ROLLOUT = "select r.*, (select count(*) from anchors where rollout = r.name) as anchors from rollouts r"


def get_rollout(tx: Transaction, name: str) -> Rollout | None:
    """A rollout."""
    row = tx.execute(_ROLLOUT + " where name = %s", (name,)).fetchone()
    return _rollout(row) if row else None


def rollout_of_flag(tx: Transaction, flag: str) -> Rollout | None:
    """The rollout that serves a flag."""
    row = tx.execute(_ROLLOUT + " where flag = %s", (flag,)).fetchone()
    return _rollout(row) if row else None


def all_rollouts(tx: Transaction) -> list[Rollout]:
    """All rollouts, by name. There is one for each flag, so there are few."""
    return [_rollout(row) for row in tx.execute(_ROLLOUT + " order by name").fetchall()]


def list_rollouts(tx: Transaction, *, limit: int, before: tuple[str, str] | None = None) -> list[Rollout]:
    """Rollouts, newest first, after the one with this creation time (ISO 8601) and name."""
    time, name = before or (None, None)
    rows = tx.execute(
        _ROLLOUT
        + """
        where %(time)s::timestamptz is null or (create_time, name) < (%(time)s::timestamptz, %(name)s)
        order by create_time desc, name desc limit %(limit)s
        """,
        {"time": time, "name": name, "limit": limit},
    )
    return [_rollout(row) for row in rows.fetchall()]


def save_plan(tx: Transaction, rollout: Rollout) -> None:
    """Keep the plan in force as a version of its own."""
    tx.execute(
        "insert into plans (rollout, version, text, sha256, author, create_time) values (%s, %s, %s, %s, %s, %s)",
        (rollout.name, rollout.plan_version, rollout.plan.text, rollout.plan.sha256, rollout.author, tx.now),
    )


def page_plans(
    tx: Transaction, rollout: str, *, limit: int, before: int | None = None
) -> list[dict[str, Any]]:
    """Versions of a plan, newest first: version, text, sha256, author, create_time."""
    rows = tx.execute(
        """
        select version, text, sha256, author, create_time from plans
        where rollout = %(rollout)s and (%(before)s::integer is null or version < %(before)s)
        order by version desc limit %(limit)s
        """,
        {"rollout": rollout, "before": before, "limit": limit},
    )
    return rows.fetchall()


# Anchors


def push_anchor(tx: Transaction, rollout: Rollout, anchor: Anchor) -> None:
    """Remember what is served before a widening."""
    tx.execute(
        """
        insert into anchors (rollout, number, stage, stage_time, basis_points, held)
        select %(rollout)s, coalesce(max(number), 0) + 1, %(stage)s, %(stage_time)s, %(basis_points)s, %(held)s
        from anchors where rollout = %(rollout)s
        """,
        {
            "rollout": rollout.name,
            "stage": anchor.stage,
            "stage_time": anchor.stage_time,
            "basis_points": anchor.basis_points,
            "held": Jsonb(anchor.held),
        },
    )


def pop_anchor(tx: Transaction, rollout: Rollout, *, oldest: bool = False) -> Anchor | None:
    """Take the newest anchor away, or all of them down to the oldest; returns that one."""
    rows = tx.execute(
        """
        delete from anchors where rollout = %(rollout)s and number >=
          (select case when %(oldest)s then min(number) else max(number) end from anchors where rollout = %(rollout)s)
        returning number, stage, stage_time, basis_points, held
        """,
        {"rollout": rollout.name, "oldest": oldest},
    ).fetchall()
    if not rows:
        return None
    row = min(rows, key=lambda each: each["number"])
    del row["number"]
    return Anchor(**row)


def newest_anchor(tx: Transaction, rollout: Rollout) -> Anchor | None:
    """What a rollback would restore; None when there is nothing."""
    row = tx.execute(
        """
        select stage, stage_time, basis_points, held from anchors
        where rollout = %s order by number desc limit 1
        """,
        (rollout.name,),
    ).fetchone()
    return Anchor(**row) if row else None


def anchored_stages(tx: Transaction, rollout: str) -> frozenset[str]:
    """The stages that a rollback may go back to."""
    rows = tx.execute("select distinct stage from anchors where rollout = %s", (rollout,))
    return frozenset(row["stage"] for row in rows)


# What is known of enterprises


def save_enterprise(
    tx: Transaction,
    enterprise: str,
    *,
    verified: bool,
    told: datetime,
    attributes: Mapping[str, str] | None = None,
) -> bool:
    """Remember what was told of an enterprise, unless something newer is known. Whether this was news."""
    saved = tx.execute(
        """
        insert into enterprises as known (enterprise, verified, told_time, told_attributes)
        values (%(enterprise)s, %(verified)s, %(told)s, coalesce(%(attributes)s::jsonb, '{}'))
        on conflict (enterprise) do update set
          verified = excluded.verified, told_time = excluded.told_time,
          told_attributes = coalesce(%(attributes)s::jsonb, known.told_attributes)
          where known.told_time < excluded.told_time
        """,
        {
            "enterprise": enterprise,
            "verified": verified,
            "told": told,
            "attributes": None if attributes is None else Jsonb(dict(attributes)),
        },
    )
    return saved.rowcount == 1


def save_attributes(tx: Transaction, enterprise: str, attributes: dict[str, str]) -> bool:
    """Replace what operators set of an enterprise. False when it is not known."""
    saved = tx.execute(
        "update enterprises set set_attributes = %s where enterprise = %s", (Jsonb(attributes), enterprise)
    )
    return saved.rowcount == 1


def get_enterprise(tx: Transaction, enterprise: str) -> dict[str, Any] | None:
    """What is known of an enterprise: enterprise, arrival, verified, attributes."""
    return tx.execute(
        "select enterprise, arrival, verified, attributes from enterprises where enterprise = %s",
        (enterprise,),
    ).fetchone()


def subjects(
    tx: Transaction, rollout: Rollout, enterprises: Collection[str] | None = None
) -> dict[str, Subject]:
    """
    Enterprises in view of a rollout, by name: all, or these.

    Joined here, not by PostgreSQL: where row-level security lets everything through it expects a handful of rows, and its plan
    takes seconds for some thousands.
    """
    some = {
        "some": None if enterprises is None else list(enterprises),
        "rollout": rollout.name,
        "now": tx.now,
    }
    known = tx.execute(
        """
        select enterprise, arrival, verified, attributes from enterprises
        where %(some)s::text[] is null or enterprise = any(%(some)s) order by arrival
        """,
        some,
    ).fetchall()
    listed = tx.execute(
        """
        select enterprise, kind from list_entries
        where rollout = %(rollout)s and (expire_time is null or expire_time > %(now)s)
          and (%(some)s::text[] is null or enterprise = any(%(some)s))
        """,
        some,
    )
    lists = {row["enterprise"]: Listed(row["kind"]) for row in listed}
    accepted = tx.execute(
        """
        select accepted_by, min(number) as number from invitations
        where rollout = %(rollout)s and accepted_by is not null
          and (%(some)s::text[] is null or accepted_by = any(%(some)s)) group by accepted_by
        """,
        some,
    )
    invited = {row["accepted_by"]: row["number"] for row in accepted}
    waiting = tx.execute(
        """
        select enterprise, number from waitlist_entries
        where rollout = %(rollout)s and (%(some)s::text[] is null or enterprise = any(%(some)s))
        """,
        some,
    )
    joined = {row["enterprise"]: row["number"] for row in waiting}
    return {
        name: Subject(
            enterprise=name,
            arrival=row["arrival"],
            bucket=bucket_of(rollout.salt, name),
            control_bucket=bucket_of(f"{rollout.salt}/control", name),
            attributes=row["attributes"] | {"verified": row["verified"], "enterprise": name},
            listed=lists.get(name),
            invited=invited.get(name),
            joined=joined.get(name),
        )
        for row in known
        for name in [row["enterprise"]]
    }


# Records

_DECIDED = """
    select a.enterprise, a.state, a.reason, a.source, a.stage, a.seat, a.held, a.queue_key, a.admit_time from admissions a
"""


def records(
    tx: Transaction, rollout: Rollout, enterprises: Collection[str] | None = None
) -> tuple[dict[str, Record], list[Record]]:
    """
    A rollout's records by enterprise, as they were decided, with what is known of the enterprises now; and a first record
    for each enterprise of which nothing is decided. All, or these.
    """
    known = subjects(tx, rollout, enterprises)
    rows = tx.execute(
        _DECIDED
        + """
        where rollout = %(rollout)s and (%(some)s::text[] is null or enterprise = any(%(some)s))
        """,
        {"rollout": rollout.name, "some": None if enterprises is None else list(enterprises)},
    )
    decided = {row["enterprise"]: _record(known[row["enterprise"]], row) for row in rows}
    return decided, [Record(subject) for name, subject in known.items() if name not in decided]


def held(tx: Transaction, rollout: str) -> dict[str, str]:
    """Who has a seat, with the stage of the admission."""
    rows = tx.execute("select enterprise, stage from admissions where rollout = %s and held", (rollout,))
    return {row["enterprise"]: row["stage"] for row in rows}


def revoked(tx: Transaction, rollout: str) -> frozenset[str]:
    """Whose admission was revoked."""
    rows = tx.execute(
        "select enterprise from admissions where rollout = %s and state = 'REVOKED'", (rollout,)
    )
    return frozenset(row["enterprise"] for row in rows)


def taken(tx: Transaction, rollout: str, but: Collection[str]) -> Taken:
    """What of the seats all enterprises hold but these."""
    row = tx.execute(
        """
        select (select count(*) from admissions where rollout = %(rollout)s and held and enterprise <> all(%(but)s)) as held,
               (select coalesce(max(seat), 0) from admissions where rollout = %(rollout)s) as last_seat
        """,
        {"rollout": rollout, "but": list(but)},
    ).fetchall()[0]
    return Taken(row["held"], row["last_seat"])


def page_records(
    tx: Transaction, rollout: Rollout, *, limit: int, after: tuple[int, int, str] | None = None
) -> list[Record]:
    """Records after the one with this `listing_key`: the active by seat, the suspended by seat, the rest by arrival."""
    rows = tx.execute(
        _DECIDED
        + " join enterprises e on e.enterprise = a.enterprise where a.rollout = %s and ("
        + _PLACE
        + ") > (%s, %s, %s) order by "
        + _PLACE
        + " limit %s",
        (rollout.name, *(after or (-1, 0, "")), limit),
    ).fetchall()
    known = subjects(tx, rollout, [row["enterprise"] for row in rows])
    return [_record(known[row["enterprise"]], row) for row in rows]


def listing_key(record: Record) -> tuple[int, int, str]:
    """By what `page_records` orders."""
    order = [
        AdmissionState.ACTIVE,
        AdmissionState.SUSPENDED,
        AdmissionState.WAITLISTED,
        AdmissionState.REVOKED,
    ]
    number = record.subject.arrival if record.seat is None else record.seat
    return order.index(record.state), number, record.enterprise


def position(tx: Transaction, rollout: str, record: Record) -> int:
    """The place on the waitlist, from 1; 0 for whoever does not wait for a place."""
    return positions(tx, rollout, [record])[record.enterprise]


def positions(tx: Transaction, rollout: str, of: Iterable[Record]) -> dict[str, int]:
    """The places of several; of all enterprises, so it needs the platform's scope."""
    waiting = {record.enterprise: record.queue_key for record in of}
    rows = tx.execute(
        """
        select key, (select count(*) from admissions a where rollout = %s and queue_key <> '' and queue_key <= key) as place
        from unnest(%s::text[]) as key
        """,
        (rollout, [key for key in waiting.values() if key]),
    )
    places = {row["key"]: row["place"] for row in rows}
    return {enterprise: places.get(key, 0) for enterprise, key in waiting.items()}


def save_records(tx: Transaction, rollout: Rollout, decided: Iterable[Record], version: int) -> None:
    """Store decided records under a version of the admissions."""
    tx.executemany(
        """
        insert into admissions (rollout, enterprise, state, reason, source, stage, seat, held, queue_key, admit_time, version)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (rollout, enterprise) do update set state = excluded.state, reason = excluded.reason,
               source = excluded.source, stage = excluded.stage, seat = excluded.seat, held = excluded.held,
               queue_key = excluded.queue_key, admit_time = excluded.admit_time, version = excluded.version
        """,
        [
            (
                rollout.name, r.enterprise, r.state, r.reason, r.source, r.stage, r.seat, r.held, r.queue_key,
                r.admit_time, version,
            )
            for r in decided
        ],
    )  # fmt: skip


def count_admissions(tx: Transaction, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many are active and how many wait in each of these rollouts; one that is not there has nobody."""
    rows = tx.execute(
        """
        select rollout, count(*) filter (where state = 'ACTIVE') as active,
               count(*) filter (where state = 'WAITLISTED') as waiting
        from admissions where rollout = any(%s) group by rollout
        """,
        (list(names),),
    )
    return {row["rollout"]: (row["active"], row["waiting"]) for row in rows.fetchall()}


def count_records(tx: Transaction) -> dict[tuple[str, str, str], int]:
    """How many records there are, by rollout, stage and state."""
    rows = tx.execute(
        "select rollout, stage, state, count(*) as count from admissions group by rollout, stage, state"
    )
    return {(row["rollout"], row["stage"], row["state"]): row["count"] for row in rows}


def count_waiting(tx: Transaction) -> dict[str, int]:
    """How many wait for a place, by rollout; one for which nobody waits is missing."""
    rows = tx.execute(
        "select rollout, count(*) as count from admissions where queue_key <> '' group by rollout"
    )
    return {row["rollout"]: row["count"] for row in rows}


_parse = lru_cache(maxsize=64)(plans.parse)
"""Plans do not change under their text, and each decision reads them."""


def _row(rollout: Rollout) -> dict[str, Any]:
    return {
        "name": rollout.name,
        "flag": rollout.flag,
        "salt": rollout.salt,
        "plan": rollout.plan.text,
        "plan_version": rollout.plan_version,
        "author": rollout.author,
        "state": rollout.state,
        "stage": rollout.stage,
        "stage_time": rollout.stage_time,
        "basis_points": rollout.basis_points,
        "killed": rollout.killed,
        "cause": rollout.cause,
        "reason": rollout.reason,
        "revision": rollout.revision,
        "create_time": rollout.create_time,
        "update_time": rollout.update_time,
    }


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(
        **{
            **row,
            "plan": _parse(row["plan"]),
            "state": RolloutState(row["state"]),
            "cause": Cause(row["cause"]),
        }
    )


def _record(subject: Subject, row: dict[str, Any]) -> Record:
    decided = {key: value for key, value in row.items() if key != "enterprise"}
    return Record(
        subject,
        **{
            **decided,
            "state": AdmissionState(row["state"]),
            "reason": Reason(row["reason"]),
            "source": Source(row["source"]),
        },
    )
