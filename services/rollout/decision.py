"""
Who is in: the rules of admission. Pure, and the same for deciding, simulating and explaining.

The order of the questions is that of `refusal`: revoked, on the deny list, eligible, running, within an audience of the stage.
Whoever passes all of them gets a seat while there is one. Eligibility outranks stickiness, stickiness outranks shares:
an enterprise that is in stays in when a share or a quota shrinks, unless the plan says otherwise.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.chassis.buckets import BUCKETS
from services.rollout.model import (
    AdmissionState,
    Anchor,
    Reason,
    Record,
    Rollout,
    RolloutState,
    Source,
    Subject,
)
from services.rollout.plan import Audience, AudienceKind, Narrowing, Plan, Stage
from services.rollout.predicates import holds

_ADMITTING = frozenset({RolloutState.RUNNING, RolloutState.COMPLETED})
_TAKEN_BACK = frozenset({Reason.STAGE_ROLLED_BACK, Reason.NARROWED})
_NOT_TAKEN = frozenset({Reason.NOT_IN_AUDIENCE, Reason.NOT_IN_SHARE, Reason.HELD_OUT})


@dataclass(frozen=True, slots=True)
class Taken:
    """What of a rollout's seats is not in the records that are decided: how many are held, and the last seat's number."""

    held: int = 0
    last_seat: int = 0


def decide(
    rollout: Rollout,
    records: Iterable[Record],
    *,
    now: datetime,
    others: Taken = Taken(),
    anchor: Anchor | None = None,
    narrowed: Rollout | None = None,
) -> list[Record]:
    """
    Decide records of a rollout anew.

    After each decision nobody who could have a seat lacks one. So a change that concerns one enterprise, and gives up no
    seat, can be decided on its record alone with the `others` summed up, and comes out as if all had been looked at.

    Args:
        rollout: after its transition.
        records: all of them, or some when `others` says what the rest holds.
        now: the admission time of whoever enters.
        others: what the records that are not given hold.
        anchor: given by a rollback: exactly its enterprises hold seats afterwards, but for those that were revoked since.
        narrowed: given by an edit and by a jump: the rollout before. If it took more, the plan's policy says who leaves.

    Returns:
        The records in the order in which they were given.
    """
    given = list(records)
    outcome = {record.enterprise: _restore(record, anchor) for record in given}
    if narrowed is not None:
        outcome |= _narrow(narrowed, rollout, given)
    held = others.held + sum(record.held for record in outcome.values())
    last_seat = max([others.last_seat, *(record.seat or 0 for record in outcome.values())])
    quota = quota_of(rollout)
    queue: list[tuple[str, Record, Source]] = []
    for record in outcome.values():
        reason = refusal(rollout, record)
        if record.held:
            outcome[record.enterprise] = _seated(record, reason)
        elif reason is not Reason.NONE:
            outcome[record.enterprise] = _waiting(rollout, record, reason)
        else:
            source = _source(rollout, record)
            queue.append((_queue_key(record, source), record, source))
    for _, record, source in sorted(queue, key=lambda each: each[0]):
        if quota and held >= quota:
            outcome[record.enterprise] = _waiting(rollout, record, Reason.QUOTA_FULL)
            continue
        held += 1
        last_seat += record.seat is None
        outcome[record.enterprise] = replace(
            record,
            state=AdmissionState.ACTIVE,
            reason=Reason.NONE,
            source=record.source or source,
            stage=rollout.stage,
            seat=record.seat or last_seat,
            held=True,
            queue_key="",
            admit_time=record.admit_time or now,
        )
    return [outcome[record.enterprise] for record in given]


def refusal(rollout: Rollout, record: Record) -> Reason:
    """
    Why the enterprise gets no seat, whether or not there is one; NONE when it does.

    What is asked of whoever has a seat already ends with its eligibility: the rest is for those who want one.
    """
    if record.state is AdmissionState.REVOKED:
        return Reason.REVOKED
    if (reason := ineligible(rollout.plan, record)) is not Reason.NONE or record.held:
        return reason
    if rollout.killed:
        return Reason.EDITION_KILLED
    if rollout.state not in _ADMITTING:
        return record.reason if record.reason in _TAKEN_BACK else Reason.ROLLOUT_NOT_RUNNING
    return Reason.NONE if record.source is Source.MANUAL else _outside(rollout, record.subject)


def ineligible(plan: Plan, record: Record) -> Reason:
    """Why the enterprise may not be in at all; NONE when it may."""
    subject = record.subject
    if subject.listed == "DENY":
        return Reason.DENIED
    if holds(plan.eligible, subject.attributes):
        return Reason.NONE
    if not subject.verified:
        return Reason.VERIFICATION_REVOKED if record.held else Reason.NOT_VERIFIED
    return Reason.ELIGIBILITY_LOST if record.held else Reason.NOT_ELIGIBLE


def quota_of(rollout: Rollout) -> int:
    """The most enterprises that may hold a seat now; 0: any number."""
    stage = rollout.current_stage
    return stage.quota if stage and rollout.state is RolloutState.RUNNING else 0


def is_control(plan: Plan, subject: Subject) -> bool:
    """Whether the enterprise is of the group that shares never admit, to compare with."""
    return subject.control_bucket < plan.control_share


def admitting_rule(rollout: Rollout, subject: Subject) -> Source:
    """The rule of the present stage or one before it that takes the enterprise in; NONE when none does."""
    if subject.listed == "ALLOW":
        return Source.ALLOW
    if rollout.state is RolloutState.COMPLETED:
        return Source.BUCKET
    stages = reached(rollout)
    if subject.invited is not None and _opens_to(rollout.plan, stages, AudienceKind.INVITED):
        return Source.INVITATION
    for stage in stages:
        share = rollout.basis_points if stage.id == rollout.stage else stage.basis_points
        if subject.bucket < share and (source := _within(rollout.plan, stage.audience, subject)):
            return source
    return Source.NONE


def reached(rollout: Rollout) -> tuple[Stage, ...]:
    """The present stage and those before it: whom any of them takes is taken."""
    return () if rollout.index is None else rollout.plan.stages[: rollout.index + 1]


def _outside(rollout: Rollout, subject: Subject) -> Reason:
    """Why no rule takes the enterprise in; NONE when one does."""
    if admitting_rule(rollout, subject):
        return Reason.NONE
    stages = reached(rollout)
    if all(stage.audience.kind is not AudienceKind.EVERYONE for stage in stages):
        return Reason.NOT_IN_AUDIENCE
    return Reason.HELD_OUT if is_control(rollout.plan, subject) else Reason.NOT_IN_SHARE


def _opens_to(plan: Plan, stages: Iterable[Stage], kind: AudienceKind) -> bool:
    """Whether the stages so far take this kind in. In a plan without such a stage, an invitation is good from the first."""
    named = [stage for stage in plan.stages if stage.audience.kind is kind]
    return not named or any(stage in named for stage in stages)


def _within(plan: Plan, audience: Audience, subject: Subject) -> Source:
    match audience.kind:
        case AudienceKind.EVERYONE:
            return Source.NONE if is_control(plan, subject) else Source.BUCKET
        case AudienceKind.SEGMENT:
            found = plan.segments[audience.segment].has(subject.enterprise, subject.attributes)
            return Source.SEGMENT if found else Source.NONE
        case AudienceKind.TENANTS:
            return Source.SEGMENT if subject.enterprise in audience.tenants else Source.NONE
        case AudienceKind.JOINED:
            return Source.WAITLIST if subject.joined is not None else Source.NONE
        case AudienceKind.INVITED:
            return Source.INVITATION if subject.invited is not None else Source.NONE


def _source(rollout: Rollout, record: Record) -> Source:
    return admitting_rule(rollout, record.subject) or record.source


def _restore(record: Record, anchor: Anchor | None) -> Record:
    """Give seats to exactly those who had one at the anchor."""
    if anchor is None:
        return record
    if record.enterprise in anchor.held:
        if record.state is AdmissionState.REVOKED or record.held:
            return replace(record, stage=anchor.held[record.enterprise]) if record.held else record
        return replace(record, held=True, stage=anchor.held[record.enterprise])
    if not record.held:
        return record
    return replace(record, held=False, state=AdmissionState.SUSPENDED, reason=Reason.STAGE_ROLLED_BACK)


def _narrow(before: Rollout, rollout: Rollout, records: Sequence[Record]) -> Mapping[str, Record]:
    """
    Those who lose their seat because the rollout takes fewer than `before`.

    Too many are those whom a rule took before and none takes now, and whoever is over a quota that shrank. EXPEL_ALL: all of
    them; over the quota the newest. EXPEL_NEWEST_FIRST: of them, the newest, and only as many as exceed the stage's size: its
    share of its audience, but at least all whom a rule takes, and at most its quota. Nobody leaves who was taken by no rule
    before, as whoever was admitted by hand.
    """
    old, new, narrowing = before.current_stage, rollout.current_stage, rollout.plan.policies.narrowing
    if narrowing is Narrowing.KEEP or rollout.state is RolloutState.COMPLETED or old is None or new is None:
        return {}
    seated = sorted((record for record in records if record.held), key=lambda record: -(record.seat or 0))
    outside = [record for record in seated if _is_dropped(before, rollout, record)]
    leaves = {record.enterprise for record in outside}
    inside = [record for record in seated if record.enterprise not in leaves]
    most = new.quota if new.quota and (not old.quota or new.quota < old.quota) else len(seated)
    if narrowing is Narrowing.EXPEL_ALL:
        leaving = [*outside, *inside[: max(0, len(inside) - most)]]
    else:
        audience = sum(
            not ineligible(rollout.plan, record) and bool(_within(rollout.plan, new.audience, record.subject))
            for record in records
        )
        size = min(max(audience * rollout.basis_points // BUCKETS, len(inside)), most)
        leaving = [*outside, *inside][: max(0, len(seated) - size)]
    return {
        record.enterprise: replace(record, held=False, state=AdmissionState.SUSPENDED, reason=Reason.NARROWED)
        for record in leaving
    }


def _is_dropped(before: Rollout, after: Rollout, record: Record) -> bool:
    """Whether a rule took the enterprise before, and none does now."""
    subject = record.subject
    taken = record.source is Source.MANUAL or admitting_rule(after, subject)
    return not taken and bool(admitting_rule(before, subject))


def _seated(record: Record, reason: Reason) -> Record:
    """Who holds a seat is in, or rests while it is not eligible."""
    state = AdmissionState.SUSPENDED if reason else AdmissionState.ACTIVE
    return _with(record, state, reason, "")


def _waiting(rollout: Rollout, record: Record, reason: Reason) -> Record:
    """Out for now. Who was in before is suspended rather than waitlisted, so that people see that their place is kept."""
    if reason is Reason.REVOKED:
        return _with(record, AdmissionState.REVOKED, reason, "")
    if record.reason is Reason.NARROWED and reason in _NOT_TAKEN:
        reason = Reason.NARROWED
    state = AdmissionState.WAITLISTED if record.seat is None else AdmissionState.SUSPENDED
    eligible = ineligible(rollout.plan, record) is Reason.NONE
    queues = eligible and (reason is Reason.QUOTA_FULL or record.subject.joined is not None)
    return _with(record, state, reason, _queue_key(record, _source(rollout, record)) if queues else "")


def _queue_key(record: Record, source: Source) -> str:
    """
    The order of filling, as text: who had a seat, the allow list, accepted invitations, the waitlist, buckets; ties by the
    order of arrival.
    """
    subject = record.subject
    if record.seat is not None:
        part = (0, record.seat)
    elif source is Source.ALLOW:
        part = (1, 0)
    elif subject.invited is not None:
        part = (2, subject.invited)
    elif subject.joined is not None:
        part = (3, subject.joined)
    else:
        part = (4, subject.bucket)
    return f"{part[0]}{part[1]:012d}{subject.arrival:012d}"


def _with(record: Record, state: AdmissionState, reason: Reason, queue_key: str) -> Record:
    """The record itself where it says so already, as most of thousands do."""
    if (record.state, record.reason, record.queue_key) == (state, reason, queue_key):
        return record
    return replace(record, state=state, reason=reason, queue_key=queue_key)


@dataclass(frozen=True, slots=True)
class Step:
    """One question of a decision: its name, whether it holds, and with which values, in words."""

    rule: str
    holds: bool
    detail: str


def explain(rollout: Rollout, record: Record, held: int) -> list[Step]:
    """
    How the decision on an enterprise comes about: the questions in their order, up to the first that does not hold.

    `held` is how many seats of the rollout are taken.
    """
    subject, quota = record.subject, quota_of(rollout)
    reason = ineligible(rollout.plan, record)
    rule = Source.MANUAL if record.source is Source.MANUAL else admitting_rule(rollout, subject)
    share = f"bucket {subject.bucket} of 10000; {rollout.stage or 'no stage'} takes those below {rollout.basis_points}"
    control = ", control group" if is_control(rollout.plan, subject) else ""
    steps = [
        Step(
            "NOT_KILLED", not rollout.killed, "killed" if rollout.killed else f"{rollout.flag} is not killed"
        ),
        Step("NOT_REVOKED", record.state is not AdmissionState.REVOKED, f"record: {record.state.value}"),
        Step("NOT_DENIED", reason is not Reason.DENIED, f"list: {subject.listed or 'none'}"),
        Step(
            "ELIGIBLE",
            reason in {Reason.NONE, Reason.DENIED},
            f"{json.dumps(rollout.plan.eligible)} with {json.dumps(dict(subject.attributes))}",
        ),
    ]
    if record.held:
        steps.append(
            Step("HAS_SEAT", True, f"seat {record.seat}, by {record.source.value}, in {record.stage}")
        )
    else:
        steps += [
            Step("RUNNING", rollout.state in _ADMITTING, f"the rollout is {rollout.state.value}"),
            Step("WITHIN_STAGE", bool(rule), f"by {rule.value}" if rule else share + control),
            Step(
                "WITHIN_QUOTA",
                not quota or held < quota,
                f"{held} of {quota or 'any number of'} places are taken",
            ),
        ]
    first_no = next((index for index, step in enumerate(steps) if not step.holds), len(steps))
    return steps[: first_no + 1]
