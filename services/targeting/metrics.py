"""What targeting counts."""

from collections import Counter
from collections.abc import Iterable

from services.chassis.json_lines import LineProblem
from services.chassis.metrics import counter, duration, gauge
from services.targeting.index import Index

estimate = duration(
    "numerator.targeting.estimate.duration", "How long estimates took, once the index had caught up."
)
build = duration("numerator.targeting.build.duration", "How long it took to build audiences.")
_profiles = counter("numerator.targeting.profiles", "Lines of profiles that came in.")


def taken_in(*, accepted: int, changed: int, problems: Iterable[LineProblem]) -> None:
    """Count a batch of profiles."""
    _profiles.add(changed, {"outcome": "CHANGED", "reason": ""})
    _profiles.add(accepted - changed, {"outcome": "UNCHANGED", "reason": ""})
    for reason, count in Counter(problem.reason for problem in problems).items():
        _profiles.add(count, {"outcome": "REJECTED", "reason": reason})


def watch(index: Index) -> None:
    """Tell how large the process's index is."""
    gauge("numerator.targeting.people", "People whom the index can find.", lambda: [(index.population, {})])
