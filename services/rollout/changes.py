"""
Change requests: plans that others must approve before they are in force, and reviews of what was done without asking.

A subject of its own, so its SQL stands here and not in `store`. What happens to a change request is decided by pure functions
(`edited`, `approved`, …); the use cases (`edit`, `approve`, …) take `store.lock`, load, decide, save and write it down in the
audit trail, in the scope PLATFORM.

An approval is good for the content that its giver has read, on the plan that was in force then. `content_hash` covers the number
of edits, too, so that going back to former words revives nothing. Nobody approves what is their own, whoever they are.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError, invalid, not_found
from services.chassis.ids import new_id
from services.chassis.names import NamePattern
from services.rollout import audit, store
from services.rollout import plan as plans
from services.rollout.model import ROLLOUT_NAME, Rollout
from services.rollout.plan import Plan

CHANGE_NAME = NamePattern("rollouts/{rollout}/changes/{change}")

_LASTING = frozenset({Kind.INVALID_ARGUMENT, Kind.NOT_FOUND, Kind.ALREADY_EXISTS, Kind.FAILED_PRECONDITION})
"""The kinds of errors that trying again later does not help."""


class ChangeKind(StrEnum):
    """What a change request is about: a plan, or a kill or rollback that is looked at afterwards."""

    PLAN = "PLAN"
    REVIEW = "REVIEW"


class ChangeState(StrEnum):
    """Where a change request stands. For a REVIEW, APPROVED is the end."""

    IN_REVIEW = "IN_REVIEW"
    APPROVED = "APPROVED"
    SCHEDULED = "SCHEDULED"
    APPLIED = "APPLIED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    CONFLICTED = "CONFLICTED"


_LONGEST_REASON = 500
"""In characters; a review's has a word before what somebody said, who may have said as much."""
_OPEN = frozenset({ChangeState.IN_REVIEW, ChangeState.APPROVED, ChangeState.SCHEDULED})


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """
    A proposed plan, or a review.

    Attributes:
        reason: why, in its author's words.
        plan: the text; empty in a REVIEW.
        base_version: of the plan that was in force when it was proposed. Once another one is, it is CONFLICTED.
        approvals_needed: how many others must approve, as the plan in force asks.
        schedule_time: when it is applied by itself once it is approved; None: when somebody applies it.
        edits: how often it was edited.
        approvers: who has approved the content as it is.
        note: why it was rejected, or could not be applied.
    """

    name: str
    rollout: str
    kind: ChangeKind
    author: str
    reason: str
    base_version: int
    approvals_needed: int
    create_time: datetime
    update_time: datetime
    plan: str = ""
    schedule_time: datetime | None = None
    edits: int = 0
    state: ChangeState = ChangeState.IN_REVIEW
    approvers: tuple[str, ...] = ()
    note: str = ""

    @property
    def content_hash(self) -> str:
        """SHA-256 of all that is proposed."""
        time = self.schedule_time.timestamp() if self.schedule_time else None
        content = [self.rollout, self.kind, self.plan, self.reason, time, self.edits]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def is_open(self) -> bool:
        """Whether anything can still become of it."""
        return self.state in _OPEN and not (
            self.kind is ChangeKind.REVIEW and self.state is ChangeState.APPROVED
        )


class ApplyPlan(Protocol):
    """Puts a plan in force: `usecases.apply_plan`."""

    def __call__(self, tx: Transaction, plan: Plan, *, actor: str, approved: bool) -> object: ...


# What happens to a change request. Pure; each refuses what is not possible and says what to do instead.


def edited(change: ChangeRequest, *, actor: str, plan: str, reason: str) -> ChangeRequest:
    """Other words, by its author; whoever has approved has not approved these."""
    _check_plan(change)
    _check_open(change)
    _check_author(change, actor)
    other = replace(change, plan=plan, reason=reason or change.reason, edits=change.edits + 1, approvers=())
    return _reviewed(other)


def approved(change: ChangeRequest, *, actor: str, content_hash: str) -> ChangeRequest:
    """One more has read the content with this hash and agrees."""
    _check_open(change)
    if actor == change.author:
        raise _refused(
            "SELF_APPROVAL", f"{actor} proposed {change.name}: somebody else approves it", change=change.name
        )
    if content_hash != change.content_hash:
        raise ServiceError(
            Kind.ABORTED,
            "APPROVAL_STALE",
            f"{change.name} was edited: read it again, and approve the content_hash that it has now",
            metadata={"change": change.name, "contentHash": change.content_hash},
        )
    if actor in change.approvers:
        raise _refused(
            "ALREADY_APPROVED", f"{actor} has approved {change.name}: others are needed", change=change.name
        )
    return _reviewed(replace(change, approvers=(*change.approvers, actor)))


def rejected(change: ChangeRequest, *, actor: str, reason: str) -> ChangeRequest:
    """Somebody else says no."""
    _check_open(change)
    if actor == change.author:
        raise _refused(
            "SELF_APPROVAL",
            f"{actor} proposed {change.name}: somebody else decides on it",
            change=change.name,
        )
    return replace(change, state=ChangeState.REJECTED, note=reason)


def cancelled(change: ChangeRequest, *, actor: str) -> ChangeRequest:
    """Its author takes it back; a review cannot be taken back."""
    _check_plan(change)
    _check_open(change)
    _check_author(change, actor)
    return replace(change, state=ChangeState.CANCELLED)


def applied(change: ChangeRequest, *, now: datetime) -> ChangeRequest:
    """Its plan is put in force."""
    _check_plan(change)
    _check_open(change)
    if change.state is ChangeState.IN_REVIEW:
        fix = f"{len(change.approvers)} of {change.approvals_needed} others have approved it"
        raise _refused("CHANGE_NOT_APPROVED", f"{change.name}: {fix}", change=change.name)
    if change.schedule_time and now < change.schedule_time:
        fix = f"it was approved for {change.schedule_time.isoformat()}; cancel it, and propose it without a time"
        raise _refused("CHANGE_NOT_DUE", f"{change.name}: {fix}", change=change.name)
    return replace(change, state=ChangeState.APPLIED)


def conflicted(change: ChangeRequest, *, note: str) -> ChangeRequest:
    """It cannot be applied to what is in force now."""
    return replace(change, state=ChangeState.CONFLICTED, note=note)


def _reviewed(change: ChangeRequest) -> ChangeRequest:
    """In the state that its approvals give it."""
    if len(change.approvers) < change.approvals_needed:
        return replace(change, state=ChangeState.IN_REVIEW)
    return replace(change, state=ChangeState.SCHEDULED if change.schedule_time else ChangeState.APPROVED)


def _check_plan(change: ChangeRequest) -> None:
    if change.kind is ChangeKind.REVIEW:
        fix = "is a review of what was done: somebody else approves or rejects it"
        raise _refused("CHANGE_IS_REVIEW", f"{change.name} {fix}", change=change.name)


def _check_open(change: ChangeRequest) -> None:
    if change.state is ChangeState.CONFLICTED:
        fix = "was made for another plan than is in force now: propose it anew"
        raise _refused("CHANGE_CONFLICTED", f"{change.name} {fix}", change=change.name)
    if not change.is_open:
        fix = f"is {change.state.value}: propose another one"
        raise _refused("CHANGE_NOT_OPEN", f"{change.name} {fix}", change=change.name, state=change.state)


def _check_author(change: ChangeRequest, actor: str) -> None:
    if actor != change.author:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "NOT_THE_AUTHOR",
            f"{change.name} is {change.author}'s: reject it, and propose another one",
            metadata={"change": change.name, "author": change.author},
        )


def _refused(reason: str, message: str, **metadata: str) -> ServiceError:
    return ServiceError(Kind.FAILED_PRECONDITION, reason, message, metadata=metadata)


# Use cases


def propose(
    tx: Transaction,
    *,
    rollout: Rollout,
    plan: Plan,
    author: str,
    reason: str,
    schedule_time: datetime | None = None,
) -> ChangeRequest:
    """
    Propose a plan in the place of the one in force, which says how many must approve it.

    Raises INVALID_ARGUMENT when it is the plan of another rollout or its time has passed.
    """
    if plan.rollout != rollout.id:
        raise invalid("change_request.plan", f"must be a plan of {rollout.id}, as rollout: {rollout.id}")
    if schedule_time and schedule_time <= tx.now:
        raise invalid("change_request.schedule_time", "must lie ahead", reason="PAST")
    change = ChangeRequest(
        name=_new_name(rollout.name),
        rollout=rollout.name,
        kind=ChangeKind.PLAN,
        author=author,
        reason=reason,
        base_version=rollout.plan_version,
        approvals_needed=rollout.plan.approvals_to_change,
        create_time=tx.now,
        update_time=tx.now,
        plan=plan.text,
        schedule_time=schedule_time,
    )
    return _insert(tx, _reviewed(change), cause="change.proposed")


def open_review(
    tx: Transaction, *, rollout: str, author: str, reason: str, base_version: int
) -> ChangeRequest:
    """Ask somebody else to look at what `author` has done without asking, as a kill or a rollback."""
    change = ChangeRequest(
        name=_new_name(rollout),
        rollout=rollout,
        kind=ChangeKind.REVIEW,
        author=author,
        reason=reason[:_LONGEST_REASON],
        base_version=base_version,
        approvals_needed=1,
        create_time=tx.now,
        update_time=tx.now,
    )
    return _insert(tx, change, cause="review.opened")


def edit(tx: Transaction, name: str, *, actor: str, plan: Plan, reason: str = "") -> ChangeRequest:
    """Replace the proposed plan, and the reason unless it is empty."""
    before = _locked(tx, name)
    if f"rollouts/{plan.rollout}" != before.rollout:
        raise invalid("plan", f"must be a plan of {before.rollout.partition('/')[2]}")
    return _save(tx, edited(before, actor=actor, plan=plan.text, reason=reason), actor, "change.edited")


def approve(tx: Transaction, name: str, *, actor: str, content_hash: str) -> ChangeRequest:
    """Approve what has this content hash."""
    change = approved(_locked(tx, name), actor=actor, content_hash=content_hash)
    _insert_approval(tx, name, content_hash, change.base_version, actor)
    return _save(tx, change, actor, "change.approved")


def reject(tx: Transaction, name: str, *, actor: str, reason: str) -> ChangeRequest:
    """Say no, and why."""
    return _save(tx, rejected(_locked(tx, name), actor=actor, reason=reason), actor, "change.rejected")


def cancel(tx: Transaction, name: str, *, actor: str) -> ChangeRequest:
    """Take one's own change request back."""
    return _save(tx, cancelled(_locked(tx, name), actor=actor), actor, "change.cancelled")


def apply(tx: Transaction, name: str, *, actor: str, apply_plan: ApplyPlan) -> ChangeRequest:
    """Put an approved plan in force, as its author's. Raises what `apply_plan` raises."""
    return _apply(tx, _locked(tx, name), actor, apply_plan)


def apply_due(tx: Transaction, *, actor: str, apply_plan: ApplyPlan) -> list[ChangeRequest]:
    """
    Put in force whatever is approved and due, oldest first; returns what was due, each as it stands now.

    What cannot be applied any more is CONFLICTED; `note` has the reason. Errors that pass undo all, for the next time.
    """
    store.lock(tx)
    due = tx.execute(
        "select name from change_requests where state = 'SCHEDULED' and schedule_time <= %s order by schedule_time, name",
        (tx.now,),
    )
    return [_apply_one_due(tx, get(tx, row["name"]), actor, apply_plan) for row in due.fetchall()]


def get(tx: Transaction, name: str) -> ChangeRequest:
    """A change request. Raises NOT_FOUND."""
    rows = tx.execute(_SELECT + " where c.name = %s", (name,)).fetchall()
    if not rows:
        raise not_found(name)
    return _changes(tx, rows)[0]


def page(
    tx: Transaction, rollout: str | None, *, limit: int, before: tuple[str, str] | None = None
) -> list[ChangeRequest]:
    """Change requests of a rollout or of all (None), newest first, after the one with this creation time (ISO 8601) and name."""
    time, name = before or (None, None)
    rows = tx.execute(
        _SELECT
        + """
        where (%(rollout)s::text is null or c.rollout = %(rollout)s)
          and (%(time)s::timestamptz is null or (c.create_time, c.name) < (%(time)s::timestamptz, %(name)s))
        order by c.create_time desc, c.name desc limit %(limit)s
        """,
        {"rollout": rollout, "time": time, "name": name, "limit": limit},
    )
    return _changes(tx, rows.fetchall())


# Gates: the start of a rollout and the ends of its stages, which may ask for approvals, too


def approve_gate(
    tx: Transaction, *, rollout: str, gate: str, content_hash: str, approver: str, author: str
) -> int:
    """
    Approve that a rollout passes a gate (`start`, or the id of the stage that may end), with the plan of this hash, which is not
    the approver's own; returns how many have approved it.

    Whoever calls it holds `store.lock`, knows the gate, and writes it down. Raises FAILED_PRECONDITION: `SELF_APPROVAL`,
    `ALREADY_APPROVED`.
    """
    where = f"the gate {gate} of {rollout}"
    if approver == author:
        raise _refused(
            "SELF_APPROVAL", f"{approver} wrote the plan: somebody else approves {where}", gate=gate
        )
    if not _insert_approval(tx, _gate(rollout, gate), content_hash, 0, approver):
        raise _refused("ALREADY_APPROVED", f"{approver} has approved {where}: others are needed", gate=gate)
    return gate_approvals(tx, rollout=rollout, gate=gate, content_hash=content_hash)


def gate_approvals(tx: Transaction, *, rollout: str, gate: str, content_hash: str) -> int:
    """How many have approved that a rollout passes a gate with this plan."""
    row = tx.execute(
        "select count(*) as given from approvals where subject = %s and content_hash = %s",
        (_gate(rollout, gate), content_hash),
    ).fetchone()
    return int(row["given"]) if row else 0


def void_gates(tx: Transaction, rollout: str) -> None:
    """Forget the approvals of all gates, as after a rollback: what was approved then need not be so now."""
    tx.execute("delete from approvals where starts_with(subject, %s)", (_gate(rollout, ""),))


def _gate(rollout: str, gate: str) -> str:
    return f"{rollout}/gates/{gate}"


# How each is made

# A change whose plan is not based on the one in force is in conflict, whatever it was when that one came into force.
_SELECT = """
    select c.*, c.kind = 'PLAN' and c.base_version is distinct from r.plan_version as outdated
    from change_requests c left join rollouts r on r.name = c.rollout
"""


def _new_name(rollout: str) -> str:
    return CHANGE_NAME.format(**ROLLOUT_NAME.parse(rollout), change=new_id())


def _locked(tx: Transaction, name: str) -> ChangeRequest:
    store.lock(tx)
    return get(tx, name)


def _apply(tx: Transaction, change: ChangeRequest, actor: str, apply_plan: ApplyPlan) -> ChangeRequest:
    after = _save(tx, applied(change, now=tx.now), actor, "change.applied")
    apply_plan(tx, plans.parse(change.plan), actor=change.author, approved=True)
    return after


def _apply_one_due(
    tx: Transaction, change: ChangeRequest, actor: str, apply_plan: ApplyPlan
) -> ChangeRequest:
    try:
        with tx.savepoint():
            return _apply(tx, change, actor, apply_plan)
    except ServiceError as error:
        if error.kind not in _LASTING:
            raise
        return _save(tx, conflicted(change, note=error.reason), actor, "change.conflicted")


def _insert(tx: Transaction, change: ChangeRequest, *, cause: str) -> ChangeRequest:
    store.lock(tx)
    tx.execute(
        """
        insert into change_requests (name, rollout, kind, author, reason, plan, schedule_time, edits, base_version,
               approvals_needed, state, note, create_time, update_time)
        values (%(name)s, %(rollout)s, %(kind)s, %(author)s, %(reason)s, %(plan)s, %(schedule_time)s, %(edits)s, %(base_version)s,
                %(approvals_needed)s, %(state)s, %(note)s, %(create_time)s, %(update_time)s)
        """,
        asdict(change),
    )
    _write_down(tx, change, change.author, cause)
    return change


def _save(tx: Transaction, change: ChangeRequest, actor: str, cause: str) -> ChangeRequest:
    saved = replace(change, update_time=tx.now)
    tx.execute(
        """
        update change_requests set reason = %(reason)s, plan = %(plan)s, edits = %(edits)s, state = %(state)s, note = %(note)s,
               update_time = %(update_time)s
        where name = %(name)s
        """,
        asdict(saved),
    )
    _write_down(tx, saved, actor, cause)
    return saved


def _write_down(tx: Transaction, change: ChangeRequest, actor: str, cause: str) -> None:
    detail = {
        "change": change.name,
        "state": change.state,
        "reason": change.note or change.reason,
        "content_hash": change.content_hash,
        "base_version": change.base_version,
        "approvers": change.approvers,
    }
    audit.append(tx, actor=actor, cause=cause, rollout=change.rollout, detail=detail)


def _insert_approval(
    tx: Transaction, subject: str, content_hash: str, base_version: int, approver: str
) -> bool:
    """Store an approval. False when it is there."""
    stored = tx.execute(
        """
        insert into approvals (subject, content_hash, base_version, approver, time) values (%s, %s, %s, %s, %s)
        on conflict do nothing
        """,
        (subject, content_hash, base_version, approver, tx.now),
    )
    return stored.rowcount == 1


def _changes(tx: Transaction, rows: Sequence[dict[str, Any]]) -> list[ChangeRequest]:
    """The rows, each with the approvals of its content as it is, in the order in which they were given."""
    given = tx.execute(
        "select subject, content_hash, approver from approvals where subject = any(%s) order by time, approver",
        ([row["name"] for row in rows],),
    ).fetchall()
    return [_change(row, given) for row in rows]


def _change(row: dict[str, Any], given: Iterable[dict[str, Any]]) -> ChangeRequest:
    fields = {key: value for key, value in row.items() if key != "outdated"}
    change = ChangeRequest(**fields | {"kind": ChangeKind(row["kind"]), "state": ChangeState(row["state"])})
    if row["outdated"] and change.is_open:
        change = conflicted(change, note="CHANGE_CONFLICTED")
    content = (change.name, change.content_hash)
    approvers = [each["approver"] for each in given if (each["subject"], each["content_hash"]) == content]
    return replace(change, approvers=tuple(approvers))
