"""What rollout counts, and what its worker reads from the database for dashboards."""

from collections import Counter
from collections.abc import Iterable

from services.chassis.database import Transaction
from services.chassis.metrics import Reading, counter, running
from services.rollout import serving, store
from services.rollout.model import ROLLOUT_NAME, AdmissionState, Reason, Record, RolloutState

KILLED = "KILLED"
"""The state, in metrics, of a rollout whose flag is off for everybody."""

_transitions = counter(
    "numerator.rollout.transitions", "Enterprises that came in, lost their place, or wait."
)
flagd_streams = running("numerator.rollout.flagd.streams", "Clients that are attached by flagd's protocol.")
_admissions = Reading("numerator.rollout.admissions", "Enterprises by rollout, stage and state.")
_state = Reading("numerator.rollout.state", "1 for the state that a rollout is in.")
_percent = Reading("numerator.rollout.percent", "The share of the eligible that a rollout's stage takes.")
_snapshot = Reading("numerator.rollout.snapshot.version", "The newest snapshot that was published.")


def decided(tx: Transaction, rollout: str, changes: Iterable[tuple[Record | None, Record]]) -> None:
    """Count what became of enterprises: their records before and after a decision."""
    kinds = Counter(kind for before, after in changes if (kind := _kind(before, after)))

    def count() -> None:
        for kind, number in kinds.items():
            _transitions.add(number, {"rollout": _id(rollout), "kind": kind})

    tx.after_commit(count)


def read(tx: Transaction) -> None:
    """Read the gauges; needs the platform's scope."""
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
    _snapshot.set([(serving.snapshot_version(tx)[0], {})])


def _kind(before: Record | None, after: Record) -> str:
    """`granted`, `suspended`, `revoked` (with its verification) or `waitlisted`; empty when none of it happened."""
    was = before.state if before else None
    if after.state is was:
        return ""
    if after.state is AdmissionState.ACTIVE:
        return "granted"
    if was is AdmissionState.ACTIVE:
        return "revoked" if after.reason is Reason.VERIFICATION_REVOKED else "suspended"
    return "waitlisted" if after.state is AdmissionState.WAITLISTED else ""


def _id(rollout: str) -> str:
    return ROLLOUT_NAME.parse(rollout)["rollout"]
