"""
At most one post per delivery, whatever fails: random histories of one account on a network of class A and of B.

The same machine must catch senders that are wrong on purpose, or its silence would mean nothing.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.chassis.ids import deterministic_id
from services.publishing.model import deliveries as model
from services.publishing.model.accounts import NetworkClass
from services.publishing.model.deliveries import Delivery, DeliveryState, Policy, Restoration, Step
from services.publishing.tests.fakes import ENTERPRISE, NOON, FakeNetwork, make_delivery

POLICY = Policy(
    request_timeout=timedelta(seconds=10),
    lease_margin=timedelta(seconds=10),
    server_margin=timedelta(seconds=30),
    visibility_lag=timedelta(seconds=30),
    most_attempts=6,
)
OPEN = {DeliveryState.SENDING, DeliveryState.UNCONFIRMED}

seconds = st.integers(0, 10).map(lambda each: timedelta(seconds=each))
lags = st.integers(0, 30).map(lambda each: timedelta(seconds=each))


class Account(RuleBasedStateMachine):
    """One account's line of deliveries, worked on by senders that die and by a network that loses replies."""

    network_class: ClassVar[NetworkClass]

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.network = FakeNetwork(self.network_class)
        self.deliveries: dict[str, Delivery] = {}
        self.ended: dict[str, Delivery] = {}
        self.late: list[tuple[datetime, Delivery, str]] = []
        """Requests that a server still works on after we gave up: when it commits, and what."""
        self.scheduled = 0
        self.backup: tuple[datetime, dict[str, Delivery]] | None = None

    # What a sender does; mutants override these.

    def key(self, delivery: Delivery) -> str:
        return delivery.key

    def next_step(self, delivery: Delivery) -> Step:
        return model.next_step(delivery, self.network_class, self.now, POLICY)

    def restored(self, delivery: Delivery, since: datetime) -> Delivery:
        return model.restored(delivery, Restoration(since, self.now + POLICY.server_margin))

    # The world

    @rule(text=st.sampled_from(["Hello", "Hello", "An SUV weekend"]))
    def schedule(self, text: str) -> None:
        """Identical texts on one account are usual: two of three here."""
        if self.backup:
            # What a restoration loses whole must not be mistaken for what it keeps: nobody could tell them apart.
            text = f"{text} {self.scheduled}"
        name = f"{ENTERPRISE}/publications/p/deliveries/d{self.scheduled}"
        self.scheduled += 1
        self.deliveries[name] = make_delivery(
            name=name, text=text, due_time=self.now, create_time=self.now, update_time=self.now
        )

    @rule(by=st.sampled_from([1, 5, 30, 60, 600, 3600]))
    def wait(self, by: int) -> None:
        self._pass(timedelta(seconds=by))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = [name for name, each in self.deliveries.items() if each.state not in model.FINAL]
        if waiting:
            name = data.draw(st.sampled_from(waiting))
            self.deliveries[name] = model.request_cancel(self.deliveries[name], self.now)

    @rule()
    def back_up(self) -> None:
        self.backup = self.now, dict(self.deliveries)

    @precondition(lambda self: self.backup)
    @rule()
    def restore(self) -> None:
        """The database is as old as its backup; the network has gone on."""
        assert self.backup is not None
        since, known = self.backup
        self.deliveries = {name: self.restored(delivery, since) for name, delivery in known.items()}
        self.ended = {name: each for name, each in self.deliveries.items() if each.state in model.FINAL}

    @precondition(lambda self: self._ready())
    @rule(
        fate=st.sampled_from(
            [
                "posted", "posted", "lost_reply", "error_after", "error_before", "late", "never_arrived",
                "dies_before", "dies_after", "dies_late", "refused", "reauth", "rate_limited", "unreachable",
            ]
        ),
        took=seconds,
        lag=lags,
        work=st.integers(0, 30).map(lambda each: timedelta(seconds=each)),
    )  # fmt: skip
    def work(self, fate: str, took: timedelta, lag: timedelta, work: timedelta) -> None:
        """A sender takes up the head of the line, and one of all the things that can happen does."""
        self._work(fate, took, lag, work)

    def _work(self, fate: str, took: timedelta, lag: timedelta, work: timedelta) -> None:
        delivery = self._ready()
        assert delivery is not None
        step = self.next_step(delivery) if delivery.state is DeliveryState.UNCONFIRMED else Step.SEND
        if step is Step.LOOK_UP:
            began = self.now
            leased = model.begin_lookup(delivery, self.now, POLICY)
            read = self.network.timeline(self.now)
            self._pass(took)
            known = {each.network_post_id for each in self.deliveries.values() if each.name != delivery.name}
            self._keep(model.after_lookup(leased, read, known - {""}, began, self.now, POLICY))
        elif step is Step.SEND:
            self._send(model.begin_attempt(delivery, self.now, POLICY), fate, took, lag, work)

    def _send(  # noqa: PLR0912 -- one branch per fate
        self, sending: Delivery, fate: str, took: timedelta, lag: timedelta, work: timedelta
    ) -> None:
        self._keep(sending)
        key = self.key(sending)
        outcome: model.SendOutcome | None = None
        match fate:
            case "posted":
                outcome = self.network.commit(sending, key, self.now, lag)
            case "lost_reply":
                self.network.commit(sending, key, self.now, lag)
                outcome = model.Unknown("NO_REPLY")
            case "error_after":
                self.network.commit(sending, key, self.now, lag)
                outcome = model.Unknown("SERVER_ERROR", answered=True)
            case "error_before":
                outcome = model.Unknown("SERVER_ERROR", answered=True)
            case "late":
                took = POLICY.request_timeout
                self.late.append((self.now + took + work, sending, key))
                outcome = model.Unknown("NO_REPLY")
            case "never_arrived":
                took, outcome = POLICY.request_timeout, model.Unknown("NO_REPLY")
            case "dies_before":
                pass
            case "dies_after":
                self.network.commit(sending, key, self.now, lag)
            case "dies_late":
                self.late.append((self.now + took + work, sending, key))
            case "refused":
                outcome = model.Refused("REJECTED_CONTENT")
            case "reauth":
                outcome = model.Refused(model.REAUTH_REQUIRED)
            case "rate_limited":
                outcome = model.Postponed("RATE_LIMITED", self.now + timedelta(minutes=5))
            case "unreachable":
                outcome = model.Postponed("UNREACHABLE")
        self._pass(took)
        if outcome is not None:
            self._keep(model.after_attempt(self.deliveries[sending.name], outcome, self.now, POLICY))

    def _ready(self) -> Delivery | None:
        """What a lease would give now."""
        under_way = [each for each in self.deliveries.values() if each.state in OPEN]
        assert len(under_way) <= 1, "two deliveries of one account are under way"
        if under_way:
            (delivery,) = under_way
            if delivery.lease_until is not None:
                if delivery.lease_until >= self.now:
                    return None
                self._keep(model.abandoned(delivery, self.now, POLICY))
                return self.deliveries[delivery.name]
            return delivery if delivery.next_time and delivery.next_time <= self.now else None
        queued = [each for each in self.deliveries.values() if each.state is DeliveryState.QUEUED]
        head = min(queued, key=lambda each: each.due_time, default=None)
        if head is None or (head.next_time and head.next_time > self.now):
            return None
        if head.doubt:
            head = model.find_out(head, self.now)
            self._keep(head)
        return head

    def _pass(self, by: timedelta) -> None:
        """Let time go by; servers finish what they are at."""
        self.now += by
        for item in [each for each in self.late if each[0] <= self.now]:
            when, delivery, key = item
            self.late.remove(item)
            self.network.commit(delivery, key, when, timedelta())

    def _keep(self, delivery: Delivery) -> None:
        self.deliveries[delivery.name] = delivery
        if delivery.state in model.FINAL:
            assert delivery.name not in self.ended
            self.ended[delivery.name] = delivery

    # What must hold

    @invariant()
    def never_twice(self) -> None:
        for delivery in self.deliveries.values():
            assert self.network.count(delivery) <= 1, f"{delivery.name} is on the network twice"

    @invariant()
    def states_tell_the_truth(self) -> None:
        ids = []
        for delivery in self.deliveries.values():
            if delivery.state is DeliveryState.PUBLISHED:
                assert self.network.count(delivery) == 1
                ids.append(delivery.network_post_id)
            elif delivery.state in {DeliveryState.FAILED, DeliveryState.CANCELLED} or (
                delivery.state is DeliveryState.QUEUED and not delivery.doubt
            ):
                assert self.network.count(delivery) == 0, f"{delivery.name} is {delivery.state} and published"
        assert len(ids) == len(set(ids))

    @invariant()
    def ends_are_ends(self) -> None:
        assert all(self.deliveries[name] == delivery for name, delivery in self.ended.items())

    def teardown(self) -> None:
        """When the network works again, everything comes to an end: nothing stays unknown."""
        for _ in range(400):
            if all(each.state in model.FINAL for each in self.deliveries.values()):
                return
            if self._ready():
                self._work("posted", timedelta(), timedelta(), timedelta())
            self._pass(timedelta(seconds=30))
            self.never_twice()
            self.states_tell_the_truth()
        raise AssertionError("something never ended")


class ClassA(Account):
    network_class = NetworkClass.A


class ClassB(Account):
    network_class = NetworkClass.B


class NewKeyPerAttempt(ClassA):
    """Wrong: draws a new idempotency key for each attempt."""

    def key(self, delivery: Delivery) -> str:
        return deterministic_id(delivery.key, str(delivery.attempts))


class ResendWithoutLooking(ClassB):
    """Wrong: on a network that ignores keys, sends again after a timeout without reading back."""

    def next_step(self, delivery: Delivery) -> Step:
        return Step.SEND


class ForgetsTheKeysLife(ClassA):
    """Wrong: believes that a key is remembered for ever."""

    def next_step(self, delivery: Delivery) -> Step:
        return Step.SEND


class BelievesAbsenceAtOnce(ClassB):
    """Wrong: takes a post that is not visible yet, or not made yet, for one that will never be."""

    def next_step(self, delivery: Delivery) -> Step:
        assert delivery.doubt is not None
        hasty = replace(delivery.doubt, over=delivery.doubt.since - timedelta(hours=1))
        self.deliveries[delivery.name] = replace(delivery, doubt=hasty)
        return Step.LOOK_UP

    def _ready(self) -> Delivery | None:
        delivery = super()._ready()
        if delivery and delivery.doubt:
            self.next_step(delivery)
            return self.deliveries[delivery.name]
        return delivery


class RestoresWithoutDoubt(ClassB):
    """Wrong: believes a backup."""

    def restored(self, delivery: Delivery, since: datetime) -> Delivery:
        return delivery


class RestoresWithoutDoubtOnA(ClassA):
    """Wrong where keys are honoured, too: not for ever."""

    def restored(self, delivery: Delivery, since: datetime) -> Delivery:
        return delivery


CHECKED = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
UNTIL_FOUND = settings(CHECKED, max_examples=2000, phases=[Phase.generate], database=None)


@pytest.mark.parametrize("machine", [ClassA, ClassB])
def test_deliveries__any_history__never_twice(machine: type[Account]) -> None:
    """Whatever dies, and whatever is lost, no delivery is on the network twice, and states tell the truth."""
    run_state_machine_as_test(machine, settings=CHECKED)


@pytest.mark.parametrize(
    "mutant",
    [
        NewKeyPerAttempt,
        ResendWithoutLooking,
        ForgetsTheKeysLife,
        BelievesAbsenceAtOnce,
        RestoresWithoutDoubt,
        RestoresWithoutDoubtOnA,
    ],
)
def test_deliveries__sender_wrong_on_purpose__is_caught(mutant: type[Account]) -> None:
    """The machine finds the mistakes that it is there to find."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(mutant, settings=UNTIL_FOUND)
