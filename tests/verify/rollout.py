"""`make verify-rollout`: measures every promise of staged rollouts, and prints the table."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from os import cpu_count, getloadavg
from typing import Annotated, Literal

import typer
from pydantic_settings import BaseSettings
from rich.console import Console

from tests.verify import rollout_suites as suites
from tests.verify.rollout_convergence import FLAGS, convergence, numerator
from tests.verify.rollout_fleet import ENTERPRISES, GATEWAYS, Fleet
from tests.verify.rollout_guarded import guarded
from tests.verify.rollout_quotas import COMPANIES, quotas
from tests.verify.rollout_sides import sides
from tests.verify.table import Check, Row, verify


class Size(BaseSettings):
    """How much is measured. `SIZE=full` takes more of what chance decides, and far longer."""

    size: Literal["ci", "full"] = "ci"

    @property
    def changes(self) -> int:
        """Changes under load."""
        return 120 if self.size == "ci" else 1_000

    @property
    def simulations(self) -> int:
        """Runs of the guardrails' simulation."""
        return 1_000 if self.size == "ci" else 10_000

    @property
    def plans(self) -> int:
        """Random plans that are simulated, and then done."""
        return 1_000 if self.size == "ci" else 5_000

    @property
    def places(self) -> int:
        """Places at which the audit trail is forged in each way."""
        return 200 if self.size == "ci" else 1_000


class Measurements:
    """One platform for all that needs one; it comes up when the first check asks for it."""

    def __init__(self) -> None:
        self._fleet: Fleet | None = None

    def on_fleet(self, check: Callable[[Fleet], Iterable[Row]]) -> Callable[[], Iterator[Row]]:
        """The check, on the shared platform."""

        def run() -> Iterator[Row]:
            if self._fleet is None:
                self._fleet = Fleet()
            yield from check(self._fleet)

        return run

    def alone(self, check: Check) -> Check:
        """The check, while no platform of ours takes its share of the machine."""

        def run() -> Iterator[Row]:
            self.close()
            yield from check()

        return run

    def close(self) -> None:
        """Stop the platform, if it runs."""
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None


def trail(fleet: Fleet) -> Iterator[Row]:
    """Row 8, on the running platform: whatever was measured on it is in its trail."""
    fleet.apply("rollout: verify-trail\nflag: verify-trail\nstages: [{ring: all}]\n")
    fleet.do("kill", "verify-trail", reason="a measurement")
    told = json.loads(numerator(fleet, "audit", "verify", "--output", "json"))
    yield Row(
        "numerator audit verify, on the running platform",
        "ok",
        f"{'ok' if told['ok'] else 'NOT ok'}: {told['checkedCount']} events, {told['anchoredCount']} anchors",
        told["ok"] and int(told["checkedCount"]) > 0 and int(told["anchoredCount"]) > 0,
    )


def main(
    only: Annotated[
        list[int] | None, typer.Option(help="Only these of the eight; may be given again.")
    ] = None,
) -> None:
    """Measure it all, or a part."""
    size, shared = Size(), Measurements()
    on_fleet, alone = shared.on_fleet, shared.alone
    checks: list[tuple[int, str, Check]] = [
        (1, "Decisions", suites.decisions),
        (4, "Quotas", on_fleet(quotas)),
        (5, "Guardrails on the platform", on_fleet(guarded)),
        (3, "Nobody changes sides", on_fleet(sides)),
        (2, "Changes on their way to all gateways", on_fleet(partial(convergence, changes=size.changes))),
        (8, "The audit trail of the platform", on_fleet(trail)),
        (2, "Decisions on everybody", alone(suites.waits)),
        (5, "Guardrails in simulation", alone(partial(suites.simulated_guardrails, size.simulations))),
        (4, "What simulating says", alone(partial(suites.simulations, size.plans))),
        (8, "The audit trail, forged", alone(partial(suites.tampering, size.places))),
        (6, "The state machine", alone(suites.state_machine)),
        (7, "OpenFeature's clients", alone(suites.clients)),
    ]
    Console().print(
        f"{size.size}: {len(GATEWAYS)} gateways, {ENTERPRISES:,} enterprises, {FLAGS:,} flags, {COMPANIES} companies; "
        f"a load of {getloadavg()[0]:.1f} on {cpu_count()} cores before we begin",
        highlight=False,
    )
    wanted = [(f"{number}. {title}", check) for number, title, check in checks if not only or number in only]
    try:
        raise typer.Exit(verify("rollout", wanted))
    finally:
        shared.close()


if __name__ == "__main__":
    typer.run(main)
