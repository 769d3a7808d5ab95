"""What suites and simulations of their own measure: rows 1, 4 to 8 of `make verify-rollout`, beside the running platform."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from services.rollout.tests.crowd import speeds
from services.rollout.tests.guardrail_simulation import ALPHA, simulate
from services.rollout.tests.plan_simulation import simulate_against_reality
from services.rollout.tests.tampering import KINDS, tamper_everywhere
from tests.bench.decisions import ENTERPRISES, FLAGS, measure
from tests.contract.openfeature.tools import CLIENTS, FROM_NPM, FROM_PYPI
from tests.verify.suites import own_database, run_suite
from tests.verify.table import Row

REMEMBERED_P50, CLIENT_P99 = 1e-6, 100e-6
START, VERIFICATION, KILL = 5.0, 0.02, 0.1
"""Seconds, as those above."""
MOST_TICKS = 3
BROWSER = "ofrep in a browser"


def decisions() -> Iterator[Row]:
    """Row 1."""
    figures = measure()
    what = f"a decision, {FLAGS} flags, {ENTERPRISES:,} admitted enterprises"
    yield Row(
        f"{what}: direct",
        f"p50 < {REMEMBERED_P50 * 1e6:g} µs",
        f"p50 {figures.remembered_p50 * 1e6:.2f} µs, p99 {figures.remembered_p99 * 1e6:.2f} µs; "
        f"{figures.ratio:.1f} times a bare lookup in a dict ({figures.lookup * 1e9:.0f} ns)",
        figures.remembered_p50 < REMEMBERED_P50,
    )
    yield Row(
        f"{what}: through the OpenFeature client",
        f"p99 < {CLIENT_P99 * 1e6:g} µs",
        f"p50 {figures.first_p50 * 1e6:.0f} µs, p99 {figures.first_p99 * 1e6:.0f} µs",
        figures.first_p99 < CLIENT_P99,
    )


def simulations(plans: int) -> Iterator[Row]:
    """Row 4, what simulating says."""
    with own_database("rollout") as database:
        figures = simulate_against_reality(database, plans)
    yield Row(
        f"simulate against reality, {figures.plans:,} random plans",
        "the same records, or the same refusal",
        f"{figures.differing} differ of {figures.simulations:,} verbs and edits that were simulated, then done; "
        f"{figures.entering:,} enterprises entered, {figures.leaving:,} left, {figures.refused:,} were refused by both",
        figures.plans >= plans and not figures.differing and figures.entering > 0,
    )


def simulated_guardrails(runs: int) -> Iterator[Row]:
    """Row 5, in simulation: how often a guardrail is wrong, and how soon it is right."""
    figures = simulate(runs)
    yield Row(
        f"{figures.runs:,} A/A runs of 60 looks",
        f"at most {ALPHA:.0%} alarms",
        f"{figures.false_alarms:.1%}; with few enterprises that return {figures.few_false_alarms:.1%}; "
        f"an ordinary test: {figures.naive_false_alarms:.1%}",
        max(figures.false_alarms, figures.few_false_alarms) <= ALPHA,
    )
    yield Row(
        f"2 % -> 10 % errors, {figures.runs:,} simulated runs",
        f"rolled back in at most {MOST_TICKS} ticks, in each run",
        f"the slowest run took {figures.severe_looks}; 2 % -> 4 %: {figures.double_looks:g} in half of the runs",
        figures.severe_looks <= MOST_TICKS,
    )


def tampering(places: int) -> Iterator[Row]:
    """Row 8, with a trail that is forged by a superuser of a database of its own."""
    with own_database("rollout") as database, TemporaryDirectory() as anchors:
        outcome = tamper_everywhere(database, Path(anchors), places)
    kinds = ", ".join(kind.__name__ for kind in KINDS)
    yield Row(
        f"the audit trail forged as superuser: {kinds}, {places} places each",
        "all found",
        f"{outcome.found:,} of {outcome.total:,} found"
        + "".join(f"; missed: {each}" for each in outcome.missed),
        outcome.found == outcome.total == places * len(KINDS),
    )


def waits() -> Iterator[Row]:
    """How long the service takes for a decision on everybody."""
    with own_database("rollout") as database:
        figures = speeds(database)
    yield Row(
        f"{figures.tenants:,} enterprises: start, which lets all of them in; one more verification; kill",
        f"{START:g} s, {VERIFICATION * 1e3:g} ms, {KILL * 1e3:g} ms",
        f"{figures.start:.1f} s, {figures.verification * 1e3:.1f} ms, {figures.kill * 1e3:.1f} ms (medians)",
        figures.start < START and figures.verification < VERIFICATION and figures.kill < KILL,
    )


def state_machine() -> Iterator[Row]:
    """Row 6: hypothesis lets anything happen to the service, from API, scheduler, guardrails and by events."""
    passed, failed, noted = run_suite(
        "services/rollout/tests/test_stateful.py", "-m", "slow", "-p", "tests.verify.rollout_counting"
    )
    for name in [*passed, *failed]:
        counts = noted.get(name, {})
        yield Row(
            f"any order of deeds, hypothesis: {name}",
            "states, records, quotas, streams, anchors and trail agree after each",
            f"{int(counts.get('deeds', 0)):,} deeds in {int(counts.get('lives', 0)):,} lives; "
            f"{'violations: see above' if name in failed else '0 violations'}",
            name not in failed and int(counts.get("deeds", 0)) > 0,
        )


def clients() -> Iterator[Row]:
    """Row 7: OpenFeature's own clients, as their registries have them."""
    passed, failed, _ = run_suite("tests/contract/test_openfeature.py")
    together = [name for name in passed if not name.endswith("]") and "browser" not in name]
    counts = Counter({name: len(together) for name in CLIENTS})
    counts.update(name.partition("[")[2].removesuffix("]") for name in passed if name.endswith("]"))
    counts[BROWSER] += sum("browser" in name for name in passed)
    told = ", ".join(f"{name}: {counts[name]}" for name in CLIENTS)
    versions = ", ".join([*FROM_PYPI, *(f"{name}@{version}" for name, version in FROM_NPM.items())])
    yield Row(
        f"OpenFeature's clients, untouched, on a running platform ({versions})",
        "all tests pass, by client",
        f"{told}; {len(passed)} tests in all" + "".join(f"; not: {name}" for name in failed),
        not failed and all(counts[name] for name in CLIENTS),
    )
