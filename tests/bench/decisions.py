"""
How fast a gateway decides who is in, as time and as a ratio to a bare lookup in a dict.

    python -m tests.bench.decisions

100 flags, of which 10 are rollouts' with 10,000 enterprises in each. A decision that is remembered is what a request costs; one
that is not goes through the OpenFeature client, once for each enterprise, flag and change.
"""

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from gateway.admission import Admissions
from gateway.serving import Decision
from gateway.tests.snapshots_made import document, enterprise, flag, knowing, record, rollout

Pair = tuple[str, str]
Decide = Callable[[str, str], Decision]
FLAGS, ROLLOUTS, ENTERPRISES = 100, 10, 10_000
ROUNDS, DECISIONS = 40, 500


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What was measured.

    Attributes:
        remembered_p50, remembered_p99: seconds of a decision that is remembered, each timed alone, the clock included.
        first_p50, first_p99: seconds of one that is not: context, OpenFeature client, hook, engine.
        lookup: seconds of a bare lookup with a tuple of two texts in a dict as large.
        decision: seconds of a remembered decision, many timed together, as the lookups are.

    All are medians over rounds: what else the machine does spoils some rounds, and says nothing of decisions.
    """

    remembered_p50: float
    remembered_p99: float
    first_p50: float
    first_p99: float
    lookup: float
    decision: float

    @property
    def ratio(self) -> float:
        """How many lookups a remembered decision costs."""
        return self.decision / self.lookup


def measure(seed: int = 1) -> Figures:
    """Measure on a gateway's admissions, without HTTP around them. Takes a few seconds."""
    chance = random.Random(seed)
    flags = [f"flag-{n}" for n in range(FLAGS)]
    names = [f"enterprises/e{n}" for n in range(ENTERPRISES)]
    decide = _admissions(flags, names).decide
    pairs = list({(chance.choice(flags), chance.choice(names)): None for _ in range(2 * ROUNDS * DECISIONS)})
    rounds = [pairs[each * DECISIONS : (each + 1) * DECISIONS] for each in range(ROUNDS)]
    table = {pair: pair for each in rounds for pair in each}
    first = [_each(decide, each) for each in rounds]
    remembered = [_each(decide, each) for each in rounds]
    together = [(_look_up(table, each), _decide(decide, each)) for each in rounds]
    return Figures(
        remembered_p50=median(map(median, remembered)),
        remembered_p99=median(map(_p99, remembered)),
        first_p50=median(map(median, first)),
        first_p99=median(map(_p99, first)),
        lookup=median(lookup for lookup, _ in together),
        decision=median(decision for _, decision in together),
    )


def _p99(taken: Sequence[float]) -> float:
    return quantiles(taken, n=100)[-1]


def _admissions(flags: Sequence[str], names: Sequence[str]) -> Admissions:
    """What a gateway knows when everybody is in everything."""
    rollouts, ordinary = flags[:ROLLOUTS], flags[ROLLOUTS:]
    on_for_enterprises = {"if": [{"==": [{"var": "plan"}, "enterprise"]}, "on", "off"]}
    definitions = {
        **{
            key: flag({"if": [{"==": [{"var": f"admissions.of-{key}.state"}, "ACTIVE"]}, "on", "off"]})
            for key in rollouts
        },
        **{key: flag(on_for_enterprises) for key in ordinary},
    }
    records = (record("ACTIVE", name, flag=key) for key in rollouts for name in names)
    known = (enterprise(name, plan="enterprise") for name in names)
    tree = document(
        flags=definitions,
        rollouts={key: rollout(f"of-{key}") for key in rollouts},
        buckets={"panel": "flags/panel"},
    )
    return Admissions(knowing(tree, *records, enterprises=known), domain=str(uuid4()))


def _each(decide: Decide, pairs: Sequence[Pair]) -> list[float]:
    """Seconds of each decision."""
    taken = []
    for flag_key, name in pairs:
        began = time.perf_counter_ns()
        decision = decide(flag_key, name)
        taken.append((time.perf_counter_ns() - began) / 1e9)
        assert decision.admitted
    return taken


def _decide(decide: Decide, pairs: Sequence[Pair]) -> float:
    """Seconds of a decision, on average."""
    began = time.perf_counter()
    for flag_key, name in pairs:
        decide(flag_key, name)
    return (time.perf_counter() - began) / len(pairs)


def _look_up(table: Mapping[Pair, Pair], pairs: Sequence[Pair]) -> float:
    """Seconds of a lookup, on average."""
    began = time.perf_counter()
    for flag_key, name in pairs:
        table.get((flag_key, name))
    return (time.perf_counter() - began) / len(pairs)


def main() -> int:
    figures = measure()
    table = Table(title=f"decisions: {FLAGS} flags, {ENTERPRISES} enterprises", title_justify="left")
    for column in ("what", "p50", "p99"):
        table.add_column(column)
    for what, p50, p99 in (
        ("remembered", figures.remembered_p50, figures.remembered_p99),
        ("through the OpenFeature client", figures.first_p50, figures.first_p99),
    ):
        table.add_row(what, f"{p50 * 1e6:.2f} µs", f"{p99 * 1e6:.2f} µs")
    console = Console()
    console.print(table)
    console.print(
        f"a bare lookup {figures.lookup * 1e9:.0f} ns, a remembered decision {figures.decision * 1e9:.0f} ns: "
        f"{figures.ratio:.1f} times as long",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
