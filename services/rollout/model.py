"""The rules of staged admission: pure, and the same for deciding, simulating and explaining."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

import mmh3

from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.names import NamePattern

ROLLOUT_NAME = NamePattern("rollouts/{rollout}")
EDITION_FLAG = "enterprise-beta"
"""The flag that opens the edition."""

BUCKETS = 10_000
"""Buckets are basis points: 0 to 9999."""


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "DRAFT"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"


class AdmissionState(StrEnum):
    """Where an enterprise stands in a rollout."""

    WAITLISTED = "WAITLISTED"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


class Reason(StrEnum):
    """Why an enterprise is not in."""

    NONE = ""
    NOT_ON_THE_LIST = "NOT_ON_THE_LIST"
    NOT_VERIFIED = "NOT_VERIFIED"
    VERIFICATION_REVOKED = "VERIFICATION_REVOKED"
    NOT_IN_SHARE = "NOT_IN_SHARE"
    QUOTA_FULL = "QUOTA_FULL"
    ROLLOUT_NOT_RUNNING = "ROLLOUT_NOT_RUNNING"
    STAGE_ROLLED_BACK = "STAGE_ROLLED_BACK"
    EDITION_KILLED = "EDITION_KILLED"


NEXT_STEPS: Mapping[Reason, str] = {
    Reason.NONE: "",
    Reason.NOT_ON_THE_LIST: "Ask for verification with POST /v1/{enterprise}:requestVerification.",
    Reason.NOT_VERIFIED: "Ask for verification with POST /v1/{enterprise}:requestVerification. A verified enterprise is "
    "admitted by itself as soon as the stage has a place.",
    Reason.VERIFICATION_REVOKED: "Ask for verification again with POST /v1/{enterprise}:requestVerification. Your place is kept.",
    Reason.NOT_IN_SHARE: "Nothing to do: you are admitted by itself when the stage widens. GET /v1/edition tells.",
    Reason.QUOTA_FULL: "Nothing to do: you are admitted in your turn when the stage widens. GET /v1/edition tells your place.",
    Reason.ROLLOUT_NOT_RUNNING: "Nothing to do: nobody is admitted just now. GET /v1/edition tells when that changes.",
    Reason.STAGE_ROLLED_BACK: "Nothing to do: the stage was taken back, and your place is kept until it opens again.",
    Reason.EDITION_KILLED: "Nothing to do: the edition is switched off for everybody for the moment.",
}


def next_step(reason: Reason, enterprise: str) -> str:
    """What the enterprise can do about `reason`, in words."""
    return NEXT_STEPS[reason].replace("{enterprise}", enterprise)


def bucket_of(salt: str, enterprise: str) -> int:
    """
    The enterprise's place in 0..9999, for ever: MurmurHash3 x86 32 (seed 0) of `salt:enterprise`, scaled.

    Frozen: golden vectors guard it. A rollout's salt never changes, and so no widening moves anybody out.
    """
    return (mmh3.hash(f"{salt}:{enterprise}", 0, signed=False) * BUCKETS) >> 32


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a rollout: a share of the eligible in basis points, and the most that it takes (0: no limit)."""

    id: str
    basis_points: int
    quota: int = 0

    def is_narrower_than(self, other: "Stage") -> bool:
        """Whether `other` takes at least as many in every respect."""
        quota, other_quota = self.quota or float("inf"), other.quota or float("inf")
        return self.basis_points <= other.basis_points and quota <= other_quota


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a rollback restores: the stage before a widening, and the enterprises that held a seat in it."""

    stage: int
    seated: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rollout:
    """
    A staged rollout.

    Attributes:
        stage: the index of the stage that it is in; None in DRAFT.
        anchors: one for each widening that can still be rolled back, oldest first.
        revision: grows with every change.
    """

    name: str
    flag: str
    salt: str
    stages: tuple[Stage, ...]
    create_time: datetime
    update_time: datetime
    state: RolloutState = RolloutState.DRAFT
    stage: int | None = None
    killed: bool = False
    anchors: tuple[Anchor, ...] = ()
    revision: int = 1

    @property
    def current_stage(self) -> Stage | None:
        """The stage that it is in."""
        return None if self.stage is None else self.stages[self.stage]

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return str(self.revision)


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise INVALID_ARGUMENT unless there is a stage, ids differ, each takes somebody and none fewer than the one before."""
    if not stages:
        raise invalid("rollout.stages", "needs at least one stage", reason="REQUIRED")
    if len({stage.id for stage in stages}) < len(stages):
        raise invalid("rollout.stages", "ids must differ", reason="STAGE_ID_REPEATED")
    for index, stage in enumerate(stages):
        if not 0 < stage.basis_points <= BUCKETS:
            raise invalid(f"rollout.stages[{index}].basis_points", f"must be 1 to {BUCKETS}")
    for index, (narrow, wide) in enumerate(pairwise(stages), start=1):
        if not narrow.is_narrower_than(wide):
            raise invalid(
                f"rollout.stages[{index}]",
                "must take at least as many as the stage before it, in basis_points and quota",
                reason="STAGE_NARROWER",
            )


# One transition function each; API, worker and simulation all come through here.


def start(rollout: Rollout) -> Rollout:
    """Enter the first stage."""
    if rollout.state is not RolloutState.DRAFT:
        raise _refused("ROLLOUT_NOT_STARTABLE", rollout, "only a DRAFT can be started")
    return replace(rollout, state=RolloutState.RUNNING, stage=0)


def advance(rollout: Rollout, records: Iterable["Record"]) -> Rollout:
    """Widen to the next stage, remembering as the anchor who holds a seat in this one."""
    stage = _running(rollout)
    if stage + 1 == len(rollout.stages):
        raise _refused("LAST_STAGE", rollout, "there is no wider stage")
    anchor = Anchor(stage, frozenset(record.enterprise for record in records if record.holds_seat))
    return replace(rollout, stage=stage + 1, anchors=(*rollout.anchors, anchor))


def rollback(rollout: Rollout) -> tuple[Rollout, Anchor]:
    """
    Take the last widening back. The rollout rests in PAUSED, so that nothing but the anchor is served until
    somebody resumes it.
    """
    if rollout.stage is None:
        raise _refused("ROLLOUT_NOT_RUNNING", rollout, "start it first")
    if not rollout.anchors:
        raise _refused("NOTHING_TO_ROLL_BACK", rollout, "it is in its first stage")
    anchor = rollout.anchors[-1]
    paused = replace(rollout, state=RolloutState.PAUSED, stage=anchor.stage, anchors=rollout.anchors[:-1])
    return paused, anchor


def pause(rollout: Rollout) -> Rollout:
    """Let nobody new in."""
    _running(rollout)
    return replace(rollout, state=RolloutState.PAUSED)


def resume(rollout: Rollout) -> Rollout:
    """Let people in again."""
    if rollout.state is not RolloutState.PAUSED:
        raise _refused("ROLLOUT_NOT_PAUSED", rollout, "only a paused rollout can be resumed")
    return replace(rollout, state=RolloutState.RUNNING)


def kill(rollout: Rollout) -> Rollout:
    """Turn the flag off for everybody, in whatever state the rollout is."""
    return replace(rollout, killed=True)


def unkill(rollout: Rollout) -> Rollout:
    """Serve again what was served."""
    return replace(rollout, killed=False)


def _running(rollout: Rollout) -> int:
    if rollout.state is not RolloutState.RUNNING or rollout.stage is None:
        raise _refused("ROLLOUT_NOT_RUNNING", rollout, "start or resume it first")
    return rollout.stage


def _refused(reason: str, rollout: Rollout, fix: str) -> ServiceError:
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        reason,
        f"{rollout.name} is {rollout.state.value}: {fix}",
        metadata={"name": rollout.name, "state": rollout.state.value},
    )


@dataclass(frozen=True, slots=True)
class Record:
    """
    What is known and decided of one enterprise in one rollout.

    Attributes:
        arrival: the order in which the rollout heard of enterprises; the waitlist's order.
        position: the place on the waitlist, from 1; 0 for whoever does not wait for a place.
        seat: the order of the first admission; None before it. Kept for ever: a free place goes first to whoever had one.
        admit_time: of the first admission.
    """

    enterprise: str
    arrival: int
    verified: bool
    bucket: int
    state: AdmissionState = AdmissionState.WAITLISTED
    reason: Reason = Reason.NOT_VERIFIED
    stage: str = ""
    position: int = 0
    seat: int | None = None
    admit_time: datetime | None = None

    @property
    def holds_seat(self) -> bool:
        """Whether it counts against the quota: it is in, or would be but for its verification."""
        return self.state is AdmissionState.ACTIVE or self.reason is Reason.VERIFICATION_REVOKED


def decide(
    rollout: Rollout, records: Iterable[Record], *, now: datetime, anchor: Anchor | None = None
) -> list[Record]:
    """
    Decide all records of a rollout anew.

    Eligibility outranks stickiness: an enterprise that lost its verification is suspended and keeps its seat, also
    against the quota. Whoever is in stays in. Free seats go, in a rollout that runs and is not killed, first to those who
    had one before and then in the order of arrival, to enterprises whose bucket is within the stage's share.

    Args:
        rollout: after its transition.
        records: all of them, in any order.
        now: the admission time of whoever enters.
        anchor: given by a rollback: whoever holds a seat and is not in it loses it until the stage opens again.

    Returns:
        The records in the order of arrival.
    """
    outcome = {record.enterprise: _keep(record, anchor) for record in records}
    taken = sum(record.holds_seat for record in outcome.values())
    next_seat = max((record.seat or 0 for record in outcome.values()), default=0) + 1
    queue = sorted(
        (record for record in outcome.values() if record.verified and not record.holds_seat),
        key=lambda record: (record.seat is None, record.seat or 0, record.arrival),
    )
    stage, closed = rollout.current_stage, _closed(rollout)
    waiting = 0
    for record in queue:
        if stage is None or closed:
            rolled_back = record.reason is Reason.STAGE_ROLLED_BACK
            decided = record if rolled_back else _wait(record, closed)
        elif record.bucket >= stage.basis_points:
            decided = _wait(record, Reason.NOT_IN_SHARE)
        elif stage.quota and taken >= stage.quota:
            waiting += 1
            decided = _wait(record, Reason.QUOTA_FULL, waiting)
        else:
            taken += 1
            decided = replace(
                record,
                state=AdmissionState.ACTIVE,
                reason=Reason.NONE,
                stage=stage.id,
                position=0,
                seat=record.seat or next_seat,
                admit_time=record.admit_time or now,
            )
            next_seat += record.seat is None
        outcome[record.enterprise] = decided
    return sorted(outcome.values(), key=lambda record: record.arrival)


def _closed(rollout: Rollout) -> Reason:
    """Why a rollout gives out no seats at present; NONE when it does."""
    if rollout.killed:
        return Reason.EDITION_KILLED
    return Reason.NONE if rollout.state is RolloutState.RUNNING else Reason.ROLLOUT_NOT_RUNNING


def _keep(record: Record, anchor: Anchor | None) -> Record:
    """What holds before any free seat is given: the anchor of a rollback, and eligibility."""
    if not record.holds_seat:
        return record if record.verified else _wait(record, Reason.NOT_VERIFIED)
    if anchor is not None and record.enterprise not in anchor.seated:
        return _wait(record, Reason.STAGE_ROLLED_BACK if record.verified else Reason.NOT_VERIFIED)
    if not record.verified:
        return _wait(record, Reason.VERIFICATION_REVOKED)
    return _with(record, AdmissionState.ACTIVE, Reason.NONE, 0)


def _wait(record: Record, reason: Reason, position: int = 0) -> Record:
    """Out for now. Who was in before is suspended rather than waitlisted, so that people see that their place is kept."""
    state = AdmissionState.WAITLISTED if record.seat is None else AdmissionState.SUSPENDED
    return _with(record, state, reason, position)


def _with(record: Record, state: AdmissionState, reason: Reason, position: int) -> Record:
    """The record itself where it says so already, as most of thousands do."""
    if (record.state, record.reason, record.position) == (state, reason, position):
        return record
    return replace(record, state=state, reason=reason, position=position)
