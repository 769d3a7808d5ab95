"""The measuring of the account tree measures what it says."""

from collections.abc import Callable

from services.accounts.tests.measure_tree import Figure, Figures, measure
from services.chassis.testing.databases import TemporaryDatabase


def test_measure__gives_figures_of_real_work(make_database: Callable[..., TemporaryDatabase]) -> None:
    """With a thousand accounts: everything is measured, and nothing takes as long as with ten thousand it may at most."""
    figures = measure(make_database("accounts"), accounts=1_000)
    assert (figures.accounts, figures.groups) == (1_000, 1_021)
    measured = [getattr(figures, name) for name in Figures.__dataclass_fields__]
    timed = [each for each in measured if isinstance(each, Figure)]
    assert len(timed) == 7
    assert all(0 < each.p50 <= each.p99 for each in timed)
