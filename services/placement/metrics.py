"""What placement counts. A decision takes microseconds: those of a batch are counted together."""

from collections.abc import Mapping

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


def verdict(choice: Choice) -> tuple[str, str]:
    """What a decision counts as: its outcome and its first reason; of an interest, not which."""
    return "PLACEMENT" if choice.placement else "NONE", choice.reasons[0].partition(":")[0]


def decided(verdicts: Mapping[tuple[str, str], int]) -> None:
    """Count decisions, all of a call at a time."""
    for (outcome, reason), count in verdicts.items():
        _decisions.add(count, {"outcome": outcome, "reason": reason})


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
