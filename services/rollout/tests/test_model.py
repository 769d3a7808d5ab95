"""The rules of admission: properties over random populations."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.chassis.errors import ServiceError
from services.rollout import model
from services.rollout.model import AdmissionState, Reason, Record, Rollout, RolloutState, Stage

NOW = datetime(2026, 11, 1, tzinfo=UTC)
STAGES = (
    Stage("private-beta", 10_000, quota=2),
    Stage("open-beta", 10_000, quota=5),
    Stage("everybody", 10_000),
)


def make_rollout(stages: tuple[Stage, ...] = STAGES) -> Rollout:
    return Rollout("rollouts/edition", "enterprise-beta", "rollouts/edition", stages, NOW, NOW)


def make_records(verified: list[bool]) -> list[Record]:
    return [
        Record(f"enterprises/e{n}", n, is_verified, model.bucket_of("rollouts/edition", f"enterprises/e{n}"))
        for n, is_verified in enumerate(verified, start=1)
    ]


def active(records: list[Record]) -> set[str]:
    return {record.enterprise for record in records if record.state is AdmissionState.ACTIVE}


def test_decide__quota_in_order_of_arrival() -> None:
    """The first verified ones enter; the next ones wait with their place; the unverified are told why."""
    rollout = model.start(make_rollout())

    decided = model.decide(rollout, make_records([True, False, True, True, True]), now=NOW)

    assert [(r.state.value, r.reason.value, r.position) for r in decided] == [
        ("ACTIVE", "", 0),
        ("WAITLISTED", "NOT_VERIFIED", 0),
        ("ACTIVE", "", 0),
        ("WAITLISTED", "QUOTA_FULL", 1),
        ("WAITLISTED", "QUOTA_FULL", 2),
    ]


def test_decide__revoked_keeps_its_seat() -> None:
    """Who loses verification is suspended, nobody takes the seat, and it comes back to the same seat."""
    rollout = model.start(make_rollout())
    first = model.decide(rollout, make_records([True, True, True]), now=NOW)

    revoked = model.decide(rollout, [replace(first[0], verified=False), *first[1:]], now=NOW)
    restored = model.decide(rollout, [replace(revoked[0], verified=True), *revoked[1:]], now=NOW)

    assert revoked[0].reason is Reason.VERIFICATION_REVOKED
    assert active(revoked) == {"enterprises/e2"}
    assert active(restored) == {"enterprises/e1", "enterprises/e2"}
    assert restored[0].seat == first[0].seat


def test_rollback__serves_the_anchor() -> None:
    """After a rollback exactly those are in who were in before the widening; a wider stage gives them their places back."""
    rollout = model.start(make_rollout())
    before = model.decide(rollout, make_records([True] * 6), now=NOW)
    wide = model.advance(rollout, before)
    widened = model.decide(wide, before, now=NOW)

    back, anchor = model.rollback(wide)
    rolled_back = model.decide(back, widened, now=NOW, anchor=anchor)
    again = model.decide(model.advance(model.resume(back), rolled_back), rolled_back, now=NOW)

    assert active(rolled_back) == active(before)
    assert len(active(widened)) == 5
    assert {r.reason for r in rolled_back if r.state is AdmissionState.SUSPENDED} == {
        Reason.STAGE_ROLLED_BACK
    }
    assert active(again) == active(widened)


def test_rollback__of_the_unverified__gives_their_seats_back_too() -> None:
    """Who had a seat but no verification when the stage widened has its seat again; nobody takes it after the rollback."""
    rollout = model.start(make_rollout())
    first, *others = model.decide(rollout, make_records([True] * 4), now=NOW)
    revoked = model.decide(rollout, [replace(first, verified=False), *others], now=NOW)
    wide = model.advance(rollout, revoked)
    back, anchor = model.rollback(wide)
    rolled_back = model.decide(back, model.decide(wide, revoked, now=NOW), now=NOW, anchor=anchor)

    resumed = model.decide(model.resume(back), rolled_back, now=NOW)
    restored = model.decide(model.resume(back), [replace(resumed[0], verified=True), *resumed[1:]], now=NOW)

    assert active(resumed) == {"enterprises/e2"}
    assert active(restored) == {"enterprises/e1", "enterprises/e2"}


def test_rollback__then_revoked__is_told_what_it_can_do() -> None:
    """Who lost its place to a rollback and then its verification must ask for that; its seat is no longer held."""
    rollout = model.start(make_rollout())
    wide = model.advance(rollout, model.decide(rollout, make_records([True] * 5), now=NOW))
    widened = model.decide(wide, make_records([True] * 5), now=NOW)
    back, anchor = model.rollback(wide)
    rolled_back = model.decide(back, widened, now=NOW, anchor=anchor)

    last = model.decide(back, [*rolled_back[:-1], replace(rolled_back[-1], verified=False)], now=NOW)[-1]
    again = model.decide(back, [replace(last, verified=True)], now=NOW)[-1]

    assert (last.state, last.reason) == (AdmissionState.SUSPENDED, Reason.NOT_VERIFIED)
    assert (again.state, again.reason) == (AdmissionState.SUSPENDED, Reason.ROLLOUT_NOT_RUNNING)
    assert again.seat == widened[-1].seat


def test_kill__nobody_enters_and_nobody_loses_their_place() -> None:
    """While it is killed records are kept and nobody enters; taken back, who became eligible meanwhile enters."""
    rollout = model.start(make_rollout())
    before = model.decide(rollout, make_records([True, False]), now=NOW)
    killed = model.decide(model.kill(rollout), [before[0], replace(before[1], verified=True)], now=NOW)

    back = model.decide(model.unkill(model.kill(rollout)), killed, now=NOW)

    assert active(killed) == active(before)
    assert killed[1].reason is Reason.EDITION_KILLED
    assert active(back) == {"enterprises/e1", "enterprises/e2"}


@pytest.mark.parametrize("reason", Reason)
def test_next_step__every_reason_has_one(reason: Reason) -> None:
    """Whoever is not in is told what to do, with their own name in it."""
    step = model.next_step(reason, "enterprises/e1")

    assert bool(step) == (reason is not Reason.NONE)
    assert "{" not in step


def test_stages__narrower_refused() -> None:
    """A stage that takes fewer than the one before is refused, and the error names it."""
    with pytest.raises(ServiceError) as refused:
        model.check_stages([Stage("a", 5_000), Stage("b", 10_000, quota=5)])

    assert refused.value.violations[0].field == "rollout.stages[1]"


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 10_000), st.integers(1, 10_000))
def test_decide__widening_expels_nobody(verified: list[bool], narrow: int, wide: int) -> None:
    """Widening the share never takes anybody out."""
    narrow, wide = sorted((narrow, wide))
    rollout = model.start(make_rollout((Stage("narrow", narrow), Stage("wide", wide))))
    before = model.decide(rollout, make_records(verified), now=NOW)

    after = model.decide(model.advance(rollout, before), before, now=NOW)

    assert active(before) <= active(after)


@given(st.lists(st.booleans(), max_size=30))
def test_decide__is_idempotent(verified: list[bool]) -> None:
    """Deciding twice decides nothing new."""
    rollout = model.start(make_rollout())
    once = model.decide(rollout, make_records(verified), now=NOW)

    assert model.decide(rollout, once, now=NOW) == once


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of verbs and events keeps quota, eligibility, seats and anchors."""

    @initialize()
    def begin(self) -> None:
        self.rollout = make_rollout()
        self.records: list[Record] = []
        self.seats: dict[str, int] = {}
        self.served: list[set[str]] = []

    def settle(self, anchor: model.Anchor | None = None) -> None:
        self.records = model.decide(self.rollout, self.records, now=NOW, anchor=anchor)

    @rule()
    def register(self) -> None:
        self.records += [
            replace(
                make_records([False])[0],
                enterprise=f"enterprises/e{len(self.records) + 1}",
                arrival=len(self.records) + 1,
            )
        ]
        self.settle()

    @precondition(lambda self: self.records)
    @rule(data=st.data(), verified=st.booleans())
    def verify(self, data: st.DataObject, verified: bool) -> None:
        index = data.draw(st.integers(0, len(self.records) - 1))
        self.records[index] = replace(self.records[index], verified=verified)
        self.settle()

    @precondition(lambda self: self.rollout.state is RolloutState.DRAFT)
    @rule()
    def start(self) -> None:
        self.rollout = model.start(self.rollout)
        self.settle()

    @precondition(
        lambda self: self.rollout.state is RolloutState.RUNNING and self.rollout.stage < len(STAGES) - 1
    )
    @rule()
    def advance(self) -> None:
        self.served.append({record.enterprise for record in self.records if record.holds_seat})
        self.rollout = model.advance(self.rollout, self.records)
        self.settle()

    @precondition(lambda self: self.rollout.anchors)
    @rule()
    def rollback(self) -> None:
        verified = {record.enterprise for record in self.records if record.verified}
        self.rollout, anchor = model.rollback(self.rollout)
        self.settle(anchor)
        assert active(self.records) == self.served.pop() & verified

    @rule()
    def kill(self) -> None:
        before = active(self.records)
        self.rollout = model.kill(self.rollout)
        self.settle()
        assert active(self.records) == before

    @precondition(lambda self: self.rollout.killed)
    @rule()
    def unkill(self) -> None:
        before = active(self.records)
        self.rollout = model.unkill(self.rollout)
        self.settle()
        assert active(self.records) >= before

    @precondition(lambda self: self.rollout.state is RolloutState.RUNNING)
    @rule()
    def pause(self) -> None:
        self.rollout = model.pause(self.rollout)
        before = active(self.records)
        self.settle()
        assert active(self.records) == before

    @precondition(lambda self: self.rollout.state is RolloutState.PAUSED)
    @rule()
    def resume(self) -> None:
        self.rollout = model.resume(self.rollout)
        self.settle()

    @invariant()
    def only_the_verified_are_in(self) -> None:
        assert all(record.verified for record in self.records if record.state is AdmissionState.ACTIVE)

    @invariant()
    def quota_holds_and_no_place_is_left_free(self) -> None:
        stage = self.rollout.current_stage
        full = [record for record in self.records if record.reason is Reason.QUOTA_FULL]
        if stage and stage.quota:
            taken = sum(record.holds_seat for record in self.records)
            assert taken <= stage.quota
            assert taken == stage.quota or not full
        assert sorted(record.position for record in full) == list(range(1, len(full) + 1))

    @invariant()
    def reasons_say_what_is_so(self) -> None:
        for record in self.records:
            assert (record.state is AdmissionState.ACTIVE) == (record.reason is Reason.NONE)
            assert (record.state is AdmissionState.WAITLISTED) == (record.seat is None)
            assert record.verified == (
                record.reason not in {Reason.NOT_VERIFIED, Reason.VERIFICATION_REVOKED}
            )
            if record.reason is not Reason.QUOTA_FULL:
                assert record.position == 0

    @invariant()
    def seats_are_kept(self) -> None:
        for record in self.records:
            if record.enterprise in self.seats:
                assert record.seat == self.seats[record.enterprise]
            elif record.seat is not None:
                assert record.seat not in self.seats.values()
                self.seats[record.enterprise] = record.seat


TestAdmissions = AdmissionMachine.TestCase
