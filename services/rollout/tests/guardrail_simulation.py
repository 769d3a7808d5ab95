"""What the guardrails do when they look again and again: at no harm at all, and at harm of known size. With fixed seeds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import comb, exp, lgamma, sqrt
from random import Random
from statistics import median

from services.rollout.guardrails import Look, Reading, Readings, Verdict, check
from services.rollout.plan import Action, Guardrail, GuardrailKind, Policies, Worse
from services.rollout.statistics import Arm

METRIC = "publish.error_rate"
ALPHA = 0.05
LOOKS = 60
NEW_ENTERPRISES = 200  # in each arm, with each look
FEW_ENTERPRISES = 30  # in each arm, the same ones all the time
USUAL, DOUBLE, SEVERE = 0.02, 0.04, 0.10  # error rates
CORRELATION = 0.05  # of the requests of one enterprise
REQUESTS = (1, 5, 20)  # of an enterprise, each as frequent
NAIVE_Z = 1.6449  # of an ordinary one-sided test at ALPHA

# One check, one stage: all of alpha is its own, so nothing alarms more easily.
GUARDRAIL = Guardrail(
    kind=GuardrailKind.GUARDRAIL,
    metric=METRIC,
    worse=Worse.UP,
    vs_control=True,
    max_rate=None,
    alpha=ALPHA,
    min_samples=0,
    windows=1,
    action=Action.ROLLBACK,
    dry_run=False,
)
_ENTERED = datetime(2026, 1, 1, tzinfo=UTC)
_TICK = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What was found.

    Attributes:
        runs: how many of each kind.
        false_alarms: the share of runs without harm in which the guardrail acted within 60 looks.
        naive_false_alarms: the share of the same runs in which an ordinary test at the same alpha would have.
        few_false_alarms: as `false_alarms`, where the same 30 enterprises in each arm send more and more.
        few_severe_missed: the share of runs with these in which 2 % -> 10 % errors were not found.
        severe_looks: the most looks that it took to roll 2 % -> 10 % errors back, in any run; 61 when one was missed.
        double_looks: how many it took for 2 % -> 4 %, in half of the runs.
    """

    runs: int
    false_alarms: float
    naive_false_alarms: float
    few_false_alarms: float
    few_severe_missed: float
    severe_looks: int
    double_looks: float


def simulate(runs: int) -> Figures:
    """Run it all; 1,000 runs take about half a minute."""
    usual = _Rates(USUAL)
    alarms = naive = few = missed = 0
    for seed in range(runs):
        looks = list(_growing(Random(f"usual {seed}"), usual, usual))
        alarms += _first_alarm(looks) <= LOOKS
        naive += any(_z(*look) > NAIVE_Z for look in looks)
        few += _first_alarm(_returning(Random(f"few {seed}"), USUAL)) <= LOOKS
        missed += _first_alarm(_returning(Random(f"few severe {seed}"), SEVERE)) > LOOKS
    severe = [_first_alarm(_growing(Random(f"severe {seed}"), _Rates(SEVERE), usual)) for seed in range(runs)]
    double = [_first_alarm(_growing(Random(f"double {seed}"), _Rates(DOUBLE), usual)) for seed in range(runs)]
    return Figures(runs, alarms / runs, naive / runs, few / runs, missed / runs, max(severe), median(double))


class _Rates:
    """The error rates of enterprises, each with its own number of requests and its own probability of errors."""

    def __init__(self, mean: float) -> None:
        a, b = _beta(mean)
        chances = {
            (requests, bad): _beta_binomial(bad, requests, a, b)
            for requests in REQUESTS
            for bad in range(requests + 1)
        }
        self._values = [bad / requests for requests, bad in chances]
        self._weights = list(accumulate(chances.values()))

    def draw(self, random: Random) -> list[float]:
        """The rates of enterprises that are new."""
        return random.choices(self._values, cum_weights=self._weights, k=NEW_ENTERPRISES)


def arm(values: Iterable[float]) -> Arm:
    """The arm that these observations make."""
    known = list(values)
    return _arm(len(known), sum(known), sum(value * value for value in known))


def _arm(n: int, total: float, squares: float) -> Arm:
    if n < 2:
        return Arm(n, total)
    return Arm(n, total / n, max(squares - total * total / n, 0.0) / (n - 1))


def _growing(random: Random, treatment: _Rates, control: _Rates) -> Iterator[tuple[Arm, Arm]]:
    """The arms at each look, when new enterprises come with each."""
    sums = [[0.0, 0.0], [0.0, 0.0]]
    for look in range(1, LOOKS + 1):
        for total, rates in zip(sums, (treatment, control), strict=True):
            drawn = rates.draw(random)
            total[0] += sum(drawn)
            total[1] += sum(map(float.__mul__, drawn, drawn))
        yield _arm(look * NEW_ENTERPRISES, *sums[0]), _arm(look * NEW_ENTERPRISES, *sums[1])


def _returning(random: Random, treatment: float) -> Iterator[tuple[Arm, Arm]]:
    """The arms at each look, when the same few enterprises send five requests more with each."""
    means = [treatment] * FEW_ENTERPRISES + [USUAL] * FEW_ENTERPRISES
    chances = [random.betavariate(*_beta(mean)) for mean in means]
    bad = [0] * len(chances)
    for look in range(1, LOOKS + 1):
        for index, chance in enumerate(chances):
            bad[index] += sum(random.random() < chance for _ in range(5))
        rates = [each / (5 * look) for each in bad]
        yield arm(rates[:FEW_ENTERPRISES]), arm(rates[FEW_ENTERPRISES:])


def _first_alarm(looks: Iterable[tuple[Arm, Arm]]) -> int:
    """The number of the look at which the guardrails roll back; one more than there are when they do not."""
    previous: tuple[Verdict, ...] = ()
    for number, (treatment, control) in enumerate(looks, start=1):
        now = _ENTERED + number * _TICK
        reading = Reading(measured_through=now, treatment=treatment, control=control)
        look = Look(now, _ENTERED, 1, Policies(), treated_share=0.5, at_gate=False, previous=previous)
        analysis = check([GUARDRAIL], Readings({METRIC: reading}, treatment.n, control.n), look)
        if analysis.action is Action.ROLLBACK:
            return number
        previous = analysis.verdicts
    return LOOKS + 1


def _z(treatment: Arm, control: Arm) -> float:
    """The statistic of an ordinary test."""
    return (treatment.mean - control.mean) / sqrt(
        treatment.variance / treatment.n + control.variance / control.n
    )


def _beta(mean: float) -> tuple[float, float]:
    """The parameters of the distribution of enterprises' probabilities of errors."""
    spread = 1 / CORRELATION - 1
    return mean * spread, (1 - mean) * spread


def _beta_binomial(bad: int, requests: int, a: float, b: float) -> float:
    """The probability of so many bad ones."""
    log_chance = (
        lgamma(bad + a) + lgamma(requests - bad + b) - lgamma(requests + a + b)
        + lgamma(a + b) - lgamma(a) - lgamma(b)
    )  # fmt: skip
    return comb(requests, bad) * exp(log_chance)
