"""What the servicers share of the way from model to proto."""

from collections.abc import Sequence

from numerator.rollout.v1 import admissions_pb2, limits_pb2
from numerator.rollout.v1 import rollout_pb2 as pb

from services.chassis.database import Transaction
from services.chassis.timestamps import stamp
from services.rollout import measurements, serving, store, usecases
from services.rollout.model import Record, Rollout, RolloutState
from services.rollout.plan import AudienceKind, Hold, Limits, Stage, duration_text


def rollouts(tx: Transaction, found: Sequence[Rollout]) -> list[pb.Rollout]:
    """Rollouts with the numbers of their records."""
    counts = store.count_admissions(tx, [each.name for each in found])
    return [rollout(each, *counts.get(each.name, (0, 0))) for each in found]


def rollout(it: Rollout, admitted: int = 0, waiting: int = 0) -> pb.Rollout:
    """A rollout."""
    return pb.Rollout(
        name=it.name,
        flag=it.flag,
        stages=[stage(each) for each in it.plan.stages],
        state=pb.Rollout.State.Value(it.state),
        stage=it.stage,
        killed=it.killed,
        admitted_count=admitted,
        waiting_count=waiting,
        etag=it.etag,
        create_time=stamp(it.create_time),
        update_time=stamp(it.update_time),
        cause=it.cause,
        reason=it.reason,
        stage_time=stamp(it.stage_time) if it.stage_time else None,
        basis_points=it.basis_points,
        plan=it.plan.text,
        plan_version=it.plan_version,
        plan_sha256=it.plan.sha256,
        author=it.author,
        start_time=stamp(it.plan.start_at) if it.plan.start_at else None,
    )


def stage(it: Stage) -> pb.Stage:
    """A stage."""
    audience = it.audience
    return pb.Stage(
        id=it.id,
        basis_points=it.basis_points,
        quota=it.quota,
        audience={
            AudienceKind.EVERYONE: "everyone",
            AudienceKind.SEGMENT: f"segment {audience.segment}",
            AudienceKind.INVITED: "waitlist invited",
            AudienceKind.JOINED: "waitlist joined",
            AudienceKind.TENANTS: f"{len(audience.tenants)} named enterprises",
        }[audience.kind],
        limits=limits(it.limits),
        hold=_hold(it.hold),
    )


def limits(it: Limits) -> limits_pb2.StageLimits:
    """Limits of a stage."""
    return limits_pb2.StageLimits(
        requests_per_minute=it.requests_per_minute,
        bound_accounts=it.bound_accounts,
        live_placements=it.live_placements,
    )


def _hold(it: Hold) -> str:
    parts = [
        duration_text(it.time),
        f"{it.exposures} exposures" if it.exposures else "",
        "window" if it.window else "",
        f"{it.approvals} approvals" if it.approvals else "",
    ]
    return ", ".join(part for part in parts if part)


def status(tx: Transaction, it: Rollout) -> pb.RolloutStatus:
    """Where a rollout stands."""
    gates = usecases.gates_of(tx, it)
    last = measurements.page_analyses(tx, it.name, limit=1)
    return pb.RolloutStatus(
        rollout=rollouts(tx, [it])[0],
        gates=[
            pb.Gate(
                kind=gate.kind,
                met=gate.met,
                detail=gate.detail,
                meet_time=stamp(gate.meet_time) if gate.meet_time else None,
            )
            for gate in gates
        ],
        analysis=analysis(last[0]) if last else None,
        convergence=serving.convergence(tx),
        next_step=_next_step(it, [gate.kind for gate in gates if not gate.met]),
    )


def _next_step(it: Rollout, unmet: Sequence[str]) -> str:
    """What happens next, or what somebody has to do."""
    if it.killed:
        return "the flag is off for everybody: unkill it when the cause is mended"
    match it.state:
        case RolloutState.DRAFT | RolloutState.ARMED:
            return _next_step_before_start(it, unmet)
        case RolloutState.PAUSED:
            return f"{it.reason or 'paused'}: resume it, or roll it back"
        case RolloutState.ROLLED_BACK:
            return f"{it.reason or 'rolled back'}: restart it when the cause is mended"
        case RolloutState.RUNNING if it.index is not None and it.index + 1 == len(it.plan.stages):
            return "complete it: the last stage is open"
        case RolloutState.RUNNING if "PERSON" in unmet:
            return "advance it when you are content"
        case RolloutState.RUNNING if unmet == ["APPROVALS"]:
            return f"others approve that it leaves {it.stage}"
        case RolloutState.RUNNING:
            return f"advances by itself after {', '.join(unmet).lower() or 'the next look'}"
        case _:
            return ""


def _next_step_before_start(it: Rollout, unmet: Sequence[str]) -> str:
    if "APPROVALS" in unmet:
        return "others approve its start"
    if it.state is RolloutState.DRAFT:
        return "start it, or arm it for its start time"
    start = it.plan.start_at
    return f"starts by itself at {start:%Y-%m-%d %H:%M} UTC" if start else "start it"


def analysis(it: measurements.KeptAnalysis) -> pb.Analysis:
    """A look of the guardrails."""
    found = it.analysis
    return pb.Analysis(
        time=stamp(it.time),
        stage=it.stage,
        outcome=found.outcome,
        action=found.action or "NONE",
        reason=found.reason,
        verdicts=[
            pb.Verdict(
                metric=each.metric,
                kind=each.kind,
                outcome=each.outcome,
                dry_run=each.dry_run,
                treatment=each.treatment or 0,
                control=each.control or 0,
                lower=each.lower or 0,
                treated_count=each.treated_count,
                control_count=each.control_count,
                failures=each.failures,
                reason=each.reason,
            )
            for each in found.verdicts
        ],
    )


def admission(it: Record, position: int) -> admissions_pb2.Admission:
    """A record."""
    return admissions_pb2.Admission(
        enterprise=it.enterprise,
        state=admissions_pb2.Admission.State.Value(it.state),
        stage=it.stage,
        reason=it.reason,
        position=position,
        bucket=it.subject.bucket,
        admit_time=stamp(it.admit_time) if it.admit_time else None,
        source=it.source,
    )
