"""Every SQL statement of rollout: model objects in and out."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction
from services.rollout.model import (
    AdmissionState,
    Anchor,
    Reason,
    Record,
    Rollout,
    RolloutState,
    Stage,
    bucket_of,
)

_ROLLOUT = "select * from rollouts"
_RECORD = """
    select e.enterprise, e.arrival, e.verified, a.state, a.reason, a.stage, a.position, a.bucket, a.seat, a.admit_time
    from admissions a join enterprises e on e.enterprise = a.enterprise
"""
_PART = "case a.state when 'ACTIVE' then 0 when 'SUSPENDED' then 1 else 2 end"
_NUMBER = "case a.state when 'WAITLISTED' then e.arrival else a.seat end"


def lock(tx: Transaction) -> None:
    """
    Wait until nobody else decides, and let others wait until the transaction ends.

    Whoever changes a rollout or learns of an enterprise comes through here first: so quotas are exact, a rollout that is
    being made misses no enterprise, and snapshots have one order.
    """
    tx.execute("select pg_advisory_xact_lock(hashtext('rollout'), hashtext('decisions'))")


def insert_rollout(tx: Transaction, rollout: Rollout) -> bool:
    """Store a new rollout. False when its name or its flag is taken."""
    stored = tx.execute(
        """
        insert into rollouts (name, flag, salt, stages, state, stage, killed, anchors, revision, create_time, update_time)
        values (%(name)s, %(flag)s, %(salt)s, %(stages)s, %(state)s, %(stage)s, %(killed)s, %(anchors)s, %(revision)s,
                %(create_time)s, %(update_time)s)
        on conflict do nothing
        """,
        _row(rollout),
    )
    return stored.rowcount == 1


def update_rollout(tx: Transaction, rollout: Rollout) -> None:
    """Store a changed rollout."""
    tx.execute(
        """
        update rollouts set state = %(state)s, stage = %(stage)s, killed = %(killed)s, anchors = %(anchors)s,
               revision = %(revision)s, update_time = %(update_time)s
        where name = %(name)s
        """,
        _row(rollout),
    )


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


def save_enterprise(tx: Transaction, enterprise: str, *, verified: bool, told: datetime) -> bool:
    """Remember whether an enterprise is verified, unless something newer is known. Whether this was news."""
    saved = tx.execute(
        """
        insert into enterprises as known (enterprise, verified, told_time) values (%s, %s, %s)
        on conflict (enterprise) do update set verified = excluded.verified, told_time = excluded.told_time
          where known.told_time < excluded.told_time
        """,
        (enterprise, verified, told),
    )
    return saved.rowcount == 1


def records(tx: Transaction, rollout: Rollout) -> tuple[dict[str, Record], list[Record]]:
    """
    A rollout's records by enterprise, as they were decided, with what is known of the enterprises now; and a first record
    for each enterprise of which nothing is decided.

    Joined here, not by PostgreSQL: where row-level security lets everything through it expects a handful of rows, and its plan
    takes seconds for some thousands.
    """
    enterprises = tx.execute("select enterprise, arrival, verified from enterprises").fetchall()
    admissions = tx.execute(
        "select enterprise, state, reason, stage, position, bucket, seat, admit_time from admissions where rollout = %s",
        (rollout.name,),
    ).fetchall()
    decisions = {row["enterprise"]: row for row in admissions}
    decided: dict[str, Record] = {}
    first: list[Record] = []
    for row in enterprises:
        name = row["enterprise"]
        decision = decisions.get(name)
        if decision is None:
            first.append(Record(**row, bucket=bucket_of(rollout.salt, name)))
        else:
            decided[name] = _record(row | decision)
    return decided, first


def get_record(tx: Transaction, rollout: Rollout, enterprise: str) -> Record | None:
    """What is known and decided of one enterprise; None when nobody told of it yet."""
    row = tx.execute(
        _RECORD + " where (a.rollout, a.enterprise) = (%s, %s)", (rollout.name, enterprise)
    ).fetchone()
    return _record(row) if row else None


def page_records(
    tx: Transaction, rollout: Rollout, *, limit: int, after: tuple[int, int] | None = None
) -> list[Record]:
    """Records after the one with this `listing_key`: the active by seat, the suspended by seat, the rest by arrival."""
    rows = tx.execute(
        _RECORD
        + f" where a.rollout = %s and ({_PART}, {_NUMBER}) > (%s, %s) order by {_PART}, {_NUMBER} limit %s",
        (rollout.name, *(after or (-1, 0)), limit),
    )
    return [_record(row) for row in rows.fetchall()]


def listing_key(record: Record) -> tuple[int, int]:
    """By what `page_records` orders."""
    part = {AdmissionState.ACTIVE: 0, AdmissionState.SUSPENDED: 1, AdmissionState.WAITLISTED: 2}[record.state]
    return part, record.arrival if record.seat is None else record.seat


def save_records(tx: Transaction, rollout: Rollout, decided: Iterable[Record]) -> None:
    """Store decided records."""
    tx.executemany(
        """
        insert into admissions (rollout, enterprise, state, reason, stage, position, bucket, seat, admit_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (rollout, enterprise) do update set state = excluded.state, reason = excluded.reason,
               stage = excluded.stage, position = excluded.position, seat = excluded.seat, admit_time = excluded.admit_time
        """,
        [
            (
                rollout.name,
                r.enterprise,
                r.state,
                r.reason,
                r.stage,
                r.position,
                r.bucket,
                r.seat,
                r.admit_time,
            )
            for r in decided
        ],
    )


def save_snapshot(tx: Transaction, version: int, sha256: str, document: bytes) -> None:
    """Store the newest snapshot in the place of the one before."""
    tx.execute(
        """
        insert into snapshots (version, sha256, document) values (%s, %s, %s)
        on conflict (only_one) do update set version = excluded.version, sha256 = excluded.sha256,
               document = excluded.document
        """,
        (version, sha256, document),
    )


def get_snapshot(tx: Transaction) -> tuple[int, str, bytes] | None:
    """The newest snapshot: version, hash, compressed document."""
    row = tx.execute("select version, sha256, document from snapshots").fetchone()
    return (row["version"], row["sha256"], row["document"]) if row else None


def snapshot_version(tx: Transaction) -> int:
    """The version of the newest snapshot; 0 before the first."""
    row = tx.execute("select version from snapshots").fetchone()
    return row["version"] if row else 0


def _row(rollout: Rollout) -> dict[str, Any]:
    return {
        "name": rollout.name,
        "flag": rollout.flag,
        "salt": rollout.salt,
        "stages": Jsonb(
            [{"id": s.id, "basis_points": s.basis_points, "quota": s.quota} for s in rollout.stages]
        ),
        "state": rollout.state,
        "stage": rollout.stage,
        "killed": rollout.killed,
        "anchors": Jsonb([{"stage": a.stage, "seated": sorted(a.seated)} for a in rollout.anchors]),
        "revision": rollout.revision,
        "create_time": rollout.create_time,
        "update_time": rollout.update_time,
    }


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(
        name=row["name"],
        flag=row["flag"],
        salt=row["salt"],
        stages=tuple(Stage(**stage) for stage in row["stages"]),
        state=RolloutState(row["state"]),
        stage=row["stage"],
        killed=row["killed"],
        anchors=tuple(Anchor(each["stage"], frozenset(each["seated"])) for each in row["anchors"]),
        revision=row["revision"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _record(row: dict[str, Any]) -> Record:
    return Record(**{**row, "state": AdmissionState(row["state"]), "reason": Reason(row["reason"])})
