"""
Freezes, and the lock by which they hold against senders.

Whoever makes deliveries SENDING joins the enterprise's lock first (`join_sending`) and reads afterwards, in a
statement of its own, what is frozen. Whoever freezes takes the lock alone (`stop_sending`): it waits for all
transactions that began before it, so it reads all that they made SENDING; those that come later read the freeze.
"""

from datetime import datetime
from typing import LiteralString

from services.chassis.database import Transaction
from services.publishing.model.callers import Caller
from services.publishing.model.deliveries import Delivery, DeliveryState
from services.publishing.model.freezes import Freeze, InFlight, OnLift
from services.publishing.store.deliveries import to_delivery
from services.publishing.store.rows import Row, after_params


def stop_sending(tx: Transaction, enterprise: str) -> None:
    """Wait until no transaction is making deliveries of an enterprise SENDING; none will until this one ends."""
    tx.execute(
        "select pg_advisory_xact_lock(hashtext(current_schema() || ' sending'), hashtext(%s))", (enterprise,)
    )


def insert_freeze(tx: Transaction, freeze: Freeze) -> None:
    """Keep a new freeze."""
    tx.execute(
        """
        insert into freezes (enterprise, name, target, group_id, reason, on_lift, creator, by_platform, create_time,
          expire_time)
        values (%(enterprise)s, %(name)s, %(target)s, %(group_id)s, %(reason)s, %(on_lift)s, %(creator)s,
          %(by_platform)s, %(create_time)s, %(expire_time)s)
        """,
        {
            "enterprise": freeze.enterprise,
            "name": freeze.name,
            "target": freeze.target,
            "group_id": freeze.group_id,
            "reason": freeze.reason,
            "on_lift": freeze.on_lift,
            "creator": freeze.creator,
            "by_platform": freeze.by_platform,
            "create_time": freeze.create_time,
            "expire_time": freeze.expire_time,
        },
    )


def end_freeze(tx: Transaction, freeze: Freeze) -> None:
    """Keep that a freeze is lifted, by whom and when."""
    tx.execute(
        "update freezes set lifter = %s, lift_time = %s where enterprise = %s and name = %s",
        (freeze.lifter, freeze.lift_time, freeze.enterprise, freeze.name),
    )


_SEEN: LiteralString = """
select f.* from freezes f
where f.enterprise = %(enterprise)s and (%(reach)s::text[] is null or f.creator = %(caller)s or exists (
  select from places p
  where p.enterprise = f.enterprise and p.groups && %(reach)s
    and (f.target in (p.account, f.enterprise) or f.group_id = any (p.groups))
))
"""
"""An enterprise's freezes that concern an account within the caller's reach, or that the caller set."""


def freeze(tx: Transaction, enterprise: str, name: str, caller: Caller) -> Freeze | None:
    """One freeze, if the caller sees it."""
    row = tx.execute(
        _SEEN + "and f.name = %(name)s",
        {"enterprise": enterprise, "name": name, **caller.params},
    ).fetchone()
    return _freeze(row) if row else None


def lock_freeze(tx: Transaction, enterprise: str, name: str) -> Freeze | None:
    """One freeze, which nobody else can lift until the transaction ends."""
    row = tx.execute(
        "select * from freezes where enterprise = %s and name = %s for update", (enterprise, name)
    ).fetchone()
    return _freeze(row) if row else None


def lock_expired_freeze(tx: Transaction) -> Freeze | None:
    """A freeze in force whose time is over; passes over those that somebody lifts."""
    row = tx.execute(
        """
        select * from freezes where lift_time is null and expire_time <= %s
        order by expire_time limit 1 for update skip locked
        """,
        (tx.now,),
    ).fetchone()
    return _freeze(row) if row else None


def freezes(
    tx: Transaction,
    enterprise: str,
    after: tuple[datetime, str] | None,
    limit: int,
    *,
    lifted: bool,
    caller: Caller,
) -> list[Freeze]:
    """The freezes of an enterprise that the caller sees, newest first, older than `after` (create time and name)."""
    rows = tx.execute(
        _SEEN
        + """
        and (%(lifted)s or f.lift_time is null)
        and (%(time)s::timestamptz is null or (f.create_time, f.name) < (%(time)s, %(name)s))
        order by f.create_time desc, f.name desc limit %(limit)s
        """,
        {
            "enterprise": enterprise,
            "lifted": lifted,
            **after_params(after),
            **caller.params,
            "limit": limit,
        },
    )
    return [_freeze(row) for row in rows]


def in_flight(tx: Transaction, freeze: Freeze, caller: Caller) -> list[InFlight]:
    """What is SENDING or UNCONFIRMED on the accounts that a freeze in force holds, as far as the caller reaches."""
    if freeze.lift_time is not None:
        return []
    rows = tx.execute(
        """
        select d.name, d.account, d.state, coalesce(d.doubt_since, d.attempt_time) as since
        from deliveries d
        left join places p on (p.enterprise, p.account) = (d.enterprise, d.account)
        where d.enterprise = %(enterprise)s and d.state in ('SENDING', 'UNCONFIRMED')
          and (%(target)s in (d.account, d.enterprise) or %(group)s = any (p.groups))
          and (%(reach)s::text[] is null or p.groups && %(reach)s)
        order by d.account
        """,
        {**_target(freeze), **caller.params},
    )
    return [InFlight(row["name"], row["account"], DeliveryState(row["state"]), row["since"]) for row in rows]


def lock_held(tx: Transaction, freeze: Freeze) -> list[Delivery]:
    """Deliveries that are due and wait on the accounts that a freeze in force holds, locked."""
    rows = tx.execute(
        """
        select d.* from deliveries d
        left join places p on (p.enterprise, p.account) = (d.enterprise, d.account)
        where d.enterprise = %(enterprise)s and d.state = 'QUEUED' and d.due_time <= %(now)s
          and (%(target)s in (d.account, d.enterprise) or %(group)s = any (p.groups))
        order by d.account, d.ordinal for update of d
        """,
        {**_target(freeze), "now": tx.now},
    )
    return [to_delivery(row) for row in rows]


def count_frozen_accounts(tx: Transaction) -> int:
    """How many accounts are frozen."""
    row = tx.execute(
        "select count(*) as count from accounts a where freeze_of(a.enterprise, a.name) is not null"
    ).fetchone()
    return int(row["count"]) if row else 0


def count_held(tx: Transaction) -> int:
    """How many deliveries are due and wait for a freeze to be lifted."""
    row = tx.execute(
        """
        select count(*) as count from deliveries d
        where d.state = 'QUEUED' and d.due_time <= %s and freeze_of(d.enterprise, d.account) is not null
        """,
        (tx.now,),
    ).fetchone()
    return int(row["count"]) if row else 0


def _target(freeze: Freeze) -> Row:
    return {"enterprise": freeze.enterprise, "target": freeze.target, "group": freeze.group_id}


def _freeze(row: Row) -> Freeze:
    return Freeze(
        name=row["name"],
        enterprise=row["enterprise"],
        target=row["target"],
        reason=row["reason"],
        on_lift=OnLift(row["on_lift"]),
        creator=row["creator"],
        by_platform=row["by_platform"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        lifter=row["lifter"],
        lift_time=row["lift_time"],
    )
