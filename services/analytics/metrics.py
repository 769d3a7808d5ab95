"""What analytics counts of its own work. (The numbers that it answers with are in `model.METRICS`.)"""

from collections import Counter
from collections.abc import Iterable, Mapping

from services.analytics.columns import Columns
from services.analytics.model import Fact
from services.chassis.database import Transaction
from services.chassis.metrics import counter, duration, gauge

query = duration("numerator.analytics.query.duration", "How long the columnar store took for questions.")
_facts = counter("numerator.analytics.facts", "Facts that were taken in.")
_rejected = counter("numerator.analytics.rejected", "Lines of engagement that were not taken in.")


def taken_in(tx: Transaction, facts: Iterable[Fact]) -> None:
    """Count new facts by their kind."""
    kinds = Counter(fact.kind for fact in facts)

    def count() -> None:
        for kind, number in kinds.items():
            _facts.add(number, {"kind": kind})

    tx.after_commit(count)


def rejected(tx: Transaction, problems: Mapping[str, int], duplicates: int) -> None:
    """Count lines that were skipped: how many for each reason, and how many because they were known."""

    def count() -> None:
        for reason, number in {**problems, "DUPLICATE": duplicates}.items():
            _rejected.add(number, {"reason": reason})

    tx.after_commit(count)


def watch(columns: Columns) -> None:
    """Tell how many rows the columnar store has."""
    gauge("numerator.analytics.rows", "Rows in the columnar store.", lambda: [(columns.rows, {})])
