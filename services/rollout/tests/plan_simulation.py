"""Whether simulating says what doing comes to: on random plans, from every state that is reached, for every verb."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.errors import ServiceError
from services.rollout import entries, store, usecases
from services.rollout.model import Listed, Record, Rollout
from services.rollout.plan import Plan
from services.rollout.tests.populations import TIERS, plans

ROLLOUT = "rollouts/edition"
ENTERPRISES = 7
ACTOR = "clients/operator"
STEPS = 2
"""How far each plan is followed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What was found.

    Attributes:
        plans: how many.
        simulations: how many verbs and edits were simulated, and then done.
        refused: how many of these were refused, by both for the same reason.
        entering: how many enterprises came in by them, `leaving` went out.
        differing: in how many of them what was done differs from what was simulated, in any enterprise's record.
    """

    plans: int
    simulations: int
    refused: int
    entering: int
    leaving: int
    differing: int


@dataclass(frozen=True)
class Step:
    """
    What is tried from a state: a verb, another plan, and both.

    Attributes:
        chosen: which of those that are possible is then really done.
        told: the verification that is told afterwards, or revoked.
    """

    verb: str
    other: Plan
    stage: str
    chosen: int
    told: tuple[int, bool]


class _UndoneError(Exception):
    """Ends what was only tried."""


def simulate_against_reality(database: Database, plans_count: int) -> Figures:
    """Follow so many random plans on rollout's empty database, and compare. Each is made and undone in one transaction."""
    counts: Counter[str] = Counter()

    @settings(
        max_examples=plans_count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        plan=plans(tenants=ENTERPRISES),
        crowd=_CROWDS,
        begin=st.integers(0, 3),
        steps=st.lists(_steps(), min_size=STEPS, max_size=STEPS),
    )
    def follow(plan: Plan, crowd: list[dict[str, Any]], begin: int, steps: list[Step]) -> None:
        with database.transaction(PLATFORM) as tx, _undone(tx):
            _Following(tx, counts).follow(plan, crowd, begin, steps)
        counts["plans"] += 1

    follow()
    return Figures(
        counts["plans"], counts["simulations"], counts["refused"], counts["entering"], counts["leaving"],
        counts["differing"],
    )  # fmt: skip


@contextmanager
def _undone(tx: Transaction) -> Iterator[None]:
    """Undo what is done in the block."""
    with suppress(_UndoneError), tx.savepoint():
        yield
        raise _UndoneError


def _steps() -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        verb=st.sampled_from(
            ["start", "advance", "advance", "jump", "jump", "resume", "complete", "rollback"]
        ),
        other=plans(tenants=ENTERPRISES),
        stage=st.sampled_from(["s0", "s0", "s1", "s2"]),
        chosen=st.integers(0, 99),
        told=st.tuples(st.integers(1, ENTERPRISES), st.booleans()),
    )


_CROWDS = st.lists(
    st.fixed_dictionaries(
        {
            "verified": st.sampled_from([True, True, True, False]),
            "tier": st.sampled_from([*TIERS, ""]),
            "listed": st.sampled_from([None, None, None, *Listed]),
            "invited": st.sampled_from([False, False, True]),
            "joined": st.booleans(),
        }
    ),
    min_size=ENTERPRISES,
    max_size=ENTERPRISES,
)


class _Following:
    """A plan on its way, in one transaction."""

    def __init__(self, tx: Transaction, counts: Counter[str]) -> None:
        self._tx = tx
        self._counts = counts
        self._told = tx.now

    def follow(self, plan: Plan, crowd: list[dict[str, Any]], begin: int, steps: list[Step]) -> None:
        for number, one in enumerate(crowd, start=1):
            self._tx.execute(
                "insert into enterprises (enterprise, verified, set_attributes, told_time) values (%s, %s, %s, %s)",
                (
                    _name(number),
                    one["verified"],
                    Jsonb({"tier": one["tier"]} if one["tier"] else {}),
                    self._tx.now,
                ),
            )
        self._compare(
            lambda: usecases.simulate(self._tx, None, plan, verb="now", stage="", actor=ACTOR),
            lambda: usecases.apply_plan(self._tx, plan, actor=ACTOR),
        )
        usecases.apply_plan(self._tx, plan, actor=ACTOR)
        for number, one in enumerate(crowd, start=1):
            self._favour(_name(number), one)
        self._compare(
            lambda: usecases.simulate(self._tx, self._rollout(), None, verb="start", stage="", actor=ACTOR),
            lambda: usecases.start(self._tx, ROLLOUT, "", ACTOR),
        )
        usecases.start(self._tx, ROLLOUT, "", ACTOR)
        for _ in plan.stages[1 : 1 + begin]:
            usecases.advance(self._tx, ROLLOUT, "", ACTOR)
        for step in steps:
            possible = [do for simulate, do in self._tries(step) if self._compare(simulate, do)]
            if possible:
                possible[step.chosen % len(possible)]()
            number, verified = step.told
            self._told += timedelta(seconds=1)
            usecases.remember_enterprise(self._tx, _name(number), verified=verified, told=self._told)

    def _favour(self, enterprise: str, one: Mapping[str, Any]) -> None:
        tx = self._tx
        if one["listed"]:
            entries.set_entry(tx, ROLLOUT, entries.ListEntry(enterprise, one["listed"], "a test", None))
        if one["invited"]:
            _, token = entries.invite(tx, ROLLOUT, enterprise=enterprise, note="", expire_time=None)
            entries.accept(tx, token, enterprise)
        if one["joined"]:
            entries.join(tx, ROLLOUT, enterprise)

    def _tries(self, step: Step) -> list[tuple[Callable[[], usecases.Simulation], Callable[[], object]]]:
        """The verb, the edit, and both; each as it is simulated and as it is done."""
        verb = self._verb(step)

        def simulate(verb: str, plan: Plan | None) -> Callable[[], usecases.Simulation]:
            return lambda: usecases.simulate(
                self._tx, self._rollout(), plan, verb=verb, stage=step.stage, actor=ACTOR
            )

        def edit() -> object:
            return usecases.apply_plan(self._tx, step.other, actor=ACTOR)

        return [
            (simulate(step.verb, None), verb),
            (simulate("now", step.other), edit),
            (simulate(step.verb, step.other), lambda: (edit(), verb())),
        ]

    def _verb(self, step: Step) -> Callable[[], object]:
        """How a verb is done; holds and approvals are not what is asked about."""
        tx = self._tx
        match step.verb:
            case "start":
                return lambda: usecases.start(tx, ROLLOUT, "", ACTOR)
            case "advance":
                return lambda: usecases.advance(tx, ROLLOUT, "", ACTOR, skip_hold=True, reason="a test")
            case "jump":
                return lambda: usecases.jump(tx, ROLLOUT, "", ACTOR, stage=step.stage, reason="a test")
            case "resume":
                return lambda: usecases.resume(tx, ROLLOUT, "", ACTOR)
            case "complete":
                return lambda: usecases.complete(tx, ROLLOUT, "", ACTOR)
        return lambda: usecases.rollback(tx, ROLLOUT, "", ACTOR, "a test")

    def _compare(self, simulate: Callable[[], usecases.Simulation], do: Callable[[], object]) -> bool:
        """Simulate it, do it, and undo it; whether it was possible."""
        before = self._records()
        simulated = _outcome(simulate)
        assert self._records() == before, "simulating has changed something"
        done = self._tried(do)
        self._counts["simulations"] += 1
        if isinstance(simulated, str):
            self._counts["refused"] += 1
            self._counts["differing"] += simulated != done
            return False
        same = not isinstance(done, str) and simulated.records == done and _agrees(simulated, before)
        self._counts["differing"] += not same
        entered = {name for name, each in simulated.records.items() if each.is_active}
        was_in = {name for name, each in simulated.before.items() if each.is_active}
        self._counts["entering"] += len(entered - was_in)
        self._counts["leaving"] += len(was_in - entered)
        return True

    def _tried(self, do: Callable[[], object]) -> dict[str, Record] | str:
        """The records after it, or the reason for which it was refused; it is undone."""
        with _undone(self._tx):
            found = _outcome(do)
            return found if isinstance(found, str) else self._records()

    def _rollout(self) -> Rollout:
        return usecases.get_rollout(self._tx, ROLLOUT)

    def _records(self) -> dict[str, Record]:
        rollout = store.get_rollout(self._tx, ROLLOUT)
        return store.records(self._tx, rollout)[0] if rollout else {}


def _agrees(simulated: usecases.Simulation, before: Mapping[str, Record]) -> bool:
    """Whether what it says was there was there; before a rollout is made, nothing was."""
    return not before or simulated.before == before


def _outcome(do: Callable[[], Any]) -> Any:
    """What it gives, or the reason for which it was refused."""
    try:
        return do()
    except ServiceError as refused:
        return refused.reason


def _name(number: int) -> str:
    return f"enterprises/e{number}"
