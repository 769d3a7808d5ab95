"""Bounds that may be looked at again and again, and sizes of arms."""

from math import inf, log, log1p, sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.statistics import Arm, half_width, lower_bound, mismatch_p, sizes_mismatch

# Half-widths of GrowthBook's two-sided sequential interval (gbstats 0.8.0, absolute difference) at twice the alpha:
# treatment, control, alpha, tuning, half-width.
GROWTHBOOK = [
    (Arm(200, 0.10, 0.009), Arm(200, 0.02, 0.002), 0.05, 1000, 0.021216583884501886),
    (Arm(40, 0.06, 0.004), Arm(25, 0.02, 0.001), 0.025, 1000, 0.0513419909633209),
    (Arm(12000, 0.0205, 0.0021), Arm(11800, 0.0201, 0.002), 0.05, 5000, 0.0016919775468611027),
    (Arm(1000, 0.04, 0.003), Arm(500, 0.02, 0.0015), 0.01, 1000, 0.008235212880492674),
    (Arm(50, 0.5, 0.02), Arm(50, 0.4, 0.03), 0.05, 500, 0.09852662353067959),
]

rates = st.floats(0, 1)
arms = st.builds(Arm, st.integers(2, 100_000), rates, st.floats(0, 0.25))
alphas = st.floats(1e-6, 0.49)


@pytest.mark.parametrize(("treatment", "control", "alpha", "tuning", "expected"), GROWTHBOOK)
def test_half_width__is_growthbooks_made_one_sided(
    treatment: Arm, control: Arm, alpha: float, tuning: float, expected: float
) -> None:
    """The two formulas differ in one place: the one-sided has the logarithm of 1 + q where the two-sided has that of q."""
    n = treatment.n + control.n
    standard_error = sqrt(treatment.variance / treatment.n + control.variance / control.n)
    rho2 = (-2 * log(2 * alpha) + log(-2 * log(2 * alpha) + 1)) / tuning
    q = sqrt(n * rho2 + 1) / (2 * alpha)

    width = half_width(standard_error, n, alpha=alpha, tuning=tuning)

    assert width == pytest.approx(expected * sqrt(log1p(q) / log(q)), rel=1e-12)


@pytest.mark.parametrize(
    ("n", "errors"), [(20, 6.61), (100, 3.68), (200, 3.15), (1000, 2.78), (4000, 2.87), (24_000, 3.12)]
)
def test_half_width__in_standard_errors(n: int, errors: float) -> None:
    """Golden values at alpha 0.05: tightest at 1,000 observations, and very wide for a handful."""
    assert half_width(1, n, alpha=0.05) == pytest.approx(errors, abs=0.005)


@pytest.mark.parametrize("alpha", [0, 0.5, 1, -0.1])
def test_half_width__alpha_out_of_range__is_refused(alpha: float) -> None:
    """From a half on there is no bound."""
    with pytest.raises(ValueError, match="alpha must be"):
        half_width(1, 10, alpha=alpha)


def test_lower_bound__of_means_that_only_rounding_tells_apart__is_no_harm() -> None:
    """Where nothing varies, the last digit of a mean would be sure harm."""
    assert lower_bound(Arm(51, 0.1 + 0.2), Arm(49, 0.3), alpha=0.05) == 0
    assert lower_bound(Arm(51, 0.3001), Arm(49, 0.3), alpha=0.05) > 0


@given(arms, arms, alphas)
def test_lower_bound__is_below_the_difference_and_sees_one_arm_at_most_as_worse(
    treatment: Arm, control: Arm, alpha: float
) -> None:
    """It never exceeds the difference, and not each arm can surely exceed the other."""
    bound = lower_bound(treatment, control, alpha=alpha)

    assert bound <= treatment.mean - control.mean
    assert bound <= 0 or lower_bound(control, treatment, alpha=alpha) <= 0


@given(alphas, st.lists(st.integers(1, 1_000_000), min_size=2, max_size=2, unique=True))
def test_half_width__shrinks_as_observations_come_and_stays_above_a_single_looks(
    alpha: float, sizes: list[int]
) -> None:
    """More observations make more sure; and who looks at all times pays for it at each."""
    few, many = sorted(sizes)

    assert half_width(1 / sqrt(many), many, alpha=alpha) < half_width(1 / sqrt(few), few, alpha=alpha)
    assert half_width(1, few, alpha=alpha) > NormalDist().inv_cdf(1 - alpha)


@pytest.mark.parametrize(("treated", "control"), [(0, 0), (1, 500), (500, 1)])
def test_lower_bound__with_fewer_than_two__is_no_bound(treated: int, control: int) -> None:
    """One observation says nothing of how they vary."""
    assert lower_bound(Arm(treated, 1, 0), Arm(control, 0, 0), alpha=0.05) == -inf


@pytest.mark.parametrize(
    ("treated", "control", "share", "p"),
    [
        (550, 450, 0.5, 0.0015654022580025488),
        (700, 300, 2500 / 3500, 0.31731050786291093),
        (9500, 500, 0.96, 3.341279112702348e-07),
        (105, 95, 0.5, 0.47950012218695337),
    ],
)
def test_mismatch_p__is_the_chi_square_tests(treated: int, control: int, share: float, p: float) -> None:
    """Golden values, from scipy's chisquare."""
    assert mismatch_p(treated, control, treated_share=share) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(
    ("treated", "control", "share", "alarm"),
    [
        (2500, 1000, 2500 / 3500, False),
        (1000, 1000, 2500 / 3500, True),
        (2500, 1000, 0.5, True),
        (51_000, 49_000, 0.5, False),  # improbable, and a trifle
        (56, 44, 0.5, False),  # far off, and chance
        (5, 0, 0.5, False),  # too few to say
        (560, 440, 0.5, True),
        (100, 0, 1.0, False),
        (0, 0, 0.5, False),
    ],
)
def test_sizes_mismatch__goes_by_the_configured_share_and_forgives_trifles(
    treated: int, control: int, share: float, *, alarm: bool
) -> None:
    """An alarm takes both: p below 0.001, and an arm more than 5 % off the size that it should have."""
    assert sizes_mismatch(treated, control, treated_share=share) is alarm
