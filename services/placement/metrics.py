"""What placement counts. A decision takes microseconds: what is counted for each is made beforehand."""

from functools import cache

from services.chassis.database import Transaction
from services.chassis.metrics import counter, duration, gauge
from services.placement.engine import Choice, Engine

_decisions = counter("numerator.placement.decisions", "Decisions, and why.")
decision = duration(
    "numerator.placement.decision.duration",
    "How long deciding took, for one view or for a batch.",
    (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1),
)
_exposures = counter("numerator.placement.exposures", "Placements that were seen.")
_registrations = counter("numerator.placement.registrations", "People who signed up.")


def decided(choice: Choice) -> None:
    """Count a decision by its first reason; of an interest, not which."""
    reason = choice.reasons[0].partition(":")[0] if choice.reasons else ""
    _decisions.add(1, _labels("PLACEMENT" if choice.placement else "NONE", reason))


def exposed(tx: Transaction, touchpoint: str) -> None:
    """Count an exposure."""
    tx.after_commit(lambda: _exposures.add(1, {"touchpoint": touchpoint}))


def registered(tx: Transaction, touchpoint: str) -> None:
    """Count a registration."""
    tx.after_commit(lambda: _registrations.add(1, {"touchpoint": touchpoint}))


def watch(engine: Engine) -> None:
    """Tell what the process's engine holds."""
    gauge(
        "numerator.placement.live",
        "What decisions are made from: live campaigns, their placements, and people in their audiences.",
        lambda: [(count, {"kind": kind}) for kind, count in engine.counts().items()],
    )


@cache
def _labels(outcome: str, reason: str) -> dict[str, str]:
    return {"outcome": outcome, "reason": reason}
