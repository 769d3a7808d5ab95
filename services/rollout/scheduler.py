"""
What moves by itself: ramps, holds that are met, start times, lists that expire, guardrails, changes that are due.

Called each second by the worker, for each rollout in a transaction of its own. However many workers there are, one at a time
decides (`store.lock`), and each step is a function of what is stored and of the clock: late, twice or on two workers at once, it
comes out the same. A stage's time counts from when it was really entered, so that a backlog never runs through several stages.
"""

from datetime import timedelta

from services.chassis.database import Transaction
from services.chassis.logs import get_logger
from services.rollout import changes, decision, entries, measurements, metrics, store, transitions, usecases
from services.rollout.guardrails import Analysis, Look, check
from services.rollout.model import AdmissionState, Record, Rollout, RolloutState
from services.rollout.plan import Action, AudienceKind, GuardrailKind

SCHEDULER = "scheduler"
GUARDRAIL = "guardrail"
"""How the audit trail names them."""

_WATCHED = frozenset({RolloutState.RUNNING, RolloutState.PAUSED})
_log = get_logger(__name__)


def rollouts(tx: Transaction) -> list[Rollout]:
    """Those that may have something to do."""
    idle = {RolloutState.DRAFT, RolloutState.ARCHIVED}
    return [rollout for rollout in store.all_rollouts(tx) if rollout.state not in idle]


def expire(tx: Transaction) -> None:
    """Take entries off their lists whose time is over, and decide on those enterprises."""
    store.lock(tx)
    for name, enterprises in entries.expire_entries(tx).items():
        usecases.reconsider(tx, usecases.get_rollout(tx, name), enterprises, actor=SCHEDULER)


def apply_due_changes(tx: Transaction) -> None:
    """Put approved changes in force whose time has come."""
    changes.apply_due(tx, actor=SCHEDULER, apply_plan=usecases.apply_plan)


def step(tx: Transaction, name: str, *, look_every: timedelta) -> None:
    """Whatever is to be done for one rollout now: look at its guardrails, let it climb, start it, or widen it."""
    store.lock(tx)
    rollout = usecases.get_rollout(tx, name)
    watched = rollout.plan.guardrails and rollout.state in _WATCHED and not rollout.killed
    if watched and _is_time_to_look(tx, rollout, look_every):
        rollout = look(tx, rollout)
    climbed = transitions.climb(rollout, tx.now)
    if climbed is not rollout:
        rollout = usecases.climb(tx, rollout, climbed, actor=SCHEDULER)
    if not transitions.is_due(rollout, usecases.gates_of(tx, rollout), tx.now):
        return
    if rollout.state is RolloutState.ARMED:
        usecases.start(tx, name, "", SCHEDULER)
    else:
        usecases.advance(tx, name, "", SCHEDULER)


def _is_time_to_look(tx: Transaction, rollout: Rollout, look_every: timedelta) -> bool:
    last = measurements.page_analyses(tx, rollout.name, limit=1)
    return not last or last[0].stage != rollout.stage or tx.now - last[0].time >= look_every


def look(tx: Transaction, rollout: Rollout) -> Rollout:
    """Look at what is measured, keep what was found, and do what the plan says about it."""
    before = measurements.page_analyses(tx, rollout.name, limit=1)
    analysis = analyse(tx, rollout)
    measurements.save_analysis(tx, rollout.name, rollout.stage, analysis)
    metrics.looked(tx, rollout.name, analysis)
    tx.append_change(usecases.ROLLOUTS, rollout.name, {})
    running = rollout.state is RolloutState.RUNNING
    if analysis.action is Action.ROLLBACK:
        _log.warning("rollout.rolled_back", rollout=rollout.name, reason=analysis.reason)
        return usecases.rollback(tx, rollout.name, "", GUARDRAIL, analysis.reason, cause=analysis.cause)
    if analysis.action is Action.PAUSE and running:
        _log.warning("rollout.paused", rollout=rollout.name, reason=analysis.reason)
        return usecases.pause(tx, rollout.name, "", GUARDRAIL, analysis.reason, cause=analysis.cause)
    warned_before = before and before[0].analysis.action is Action.WARN
    if analysis.action is Action.WARN and not warned_before:
        _log.warning("rollout.guardrail_warned", rollout=rollout.name, reason=analysis.reason)
    return rollout


def analyse(tx: Transaction, rollout: Rollout) -> Analysis:
    """What the guardrails say of the rollout's stage now. Stores nothing, and does nothing about it."""
    plan, entered = rollout.plan, rollout.stage_time or tx.now
    known, _ = store.records(tx, rollout)
    treated = {
        name: max(record.admit_time or entered, entered) for name, record in known.items() if record.is_active
    }
    control = [name for name, record in known.items() if _is_compared(rollout, record)]
    windows: dict[str, int] = {}
    for each in plan.guardrails:
        wanted = each.windows if each.kind is GuardrailKind.BREAKER else 1
        windows[each.metric] = max(wanted, windows.get(each.metric, 1))
    readings = measurements.readings(
        tx,
        rollout.name,
        sorted(windows),
        since=entered,
        treated=treated,
        control=control,
        windows=windows,
    )
    previous = measurements.last_analysis(tx, rollout.name, since=entered)
    return check(
        plan.guardrails,
        readings,
        Look(
            now=tx.now,
            stage_entered=entered,
            stages=len(plan.stages),
            policies=plan.policies,
            treated_share=_treated_share(rollout, len(treated), len(control)),
            at_gate=transitions.at_gate(usecases.gates_of(tx, rollout)),
            previous=previous.verdicts if previous else (),
        ),
    )


def _is_compared(rollout: Rollout, record: Record) -> bool:
    """Whether the enterprise is of the control group now: eligible, held out, and out."""
    eligible = not decision.ineligible(rollout.plan, record)
    out = record.state is AdmissionState.WAITLISTED and not record.held
    return eligible and out and decision.is_control(rollout.plan, record.subject)


def _treated_share(rollout: Rollout, treated: int, control: int) -> float | None:
    """
    What part of both arms is in: who is seen of them should come near it. None where an arm is empty, and where a list, a
    segment or a quota says who is in, for who is chosen does not do as much as others.

    Of those who are in, not of the plan's shares: a ramp, a narrowing that expels nobody and the allow list change these alone.
    """
    stage = rollout.current_stage
    if not (treated and control) or stage is None or stage.quota:
        return None
    if any(each.audience.kind is not AudienceKind.EVERYONE for each in decision.reached(rollout)):
        return None
    return treated / (treated + control)
