"""
Statistics that may be looked at again and again: how far two arms surely differ, and whether they have the size they should.

The bound is the one-sided asymptotic confidence sequence of I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy and A. Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences", The Annals of Statistics 52(6), 2024 (arXiv:2103.06476),
in the form in which GrowthBook uses it. An ordinary confidence interval is right with probability 1 - alpha at one moment, chosen
beforehand; who looks every minute, and acts on the first bad look, is wrong far more often. A confidence sequence is right at all
moments at once with probability 1 - alpha, so that nobody needs to know beforehand when to look.
"""

from dataclasses import dataclass
from math import erfc, inf, isclose, log, log1p, sqrt

TUNING = 1_000
"""
The number of observations, of both arms together, at which the bound is tightest.

It must not follow the data. At alpha 0.05 the bound lies 2.8 standard errors from the difference at 1,000 enterprises, 3.1 at 200
or at 24,000, 3.7 at 100 and 6.6 at 20: the fewer there are, the less a normal distribution describes them, and the more it asks.
GrowthBook's 5,000 is meant for people; enterprises are fewer.
"""

MISMATCH_P = 0.001
"""How improbable the sizes of the arms must be."""

MISMATCH_DRIFT = 0.05
"""How far an arm must be from its expected size, as a part of that: in large numbers any trifle is improbable."""

_LEAST_EXPECTED = 5  # below this the chi-square distribution does not describe the counts


@dataclass(frozen=True, slots=True)
class Arm:
    """Independent observations of one arm: how many, their mean, their sample variance (0 for fewer than two)."""

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0


def half_width(standard_error: float, n: int, *, alpha: float, tuning: float = TUNING) -> float:
    """
    How far below an estimate the true value may lie, at any time, but for a chance of `alpha`.

    Args:
        standard_error: of the estimate.
        n: how many observations it rests on; at least 1.
        alpha: above 0 and below 0.5.
        tuning: see `TUNING`.
    """
    if not 0 < alpha < 0.5:  # noqa: PLR2004 a half: from there on the bound would be the wrong side of the estimate
        raise ValueError(f"alpha must be above 0 and below 0.5, not {alpha}")
    rho2 = (-2 * log(2 * alpha) + log(1 - 2 * log(2 * alpha))) / tuning
    spread = n * rho2 + 1
    return standard_error * sqrt(2 * spread / (n * rho2) * log1p(sqrt(spread) / (2 * alpha)))


def lower_bound(treatment: Arm, control: Arm, *, alpha: float) -> float:
    """
    The least by which the treatment's mean exceeds the control's, at any time, but for a chance of `alpha`.

    Minus infinity while an arm has fewer than two observations.
    """
    if min(treatment.n, control.n) < 2:  # noqa: PLR2004 a variance takes two
        return -inf
    standard_error = sqrt(treatment.variance / treatment.n + control.variance / control.n)
    # Means of the same rates differ in their last digits, and without variance that alone would be sure harm.
    equal = isclose(treatment.mean, control.mean, rel_tol=1e-9)
    difference = 0.0 if equal else treatment.mean - control.mean
    return difference - half_width(standard_error, treatment.n + control.n, alpha=alpha)


def mismatch_p(treated: int, control: int, *, treated_share: float) -> float:
    """
    How probable sizes are that differ at least so much from the expected ones (chi-square, one degree of freedom).

    1 where too few are expected in an arm for the test to hold.

    Args:
        treated: enterprises seen in the treatment.
        control: enterprises seen in the control group.
        treated_share: the part that the treatment should have of both, above 0 and below 1.
    """
    expected = (treated + control) * treated_share
    rest = treated + control - expected
    if min(expected, rest) < _LEAST_EXPECTED:
        return 1.0
    chi_square = (treated - expected) ** 2 * (1 / expected + 1 / rest)
    return erfc(sqrt(chi_square / 2))


def sizes_mismatch(treated: int, control: int, *, treated_share: float) -> bool:
    """Whether the arms' sizes are neither chance nor a trifle: something loses enterprises of one arm, or mixes the arms."""
    if mismatch_p(treated, control, treated_share=treated_share) >= MISMATCH_P:
        return False
    expected = (treated + control) * treated_share
    rest = treated + control - expected
    return abs(treated - expected) / min(expected, rest) > MISMATCH_DRIFT
