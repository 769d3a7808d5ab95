"""Simulating says exactly what doing comes to. `make verify-rollout` takes a thousand plans."""

from collections.abc import Callable

from services.chassis.testing.databases import TemporaryDatabase
from services.rollout.tests.plan_simulation import simulate_against_reality


def test_simulation__is_what_happens(make_database: Callable[..., TemporaryDatabase]) -> None:
    """On random plans and populations, for each verb and edit from each state: the same records, or the same refusal."""
    figures = simulate_against_reality(make_database("rollout"), 40)

    assert figures.plans == 40
    assert figures.differing == 0
    assert figures.entering > 40
    assert 0 < figures.refused < figures.simulations
