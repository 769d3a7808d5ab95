"""
How a rollout moves: one transition function for each verb, used alike by the API, the CLI behind it, the scheduler and the
guardrails. Pure. Each refuses with FAILED_PRECONDITION what is not possible, and says what to do instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.chassis.errors import Kind, ServiceError, invalid
from services.rollout.model import Anchor, Cause, Rollout, RolloutState
from services.rollout.plan import Plan, Stage, duration_text

START_GATE = "start"
"""The gate before the first stage, for approvals."""

_STARTABLE = frozenset({RolloutState.DRAFT, RolloutState.ARMED})
_IN_A_STAGE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})
_ENDED = frozenset({RolloutState.DRAFT, RolloutState.COMPLETED, RolloutState.ROLLED_BACK})
_RAMP_STEP = 100
"""A ramp climbs in whole per cent, so that it makes a hundred changes at most."""


def arm(rollout: Rollout, approvals: int) -> Rollout:
    """Make a DRAFT ready to start at its time."""
    if rollout.state is not RolloutState.DRAFT:
        raise _refused("ROLLOUT_NOT_STARTABLE", rollout, "only a DRAFT can be armed")
    _check_approvals(rollout, START_GATE, approvals, rollout.plan.approvals_to_start)
    return replace(rollout, state=RolloutState.ARMED)


def start(rollout: Rollout, approvals: int, now: datetime) -> Rollout:
    """Enter the first stage."""
    if rollout.state not in _STARTABLE:
        raise _refused("ROLLOUT_NOT_STARTABLE", rollout, "only a DRAFT or an ARMED one can be started")
    _check_approvals(rollout, START_GATE, approvals, rollout.plan.approvals_to_start)
    return _enter(replace(rollout, state=RolloutState.RUNNING), rollout.plan.stages[0], now)


def advance(
    rollout: Rollout, gates: "tuple[Gate, ...]", now: datetime, *, skip_hold: bool = False
) -> Rollout:
    """Widen to the next stage."""
    index = _running(rollout)
    if index + 1 == len(rollout.plan.stages):
        raise _refused("LAST_STAGE", rollout, "there is no wider stage; complete it")
    # A person who advances is the one that a stage without a hold waits for.
    unmet = [gate for gate in gates if not gate.met and gate.kind != "PERSON"]
    if skip_hold:
        unmet = [gate for gate in unmet if gate.kind == "APPROVALS"]
    if any(gate.kind == "APPROVALS" for gate in unmet) and len(unmet) == 1:
        raise _refused("APPROVALS_MISSING", rollout, unmet[0].detail)
    if unmet:
        raise _refused("HOLD_NOT_MET", rollout, "; ".join(f"{gate.kind}: {gate.detail}" for gate in unmet))
    return _enter(rollout, rollout.plan.stages[index + 1], now)


def jump(rollout: Rollout, stage_id: str, approvals: Mapping[str, int], now: datetime) -> Rollout:
    """Enter any stage, but past no stage that asks for approvals that it has not."""
    index = _running(rollout)
    target = next((i for i, stage in enumerate(rollout.plan.stages) if stage.id == stage_id), None)
    if target is None:
        raise invalid("stage", f"must be one of {', '.join(stage.id for stage in rollout.plan.stages)}")
    for passed in rollout.plan.stages[index:target]:
        _check_approvals(rollout, passed.id, approvals.get(passed.id, 0), passed.hold.approvals)
    return _enter(rollout, rollout.plan.stages[target], now)


def rollback(rollout: Rollout, anchor: Anchor | None, cause: Cause, reason: str) -> Rollout:
    """Serve again what `anchor` says, and wait for a person."""
    if rollout.state not in {*_IN_A_STAGE, RolloutState.COMPLETED}:
        raise _refused("ROLLOUT_NOT_RUNNING", rollout, "nothing was widened that could be taken back")
    if anchor is None:
        raise _refused("NOTHING_TO_ROLL_BACK", rollout, "no widening is left that could be taken back")
    back = replace(
        rollout,
        state=RolloutState.ROLLED_BACK,
        stage=anchor.stage,
        stage_time=anchor.stage_time,
        cause=cause,
        reason=reason,
    )
    # The plan may take less in that stage than it did then; who had a seat then has it again all the same.
    stage = back.current_stage
    return replace(back, basis_points=min(anchor.basis_points, stage.basis_points) if stage else 0)


def restart(rollout: Rollout, now: datetime) -> Rollout:
    """Go on from where a rollback left it; what holds its stage begins anew."""
    if rollout.state is not RolloutState.ROLLED_BACK:
        raise _refused("ROLLOUT_NOT_ROLLED_BACK", rollout, "only a rolled back rollout can be restarted")
    if not rollout.stage:
        return replace(rollout, state=RolloutState.ARMED, cause=Cause.NONE, reason="")
    return replace(rollout, state=RolloutState.RUNNING, stage_time=now, cause=Cause.NONE, reason="")


def pause(rollout: Rollout, cause: Cause, reason: str) -> Rollout:
    """Let nobody new in."""
    _running(rollout)
    return replace(rollout, state=RolloutState.PAUSED, cause=cause, reason=reason)


def resume(rollout: Rollout) -> Rollout:
    """Let people in again."""
    if rollout.state is not RolloutState.PAUSED:
        raise _refused("ROLLOUT_NOT_PAUSED", rollout, "only a paused rollout can be resumed")
    return replace(rollout, state=RolloutState.RUNNING, cause=Cause.NONE, reason="")


def complete(rollout: Rollout) -> Rollout:
    """Let everybody in who is eligible, the control group too."""
    if _running(rollout) + 1 < len(rollout.plan.stages):
        raise _refused("NOT_LAST_STAGE", rollout, "advance it to its last stage first")
    return replace(rollout, state=RolloutState.COMPLETED)


def archive(rollout: Rollout) -> Rollout:
    """Put it away."""
    if rollout.state not in _ENDED:
        raise _refused("ROLLOUT_NOT_ENDED", rollout, "complete it or roll it back first")
    return replace(rollout, state=RolloutState.ARCHIVED)


def kill(rollout: Rollout, reason: str) -> Rollout:
    """Turn the flag off for everybody, in whatever state the rollout is."""
    return replace(rollout, killed=True, reason=rollout.reason or reason)


def unkill(rollout: Rollout) -> Rollout:
    """Serve again what was served."""
    stopped = rollout.cause is not Cause.NONE
    return replace(rollout, killed=False, reason=rollout.reason if stopped else "")


def change_plan(rollout: Rollout, plan: Plan, author: str, anchored: frozenset[str]) -> Rollout:
    """
    Put another plan in force. `anchored` are the stages that a rollback may go back to.

    Raises FAILED_PRECONDITION: `FLAG_FIXED`, or `STAGE_IN_USE` for a stage that is in force or anchored and would go.
    """
    if plan.flag != rollout.flag:
        raise _refused("FLAG_FIXED", rollout, f"it serves {rollout.flag} for ever; make another rollout")
    if rollout.state is RolloutState.ARCHIVED:
        raise _refused("ROLLOUT_ARCHIVED", rollout, "make another rollout")
    needed = (anchored | {rollout.stage}) - {""}
    if missing := needed - {stage.id for stage in plan.stages}:
        raise _refused("STAGE_IN_USE", rollout, f"the plan must keep the stages {', '.join(sorted(missing))}")
    changed = replace(rollout, plan=plan, plan_version=rollout.plan_version + 1, author=author)
    stage = changed.current_stage
    if stage is None or not rollout.current_stage:
        return changed
    # A stage that ramps climbs from where it is, when the clock is looked at next.
    climbed = min(rollout.basis_points, stage.basis_points)
    return replace(changed, basis_points=climbed if stage.ramp else stage.basis_points)


def climb(rollout: Rollout, now: datetime) -> Rollout:
    """
    The share that the stage takes now: while it ramps, a function of the clock alone.

    However long nobody looked, it comes out the same, and never above the stage's own share.
    """
    stage = rollout.current_stage
    if stage is None or rollout.state is not RolloutState.RUNNING:
        return rollout
    share = max(rollout.basis_points, _share(rollout, stage, now - (rollout.stage_time or now)))
    return rollout if share == rollout.basis_points else replace(rollout, basis_points=share)


@dataclass(frozen=True, slots=True)
class Gate:
    """
    One of the things that hold a stage.

    Attributes:
        kind: `TIME`, `EXPOSURES`, `WINDOW`, `ANALYSIS`, `APPROVALS` or `PERSON`.
        detail: how far it is, in words.
        meet_time: when it lets through by itself, where that is known.
    """

    kind: str
    met: bool
    detail: str
    meet_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What the gates ask about: exposures and approvals of the stage, and whether the last analysis lets it widen."""

    exposures: int = 0
    approvals: int = 0
    may_advance: bool = False


def gates(rollout: Rollout, progress: Progress, now: datetime) -> tuple[Gate, ...]:
    """What holds the stage, or the start, in the order in which it is asked: approvals come last, when all else is known."""
    stage = rollout.current_stage
    if stage is None:
        return _start_gates(rollout, progress, now)
    hold, found = stage.hold, []
    if hold.time:
        until = (rollout.stage_time or now) + hold.time
        found.append(
            Gate("TIME", now >= until, f"{_span(now - (until - hold.time))} of {_span(hold.time)}", until)
        )
    if hold.exposures:
        met = progress.exposures >= hold.exposures
        found.append(Gate("EXPOSURES", met, f"{progress.exposures} of {hold.exposures} enterprises"))
    if rollout.plan.guardrails:
        detail = (
            "the last analysis passed" if progress.may_advance else "no analysis has passed in this stage"
        )
        found.append(Gate("ANALYSIS", progress.may_advance, detail))
    if hold.window:
        opens = hold.window.next_open(now)
        met = hold.window.contains(now)
        found.append(Gate("WINDOW", met, "open" if met else f"opens {opens:%a %H:%M} UTC", opens))
    if hold.approvals:
        found.append(_approved(progress.approvals, hold.approvals))
    if hold.is_empty:
        found.append(Gate("PERSON", met=False, detail="waits for somebody to advance it"))
    return tuple(found)


def _start_gates(rollout: Rollout, progress: Progress, now: datetime) -> tuple[Gate, ...]:
    if rollout.state not in _STARTABLE:
        return ()
    start, needed, found = rollout.plan.start_at, rollout.plan.approvals_to_start, []
    if start:
        found.append(Gate("TIME", now >= start, f"starts {start:%Y-%m-%d %H:%M} UTC", start))
    if needed:
        found.append(_approved(progress.approvals, needed))
    return tuple(found)


def _approved(given: int, needed: int) -> Gate:
    return Gate("APPROVALS", given >= needed, f"{given} of {needed}")


def at_gate(found: tuple[Gate, ...]) -> bool:
    """
    Whether the stage has had the time and the exposures that it asks for, so that the analysis decides.

    Never where it asks for neither: then it is no wonder that there is too little to tell, and nothing waits for it.
    """
    asked = [gate.met for gate in found if gate.kind in {"TIME", "EXPOSURES"}]
    return bool(asked) and all(asked)


def is_due(rollout: Rollout, found: tuple[Gate, ...], now: datetime) -> bool:
    """Whether the scheduler moves it on: an armed one whose time has come, or a stage that nothing holds any more."""
    if rollout.killed:
        return False
    met = all(gate.met for gate in found)
    if rollout.state is RolloutState.ARMED:
        return met and rollout.plan.start_at is not None and rollout.plan.start_at <= now
    last = rollout.index is not None and rollout.index + 1 == len(rollout.plan.stages)
    return met and rollout.state is RolloutState.RUNNING and not last


def _enter(rollout: Rollout, stage: Stage, now: datetime) -> Rollout:
    entered = replace(rollout, stage=stage.id, stage_time=now)
    return replace(entered, basis_points=_share(entered, stage, timedelta(0)))


def _share(rollout: Rollout, stage: Stage, elapsed: timedelta) -> int:
    """The share of a stage `elapsed` after it was entered."""
    if elapsed >= stage.ramp:
        return stage.basis_points
    index = rollout.plan.stages.index(stage)
    before = rollout.plan.stages[index - 1].basis_points if index else 0
    begin = before if before < stage.basis_points else 0
    climbed = int((stage.basis_points - begin) * (elapsed / stage.ramp))
    return begin + climbed // _RAMP_STEP * _RAMP_STEP


def _running(rollout: Rollout) -> int:
    if rollout.state is not RolloutState.RUNNING or rollout.index is None:
        fix = {RolloutState.ROLLED_BACK: "restart it first", RolloutState.PAUSED: "resume it first"}
        raise _refused("ROLLOUT_NOT_RUNNING", rollout, fix.get(rollout.state, "start it first"))
    return rollout.index


def _check_approvals(rollout: Rollout, gate: str, given: int, needed: int) -> None:
    if given < needed:
        fix = f"{gate} has {given} of {needed} approvals: others approve it with ApproveRollout"
        raise _refused("APPROVALS_MISSING", rollout, fix)


def _refused(reason: str, rollout: Rollout, fix: str) -> ServiceError:
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        reason,
        f"{rollout.name} is {rollout.state.value}: {fix}",
        metadata={"name": rollout.name, "state": rollout.state.value},
    )


def _span(span: timedelta) -> str:
    return duration_text(span) or "0s"
