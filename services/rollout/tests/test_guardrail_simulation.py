"""How often guardrails are wrong, and how soon they are right. `make verify-rollout` takes ten times as many runs."""

from services.rollout.tests.guardrail_simulation import ALPHA, simulate


def test_simulation__few_false_alarms__and_harm_is_soon_found() -> None:
    """Without harm at most 5 % of runs are stopped, where ordinary tests stop a quarter; 2 % -> 10 % errors end within 3 ticks."""
    figures = simulate(100)

    assert figures.false_alarms <= ALPHA
    assert figures.few_false_alarms <= ALPHA
    assert figures.few_severe_missed < 0.2
    assert figures.naive_false_alarms > 3 * ALPHA
    assert figures.severe_looks <= 3
    assert figures.double_looks <= 10
