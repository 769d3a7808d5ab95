"""Any order of deeds, from the API, the scheduler, the guardrails and by events: one after the other, and many at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.chassis.database import PLATFORM
from services.chassis.testing.settings import TestSettings
from services.rollout import audit, serving, store
from services.rollout.model import AdmissionState, Record, Rollout, RolloutState
from services.rollout.tests import deeds
from services.rollout.tests.deeds import Checking, Deed, Doing
from services.rollout.tests.populations import LEGAL, holding
from services.rollout.tests.world import EDITION, World

BROKEN = {"INTERNAL", "UNKNOWN", "ROLLBACK_NOT_EXACT"}
"""Reasons of refusals that are bugs."""
BY_ITSELF = {
    (RolloutState.ARMED, RolloutState.RUNNING),
    (RolloutState.RUNNING, RolloutState.PAUSED),
    (RolloutState.RUNNING, RolloutState.ROLLED_BACK),
    (RolloutState.PAUSED, RolloutState.ROLLED_BACK),
}
"""Where the scheduler and the guardrails lead."""
_either = st.sampled_from([EDITION, EDITION, deeds.PANEL])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, and deltas, of so few records that a handful of enterprises need several, or are too many."""
    monkeypatch.setattr(serving, "_PAGE", 3)
    monkeypatch.setattr(serving, "_MOST_TOLD", 4)


@pytest.fixture
def begin(world: World, tmp_path: Path) -> Iterator[Callable[[], tuple[Doing, Checking]]]:
    """Empties the service, with anchors of its own for the audit trail."""
    numbers = count()

    def anew() -> tuple[Doing, Checking]:
        deeds.wipe(world)
        anchors = tmp_path / f"audit-{next(numbers)}"
        audit.anchor_to(anchors)
        return Doing(world), Checking(world, anchors)

    yield anew
    audit.anchor_to(None)


class Life(RuleBasedStateMachine):
    """The service, to which one thing happens after the other."""

    def __init__(self, begin: Callable[[], tuple[Doing, Checking]]) -> None:
        super().__init__()
        self.doing, self.checking = begin()
        self.world = self.doing.world
        self.stored = self.world.everything()
        self.rollouts = self.look()

    def look(self) -> dict[str, tuple[Rollout, list[Record]]]:
        """The rollouts and their records by name."""
        with self.world.database.transaction(PLATFORM) as tx:
            return {
                each.name: (each, list(store.records(tx, each)[0].values()))
                for each in store.all_rollouts(tx)
            }

    @initialize(first=deeds.BEGINNING)
    def started(self, first: list[Deed]) -> None:
        """A rollout that runs, one that does not, and enterprises, most of them verified."""
        for deed in first:
            self.do(deed)

    # What usually is possible comes often enough to get anywhere, and everything comes everywhere.

    @rule(name=_either)
    def onward(self, name: str) -> None:
        """Whatever comes next, with the approval that it may need."""
        rollout = self.rollouts[name][0]
        self.do(Deed("approve", (name, rollout.stage or "start")))
        self.do(deeds.next_deed(self.world.get(name)))

    @rule(name=_either, to_start=st.booleans())
    def back(self, name: str, to_start: bool) -> None:
        self.do(Deed("verb", (name, "Rollback", "", {"to_start": to_start})))

    @rule(name=_either, place=st.integers(0, 9))
    def elsewhere(self, name: str, place: int) -> None:
        stages = self.rollouts[name][0].plan.stages
        self.do(Deed("verb", (name, "Jump", "", {"stage": stages[place % len(stages)].id})))

    @rule(name=_either, verb=st.sampled_from(["Pause", "Kill", "Unkill", "Unkill"]))
    def stop(self, name: str, verb: str) -> None:
        self.do(Deed("verb", (name, verb, "", {})))

    @rule(deed=deeds.VERB | deeds.APPROVAL)
    def anything(self, deed: Deed) -> None:
        self.do(deed)

    @rule(deed=deeds.PLAN | deeds.PLAN | deeds.CHANGE)
    def edit(self, deed: Deed) -> None:
        self.do(deed)

    @rule(deed=deeds.ONE)
    def one(self, deed: Deed) -> None:
        self.do(deed)

    @rule(deed=deeds.EVENT | deeds.FLAG)
    def event(self, deed: Deed) -> None:
        self.do(deed)

    @rule(deed=deeds.TIME)
    def time(self, deed: Deed) -> None:
        self.do(deed)

    @rule(bad=st.sampled_from([0, 50]))
    def guardrail(self, bad: int) -> None:
        """Numbers come in, good ones or bad ones, and the guardrails look at them."""
        self.do(Deed("tick", (2,)))
        self.do(Deed("measure", (bad,)))
        self.do(Deed("tick", (0,)))

    def do(self, deed: Deed) -> None:
        """Do it, and see whether it was possible, came out as it should, and changed nothing where it was refused."""
        before, stored = self.rollouts, self.stored
        anchors = self.anchors()
        reason = self.doing.do(deed)
        assert reason not in BROKEN, f"{deed}: {reason}"
        self.stored, self.rollouts = self.world.everything(), self.look()
        if reason:
            assert self.stored == stored, f"{deed} was refused ({reason}), and changed something"
        if "stale" in deed.values:
            assert reason in {"ETAG_MISMATCH", "NOT_FOUND"}
        for name, (after, records) in self.rollouts.items():
            if name in before:
                self.check_move(deed, done=not reason, before=before[name], after=(after, records))
        if deed.what == "verb" and deed.values[1] == "Rollback" and not reason:
            name, _, _, options = deed.values
            self.check_rollback(anchors[name][0 if options.get("to_start") else -1], *self.rollouts[name])

    def anchors(self) -> dict[str, list[store.Anchor]]:
        """What a rollback would restore, by rollout, the newest last."""
        with self.world.database.transaction(PLATFORM) as tx:
            rows = tx.execute(
                "select rollout, stage, stage_time, basis_points, held from anchors order by number"
            )
            found: dict[str, list[store.Anchor]] = {}
            for row in rows.fetchall():
                found.setdefault(row.pop("rollout"), []).append(store.Anchor(**row))
            return found

    def check_move(
        self,
        deed: Deed,
        *,
        done: bool,
        before: tuple[Rollout, list[Record]],
        after: tuple[Rollout, list[Record]],
    ) -> None:
        """The state has moved as the verb says; the revision has grown if anything changed; nobody left without a reason."""
        (old, had), (new, have) = before, after
        aimed = deed.what == "verb" and deed.values[0] == new.name and done
        verb = deed.values[1].lower() if aimed else ""
        if verb == "restart" and not old.stage:
            assert new.state is RolloutState.ARMED
        elif verb:
            assert new.state is LEGAL[verb][old.state]
        elif new.state is not old.state:
            assert deed.what == "tick"
            assert (old.state, new.state) in BY_ITSELF
        plain = {"revision": 0, "update_time": old.update_time}
        assert new.revision >= old.revision
        assert new.revision > old.revision or replace(new, **plain) == replace(old, **plain)
        if new.plan != old.plan:
            assert new.plan_version == old.plan_version + 1
        may_leave = (
            verb in {"jump", "rollback"} or new.plan != old.plan or new.state is RolloutState.ROLLED_BACK
        )
        if not may_leave and deed.what != "revoke":
            assert holding(had).items() <= holding(have).items()
        entered = holding(have).keys() - holding(had).keys()
        if entered and verb != "rollback":
            assert not new.killed
            assert new.state in {RolloutState.RUNNING, RolloutState.COMPLETED}
            stage = new.current_stage
            if stage and stage.quota and new.state is RolloutState.RUNNING:
                assert len(holding(have)) <= stage.quota

    def check_rollback(self, anchor: store.Anchor, rollout: Rollout, records: list[Record]) -> None:
        """What is served is what was served at the anchor, but for whoever was revoked since."""
        revoked = {record.enterprise for record in records if record.state is AdmissionState.REVOKED}
        assert holding(records) == {name: stage for name, stage in anchor.held.items() if name not in revoked}
        assert rollout.stage == anchor.stage

    @invariant()
    def everything_agrees(self) -> None:
        self.checking.check()


def live(begin: Callable[[], tuple[Doing, Checking]], examples: int, steps: int) -> None:
    """Live so many lives, of so many deeds each."""
    run_state_machine_as_test(
        lambda: Life(begin),
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )


def test_life__one_deed_after_the_other(begin: Callable[[], tuple[Doing, Checking]]) -> None:
    """Whatever is done in whatever order, states, records, quotas, both streams, flags, anchors and the audit trail agree."""
    live(begin, examples=10, steps=20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_life__long(begin: Callable[[], tuple[Doing, Checking]]) -> None:
    """The same, for longer; for far longer in `make verify-rollout SIZE=full`, row 6."""
    live(begin, examples=TestSettings()(30, 150), steps=50)


def live_at_once(begin: Callable[[], tuple[Doing, Checking]], examples: int, bursts: int, size: int) -> None:
    """Live so many lives, in each of which some bursts of deeds are done at the same moment."""

    # What depends on who comes first cannot be made smaller by trying again.
    @settings(max_examples=examples, phases=[Phase.explicit, Phase.generate])
    @given(
        first=deeds.BEGINNING,
        happening=st.lists(st.lists(deeds.ANY, min_size=2, max_size=size), min_size=1, max_size=bursts),
    )
    def life(first: list[Deed], happening: list[list[Deed]]) -> None:
        doing, checking = begin()
        for deed in first:
            doing.do(deed)
        with ThreadPoolExecutor(size) as pool:
            for burst in happening:
                # Two workers' schedulers come by at the same moment, too.
                outcomes = list(pool.map(doing.do, [*burst, Deed("tick", (1,)), Deed("tick", (0,))]))
                assert not BROKEN & set(outcomes), (burst, outcomes)
                assert doing.do(Deed("tick", (0,))) == ""
                checking.check()

    life()


def test_life__many_deeds_at_once(begin: Callable[[], tuple[Doing, Checking]]) -> None:
    """From API, scheduler, guardrails and events at the same moment: it is as if one came after the other."""
    live_at_once(begin, examples=10, bursts=3, size=8)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_life__many_deeds_at_once__long(begin: Callable[[], tuple[Doing, Checking]]) -> None:
    """The same, for longer; for far longer in `make verify-rollout SIZE=full`, row 6."""
    live_at_once(begin, examples=TestSettings()(30, 100), bursts=6, size=12)
