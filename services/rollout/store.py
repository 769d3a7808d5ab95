"""Every SQL statement of rollout: model objects in and out."""

from collections.abc import Iterable, Sequence
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
    """Store a rollout that was locked in this transaction."""
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


def lock_rollout(tx: Transaction, name: str) -> Rollout | None:
    """A rollout, locked until the transaction ends: who decides admissions holds this lock, so that quotas are exact."""
    row = tx.execute(_ROLLOUT + " where name = %s for update", (name,)).fetchone()
    return _rollout(row) if row else None


def lock_rollouts(tx: Transaction) -> list[Rollout]:
    """All rollouts, locked in one order."""
    return [_rollout(row) for row in tx.execute(_ROLLOUT + " order by name for update").fetchall()]


def all_rollouts(tx: Transaction) -> list[Rollout]:
    """All rollouts, by name. There is one for each flag, so there are few."""
    return [_rollout(row) for row in tx.execute(_ROLLOUT + " order by name").fetchall()]


def list_rollouts(tx: Transaction, *, limit: int, before: tuple[str, str] | None = None) -> list[Rollout]:
    """Rollouts, newest first, after the one with this creation time and name."""
    time, name = before or ("infinity", "")
    rows = tx.execute(
        _ROLLOUT
        + " where (create_time, name) < (%s::timestamptz, %s) order by create_time desc, name desc limit %s",
        (time, name, limit),
    )
    return [_rollout(row) for row in rows.fetchall()]


def count_admissions(tx: Transaction, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many are active and how many wait in each of these rollouts."""
    rows = tx.execute(
        """
        select rollout, count(*) filter (where state = 'ACTIVE') as active,
               count(*) filter (where state = 'WAITLISTED') as waiting
        from admissions where rollout = any(%s) group by rollout
        """,
        (list(names),),
    )
    return {row["rollout"]: (row["active"], row["waiting"]) for row in rows.fetchall()}


def save_enterprise(tx: Transaction, enterprise: str, *, verified: bool | None) -> None:
    """Remember an enterprise, and whether it is verified; None leaves that as it is."""
    tx.execute(
        """
        insert into enterprises as known (enterprise, verified) values (%(enterprise)s, coalesce(%(verified)s, false))
        on conflict (enterprise) do update set verified = coalesce(%(verified)s, known.verified)
        """,
        {"enterprise": enterprise, "verified": verified},
    )


def records(tx: Transaction, rollout: Rollout) -> list[Record]:
    """What is known and decided of every enterprise, also of those of which nothing is decided yet."""
    rows = tx.execute(
        """
        select e.enterprise, e.arrival, e.verified, a.state, a.reason, a.stage, a.position, a.bucket, a.seat, a.admit_time
        from enterprises e left join admissions a on a.enterprise = e.enterprise and a.rollout = %s
        order by e.arrival
        """,
        (rollout.name,),
    )
    return [_record(row, rollout.salt) for row in rows.fetchall()]


def get_record(tx: Transaction, rollout: Rollout, enterprise: str) -> Record | None:
    """What is known and decided of one enterprise."""
    row = tx.execute(
        """
        select e.enterprise, e.arrival, e.verified, a.state, a.reason, a.stage, a.position, a.bucket, a.seat, a.admit_time
        from enterprises e left join admissions a on a.enterprise = e.enterprise and a.rollout = %s
        where e.enterprise = %s
        """,
        (rollout.name, enterprise),
    ).fetchone()
    return _record(row, rollout.salt) if row else None


def page_records(
    tx: Transaction, rollout: Rollout, *, limit: int, after: tuple[int, int] | None = None
) -> list[tuple[tuple[int, int], Record]]:
    """Decided records with their sort keys: the active by seat, the suspended by seat, then the waitlist by arrival."""
    rows = tx.execute(
        """
        select * from (
            select e.enterprise, e.arrival, e.verified, a.state, a.reason, a.stage, a.position, a.bucket, a.seat, a.admit_time,
                   case a.state when 'ACTIVE' then 0 when 'SUSPENDED' then 1 else 2 end as part,
                   case a.state when 'WAITLISTED' then e.arrival else a.seat end as number
            from admissions a join enterprises e on e.enterprise = a.enterprise
            where a.rollout = %s
        ) as listed
        where (part, number) > (%s, %s) order by part, number limit %s
        """,
        (rollout.name, *(after or (-1, 0)), limit),
    )
    return [((row["part"], row["number"]), _record(row, rollout.salt)) for row in rows.fetchall()]


def save_records(tx: Transaction, rollout: Rollout, changed: Iterable[Record]) -> None:
    """Store decided records."""
    tx.executemany(
        """
        insert into admissions (rollout, enterprise, state, reason, stage, position, bucket, seat, admit_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (rollout, enterprise) do update set state = excluded.state, reason = excluded.reason, stage = excluded.stage,
               position = excluded.position, seat = excluded.seat, admit_time = excluded.admit_time
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
            for r in changed
        ],
    )


def next_snapshot_version(tx: Transaction) -> int:
    """The version of the snapshot to come. Serialises all who make one until their transactions end."""
    tx.execute("select pg_advisory_xact_lock(hashtext('rollout.snapshots'))")
    row = tx.execute("select version from snapshots").fetchone()
    return (row["version"] if row else 0) + 1


def save_snapshot(tx: Transaction, version: int, sha256: str, document: bytes) -> None:
    """Store the newest snapshot in the place of the one before."""
    tx.execute(
        """
        insert into snapshots (version, sha256, document) values (%s, %s, %s)
        on conflict (only_one) do update set version = excluded.version, sha256 = excluded.sha256, document = excluded.document
        """,
        (version, sha256, document),
    )


def get_snapshot(tx: Transaction) -> tuple[int, str, bytes] | None:
    """The newest snapshot: version, hash, compressed document."""
    row = tx.execute("select version, sha256, document from snapshots").fetchone()
    return (row["version"], row["sha256"], row["document"]) if row else None


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
        "anchors": Jsonb([{"stage": a.stage, "active": sorted(a.active)} for a in rollout.anchors]),
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
        anchors=tuple(Anchor(each["stage"], frozenset(each["active"])) for each in row["anchors"]),
        revision=row["revision"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _record(row: dict[str, Any], salt: str) -> Record:
    fresh = Record(row["enterprise"], row["arrival"], row["verified"], bucket_of(salt, row["enterprise"]))
    if row["state"] is None:
        return fresh
    return Record(
        enterprise=row["enterprise"],
        arrival=row["arrival"],
        verified=row["verified"],
        bucket=row["bucket"],
        state=AdmissionState(row["state"]),
        reason=Reason(row["reason"]),
        stage=row["stage"],
        position=row["position"],
        seat=row["seat"],
        admit_time=row["admit_time"],
    )
