"""What rollout counts, and what its worker reads from the database for dashboards."""

from collections import Counter
from collections.abc import Iterable, Mapping

from services.chassis.database import Transaction
from services.chassis.metrics import Reading, counter, gauge, running
from services.rollout import audit, serving, store
from services.rollout.guardrails import Analysis, Outcome
from services.rollout.model import ROLLOUT_NAME, AdmissionState, Record, RolloutState
from services.rollout.transitions import Gate

KILLED = "KILLED"
"""The state, in metrics, of a rollout whose flag is off for everybody."""

_transitions = counter(
    "numerator.rollout.transitions", "Enterprises that came in, lost their place, or wait."
)
flagd_streams = running("numerator.rollout.flagd.streams", "Clients that are attached by flagd's protocol.")
_admissions = Reading("numerator.rollout.admissions", "Enterprises by rollout, stage and state.")
_state = Reading("numerator.rollout.state", "1 for the state that a rollout is in.")
_percent = Reading("numerator.rollout.percent", "The share of the eligible that a rollout's stage takes.")
_gates = Reading(
    "numerator.rollout.gates", "1 for what holds a rollout in its stage, 0 for what lets it through."
)
_waitlist = Reading("numerator.rollout.waitlist", "Enterprises that wait for a place in a rollout.")
_snapshot = Reading("numerator.rollout.snapshot.version", "The newest snapshot that was published.")
_version = Reading("numerator.rollout.admissions.version", "The newest version of the admissions.")
_replicas = Reading(
    "numerator.rollout.replicas", "Gateways that serve, by whether they serve the newest of both."
)
_lag = Reading(
    "numerator.rollout.convergence.lag", "How long the slowest of them took to serve the newest.", "s"
)
_head = Reading("numerator.rollout.audit.head", "The newest event of the audit trail.")
_analyses = counter("numerator.rollout.analyses", "Looks of the guardrails.")
_failures = counter("numerator.rollout.guardrail.failures", "Checks that failed in a look.")
_steps = counter("numerator.rollout.scheduler.steps", "Rollouts that the scheduler went through.")

gauge(
    "numerator.rollout.audit.anchored",
    "The newest event that the process has anchored outside the database.",
    lambda: [(audit.newest_anchored(), {})] if audit.newest_anchored() else [],
)


def decided(tx: Transaction, rollout: str, changes: Iterable[tuple[Record | None, Record]]) -> None:
    """Count what became of enterprises: their records before and after a decision."""
    kinds = Counter(kind for before, after in changes if (kind := _kind(before, after)))

    def count() -> None:
        for kind, number in kinds.items():
            _transitions.add(number, {"rollout": _id(rollout), "kind": kind})

    tx.after_commit(count)


def looked(tx: Transaction, rollout: str, analysis: Analysis) -> None:
    """Count a look of the guardrails."""

    def count() -> None:
        action = analysis.action or "NONE"
        _analyses.add(1, {"rollout": _id(rollout), "outcome": analysis.outcome, "action": action})
        for each in analysis.verdicts:
            if each.outcome is Outcome.FAIL:
                labels = {"rollout": _id(rollout), "kind": each.kind, "metric": each.metric}
                _failures.add(1, labels)

    tx.after_commit(count)


def stepped(outcome: str) -> None:
    """Count a rollout that the scheduler went through: `OK`, or the reason why it could not."""
    _steps.add(1, {"outcome": outcome})


def read(tx: Transaction, gates: Mapping[str, Iterable[Gate]]) -> None:
    """Read the gauges; needs the platform's scope. `gates` are those of rollouts, by name."""
    rollouts = store.all_rollouts(tx)
    nobody: dict[tuple[str, str, str], int] = {
        (rollout.name, stage.id, state): 0
        for rollout in rollouts
        for stage in rollout.plan.stages
        for state in AdmissionState
    }
    _admissions.set(
        (count, {"rollout": _id(rollout), "stage": stage, "state": state})
        for (rollout, stage, state), count in {**nobody, **store.count_records(tx)}.items()
    )
    _state.set(
        (
            float(state == (KILLED if rollout.killed else rollout.state)),
            {"rollout": _id(rollout.name), "state": state},
        )
        for rollout in rollouts
        for state in (*RolloutState, KILLED)
    )
    _percent.set(
        (
            rollout.basis_points / 100,
            {"rollout": _id(rollout.name)},
        )
        for rollout in rollouts
    )
    _gates.set(
        (float(not gate.met), {"rollout": _id(name), "kind": gate.kind})
        for name, found in gates.items()
        for gate in found
    )
    waiting = store.count_waiting(tx)
    _waitlist.set((waiting.get(rollout.name, 0), {"rollout": _id(rollout.name)}) for rollout in rollouts)
    served = serving.convergence(tx)
    _snapshot.set([(served.snapshot_version, {})])
    _version.set([(served.admissions_version, {})])
    behind = len(served.replicas) - served.converged_count
    _replicas.set([(served.converged_count, {"converged": "true"}), (behind, {"converged": "false"})])
    _lag.set([(served.slowest_ms / 1000, {})] if served.converged_count else [])
    newest = audit.list_events(tx, None, limit=1)
    _head.set([(newest[0].sequence if newest else 0, {})])


def _kind(before: Record | None, after: Record) -> str:
    """`granted`, `suspended`, `revoked` or `waitlisted`; empty when none of it happened."""
    was = before.state if before else None
    if after.state is was:
        return ""
    kinds = {
        AdmissionState.ACTIVE: "granted",
        AdmissionState.REVOKED: "revoked",
        AdmissionState.WAITLISTED: "waitlisted",
        AdmissionState.SUSPENDED: "suspended" if was is AdmissionState.ACTIVE else "",
    }
    return kinds[after.state]


def _id(rollout: str) -> str:
    return ROLLOUT_NAME.parse(rollout)["rollout"]
