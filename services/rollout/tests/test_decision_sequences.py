"""Any order of verbs and events keeps what the rules of admission promise."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.rollout import decision, transitions
from services.rollout.decision import Taken, decide
from services.rollout.model import (
    AdmissionState,
    Anchor,
    Cause,
    Listed,
    Reason,
    Record,
    Rollout,
    RolloutState,
    Source,
)
from services.rollout.plan import Narrowing, Plan
from services.rollout.tests.populations import (
    NOW,
    TIERS,
    active,
    check_control,
    check_decided,
    holding,
    make_record,
    make_rollout,
    plans,
    with_subject,
)


class Town(RuleBasedStateMachine):
    """Any order of verbs and events over a random plan keeps what the rules promise. Pure: nothing is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []
        self.anchors: list[Anchor] = []
        self.seats: dict[str, int] = {}
        self.now = NOW
        self.settled = True
        """Whether everything was decided since the last kill, which decides nothing."""

    @initialize(plan=plans(tenants=6), count=st.integers(0, 4))
    def begin(self, plan: Plan, count: int) -> None:
        self.rollout = make_rollout(*plan.stages, at=None, state=RolloutState.DRAFT)
        self.rollout = replace(self.rollout, plan=plan)
        for _ in range(count):
            self.register(True, 0, 0)

    # How it is decided

    def settle(self, **options: Any) -> None:
        """Decide all of them."""
        before = self.records
        self.records = decide(self.rollout, before, now=self.now, **options)
        self.settled = True
        assert decide(self.rollout, self.records, now=self.now) == self.records
        self.check_entries(before, restored="anchor" in options)

    def event(self, index: int, changed: Record) -> None:
        """Decide one of them, which frees no seat: as if all had been looked at."""
        before = self.records
        others = [record for place, record in enumerate(before) if place != index]
        taken = Taken(
            held=sum(record.held for record in others), last_seat=max([0, *(r.seat or 0 for r in before)])
        )
        alone = decide(self.rollout, [changed], now=self.now, others=taken)[0]
        everybody = decide(
            self.rollout,
            [changed if place == index else each for place, each in enumerate(before)],
            now=self.now,
        )
        assert everybody[index] == alone
        if self.settled:
            assert [each for place, each in enumerate(everybody) if place != index] == others
        self.records = [alone if place == index else each for place, each in enumerate(before)]
        self.check_entries(before, restored=False)

    def check_entries(self, before: list[Record], *, restored: bool) -> None:
        """Fail when somebody came in over the quota, out of the control group, or while nobody may."""
        entered = holding(self.records).keys() - holding(before).keys()
        if entered and not restored:
            quota = decision.quota_of(self.rollout)
            assert not quota or len(holding(self.records)) <= quota
            assert not self.rollout.killed
            assert self.rollout.state in {RolloutState.RUNNING, RolloutState.COMPLETED}
            check_control(self.rollout, before, self.records)
        for record in self.records:
            if record.seat is not None:
                assert self.seats.setdefault(record.enterprise, record.seat) == record.seat

    # What happens to one enterprise

    @rule(verified=st.booleans(), bucket=st.integers(0, 9_999), control_bucket=st.integers(0, 9_999))
    def register(self, verified: bool, bucket: int, control_bucket: int) -> None:
        number = len(self.records) + 1
        self.records = [
            *self.records,
            make_record(number, verified=verified, bucket=bucket, control_bucket=control_bucket),
        ]
        self.event(number - 1, self.records[-1])

    @precondition(lambda self: self.records)
    @rule(
        data=st.data(),
        change=st.one_of(
            st.booleans().map(lambda verified: {"attributes": {"verified": verified}}),
            st.sampled_from(TIERS).map(lambda tier: {"attributes": {"tier": tier}}),
            st.sampled_from([None, *Listed]).map(lambda listed: {"listed": listed}),
            st.integers(0, 5).map(lambda number: {"invited": number}),
            (st.none() | st.integers(0, 5)).map(lambda number: {"joined": number}),
        ),
    )
    def learn(self, data: st.DataObject, change: dict[str, Any]) -> None:
        index = data.draw(st.integers(0, len(self.records) - 1))
        self.event(index, with_subject(self.records[index], **change))

    @precondition(lambda self: self.records and self.rollout.state is RolloutState.RUNNING)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.records) - 1))
        if not self.records[index].held:
            by_hand = {"source": Source.MANUAL, "state": AdmissionState.WAITLISTED}
            self.event(index, replace(self.records[index], **by_hand))

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.records) - 1))
        out = {
            "state": AdmissionState.REVOKED,
            "held": False,
            "source": Source.NONE,
            "reason": Reason.REVOKED,
        }
        held, killed = len(holding(self.records)), self.rollout.killed
        self.records = [
            replace(each, **out) if place == index else each for place, each in enumerate(self.records)
        ]
        self.settle()
        assert killed or len(holding(self.records)) <= held
        assert self.records[index].state is AdmissionState.REVOKED

    # Verbs

    def move(self, after: Rollout, *, widens: bool = False, narrows: bool = False) -> None:
        """Decide by a rollout that has moved."""
        before, were_in = self.rollout, holding(self.records)
        if widens:
            anchor = Anchor(before.stage, before.stage_time, before.basis_points, were_in)
            self.anchors.append(anchor)
        self.rollout = after
        self.settle(narrowed=before if narrows else None)
        if not narrows or after.plan.policies.narrowing is Narrowing.KEEP:
            assert were_in.keys() <= holding(self.records).keys()
            assert were_in.items() <= holding(self.records).items()

    @precondition(lambda self: self.rollout.state in {RolloutState.DRAFT, RolloutState.ARMED})
    @rule()
    def start(self) -> None:
        self.move(transitions.start(self.rollout, 0, self.now), widens=True)

    @precondition(
        lambda self: (
            self.rollout.state is RolloutState.RUNNING
            and self.rollout.stage != self.rollout.plan.stages[-1].id
        )
    )
    @rule()
    def advance(self) -> None:
        self.move(transitions.advance(self.rollout, (), self.now), widens=True)

    @precondition(lambda self: self.rollout.state is RolloutState.RUNNING)
    @rule(data=st.data())
    def jump(self, data: st.DataObject) -> None:
        stage = data.draw(st.sampled_from(self.rollout.plan.stages))
        self.move(transitions.jump(self.rollout, stage.id, {}, self.now), widens=True, narrows=True)

    @precondition(lambda self: self.rollout.state is RolloutState.RUNNING)
    @rule()
    def pause(self) -> None:
        before = active(self.records)
        self.move(transitions.pause(self.rollout, Cause.USER, "a test"))
        assert active(self.records) == before

    @precondition(lambda self: self.rollout.state is RolloutState.PAUSED)
    @rule()
    def resume(self) -> None:
        self.move(transitions.resume(self.rollout))

    @precondition(
        lambda self: (
            self.rollout.state is RolloutState.RUNNING
            and self.rollout.stage == self.rollout.plan.stages[-1].id
        )
    )
    @rule()
    def complete(self) -> None:
        self.move(transitions.complete(self.rollout), widens=True)

    @precondition(lambda self: self.rollout.state is RolloutState.ROLLED_BACK)
    @rule()
    def restart(self) -> None:
        self.move(transitions.restart(self.rollout, self.now))

    @precondition(
        lambda self: (
            self.anchors
            and self.rollout.state in {RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.COMPLETED}
        )
    )
    @rule(to_start=st.booleans())
    def rollback(self, to_start: bool) -> None:
        anchor = self.anchors[0] if to_start else self.anchors[-1]
        self.anchors = [] if to_start else self.anchors[:-1]
        self.rollout = transitions.rollback(self.rollout, anchor, Cause.USER, "a test")
        self.settle(anchor=anchor)
        revoked = {each.enterprise for each in self.records if each.state is AdmissionState.REVOKED}
        assert holding(self.records) == {k: v for k, v in anchor.held.items() if k not in revoked}
        assert self.rollout.stage == anchor.stage

    @rule()
    def kill(self) -> None:
        self.rollout, self.settled = transitions.kill(self.rollout, "a test"), False

    @precondition(lambda self: self.rollout.killed)
    @rule()
    def unkill(self) -> None:
        self.move(transitions.unkill(self.rollout))

    @rule(plan=plans(tenants=6))
    def edit(self, plan: Plan) -> None:
        anchored = frozenset(anchor.stage for anchor in self.anchors)
        if (anchored | {self.rollout.stage}) - {""} <= {stage.id for stage in plan.stages}:
            after = transitions.change_plan(self.rollout, plan, "clients/author", anchored)
            self.move(after, narrows=True)

    @rule(minutes=st.integers(1, 90))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        climbed = transitions.climb(self.rollout, self.now)
        if climbed is not self.rollout:
            assert climbed.basis_points > self.rollout.basis_points
            self.move(climbed)

    # What is so after each of them

    @invariant()
    def records_say_what_is_so(self) -> None:
        if self.settled:
            check_decided(self.rollout, self.records)

    @invariant()
    def only_the_eligible_are_in(self) -> None:
        plan = self.rollout.plan
        assert not any(decision.ineligible(plan, record) for record in self.records if record.is_active)

    @invariant()
    def share_is_within_the_stage(self) -> None:
        stage = self.rollout.current_stage
        assert self.rollout.basis_points <= (stage.basis_points if stage else 0)


TestTown = Town.TestCase
TestTown.settings = settings(max_examples=60, stateful_step_count=30)
