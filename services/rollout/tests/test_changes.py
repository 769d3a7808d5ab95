"""Change requests: who may approve what, when it comes into force, and what voids it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.ids import new_id
from services.chassis.testing.databases import TemporaryDatabase
from services.rollout import audit, changes, store
from services.rollout.changes import ChangeKind, ChangeRequest, ChangeState
from services.rollout.model import Rollout
from services.rollout.plan import Plan, parse

AUTHOR, FIRST, SECOND = "clients/operator", "clients/reviewer", "clients/third"
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def plan(rollout: str = "edition", *, approvals: int = 1, mark: str = "") -> Plan:
    """A plan; plans of different marks are different texts."""
    return parse(
        f"rollout: {rollout}\nflag: {rollout}\nstages: [{{ring: 0}}]\napprovals: {{change: {approvals}}}\n# {mark}\n"
    )


@dataclass
class Office:
    """The change requests of one rollout, and a stand-in for what puts plans in force."""

    database: TemporaryDatabase
    clock: FixedClock
    id: str = "edition"
    in_force: list[tuple[str, str]] = field(default_factory=list)
    """The text of each plan that was put in force, and whose it is."""
    refusal: ServiceError | None = None
    """Raised by what puts plans in force."""

    def open(self, approvals: int = 1) -> "Office":
        """Make the rollout."""
        name, now = f"rollouts/{self.id}", self.clock.now()
        rollout = Rollout(
            name, self.id, name, plan(self.id, approvals=approvals), AUTHOR, create_time=now, update_time=now
        )
        self.do(store.insert_rollout, rollout)
        return self

    def do(self, what: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """One use case in a transaction of its own."""
        with self.database.transaction(PLATFORM) as tx:
            return what(tx, *arguments, **options)

    @property
    def rollout(self) -> Rollout:
        """As it is now."""
        rollout: Rollout = self.do(store.get_rollout, f"rollouts/{self.id}")
        return rollout

    def plan(self, mark: str = "") -> Plan:
        """A plan of the rollout."""
        return plan(self.id, mark=mark)

    def propose(self, mark: str = "new", author: str = AUTHOR, **options: Any) -> ChangeRequest:
        """Propose a plan."""
        change: ChangeRequest = self.do(
            changes.propose,
            rollout=self.rollout,
            plan=self.plan(mark),
            author=author,
            reason="because",
            **options,
        )
        return change

    def approve(self, change: ChangeRequest, *approvers: str) -> ChangeRequest:
        """Approve what is there now."""
        for approver in approvers:
            change = self.do(changes.approve, change.name, actor=approver, content_hash=change.content_hash)
        return change

    def apply(self, change: ChangeRequest, actor: str = AUTHOR) -> ChangeRequest:
        """Put its plan in force."""
        applied: ChangeRequest = self.do(
            changes.apply, change.name, actor=actor, apply_plan=self.put_in_force
        )
        return applied

    def apply_due(self) -> list[ChangeRequest]:
        """What the scheduler does."""
        due: list[ChangeRequest] = self.do(changes.apply_due, actor="scheduler", apply_plan=self.put_in_force)
        return due

    def get(self, change: ChangeRequest) -> ChangeRequest:
        """As it is now."""
        found: ChangeRequest = self.do(changes.get, change.name)
        return found

    def put_in_force(self, tx: Transaction, plan: Plan, *, actor: str, approved: bool) -> None:
        """Stands in for `usecases.apply_plan`: one more version."""
        assert approved
        if self.refusal:
            raise self.refusal
        tx.execute(
            "update rollouts set plan_version = plan_version + 1 where name = %s",
            (f"rollouts/{plan.rollout}",),
        )
        self.in_force.append((plan.text, actor))


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> TemporaryDatabase:
    """Without rollouts."""
    return make_database("rollout", clock=clock)


@pytest.fixture
def office(database: TemporaryDatabase, clock: FixedClock) -> Office:
    """A rollout whose plan asks for one approval."""
    return Office(database, clock).open()


def refused(what: Callable[[], object]) -> str:
    """The reason for which it is refused."""
    with pytest.raises(ServiceError) as error:
        what()
    return error.value.reason


# The way of a change


def test_change__approved_by_another__is_applied(office: Office, clock: FixedClock) -> None:
    """It waits for the approval that the plan in force asks for, then comes into force as its author's, once."""
    proposed = office.propose()
    assert (proposed.state, proposed.approvals_needed, proposed.base_version) == (ChangeState.IN_REVIEW, 1, 1)
    assert refused(lambda: office.apply(proposed)) == "CHANGE_NOT_APPROVED"

    clock.advance(HOUR)
    approved = office.approve(proposed, FIRST)
    assert (approved.state, approved.approvers, approved.update_time) == (
        ChangeState.APPROVED,
        (FIRST,),
        clock.now(),
    )
    assert office.in_force == []
    applied = office.apply(approved, actor=SECOND)

    assert applied.state is ChangeState.APPLIED
    assert applied == office.get(applied)
    assert office.in_force == [(office.plan("new").text, AUTHOR)]
    assert refused(lambda: office.apply(applied)) == "CHANGE_NOT_OPEN"


def test_change__without_approvals_to_ask_for__is_approved_at_once(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """The plan in force decides how many, not the one that is proposed."""
    office = Office(database, clock).open(approvals=0)
    assert office.propose().state is ChangeState.APPROVED


def test_change__needs_as_many_as_the_plan_in_force_asks_for(
    database: TemporaryDatabase, clock: FixedClock
) -> None:
    """A proposed plan that asks for none does not make its own way easier."""
    office = Office(database, clock).open(approvals=2)
    change = office.do(
        changes.propose, rollout=office.rollout, plan=plan(approvals=0), author=AUTHOR, reason="in a hurry"
    )
    assert office.approve(change, FIRST).state is ChangeState.IN_REVIEW
    assert office.approve(change, SECOND).state is ChangeState.APPROVED


def test_propose__what_cannot_be__is_refused(office: Office, clock: FixedClock) -> None:
    """Another rollout's plan, and a time that is over."""
    other = plan("other")
    assert refused(
        lambda: office.do(changes.propose, rollout=office.rollout, plan=other, author=AUTHOR, reason="r")
    ) == ("INVALID_ARGUMENT")
    with pytest.raises(ServiceError) as error:
        office.propose(schedule_time=clock.now())
    assert [each.reason for each in error.value.violations] == ["PAST"]
    change = office.propose()
    assert (
        refused(lambda: office.do(changes.edit, change.name, actor=AUTHOR, plan=other)) == "INVALID_ARGUMENT"
    )


def test_change__rejected_or_cancelled__is_over(office: Office) -> None:
    """Another rejects, the author cancels; nothing happens to it afterwards."""
    rejected = office.propose()
    assert (
        refused(lambda: office.do(changes.reject, rejected.name, actor=AUTHOR, reason="r")) == "SELF_APPROVAL"
    )
    rejected = office.do(changes.reject, rejected.name, actor=FIRST, reason="too wide")
    assert (rejected.state, rejected.note) == (ChangeState.REJECTED, "too wide")
    cancelled = office.approve(office.propose(), FIRST)
    assert refused(lambda: office.do(changes.cancel, cancelled.name, actor=FIRST)) == "NOT_THE_AUTHOR"
    cancelled = office.do(changes.cancel, cancelled.name, actor=AUTHOR)
    assert cancelled.state is ChangeState.CANCELLED

    for change in (rejected, cancelled):
        for attempt in (
            lambda change=change: office.approve(change, SECOND),
            lambda change=change: office.apply(change),
            lambda change=change: office.do(changes.reject, change.name, actor=FIRST, reason="r"),
            lambda change=change: office.do(changes.cancel, change.name, actor=AUTHOR),
            lambda change=change: office.do(changes.edit, change.name, actor=AUTHOR, plan=office.plan("x")),
        ):
            assert refused(attempt) == "CHANGE_NOT_OPEN"
        assert office.get(change) == change


def test_change__that_is_not_there(office: Office) -> None:
    """NOT_FOUND, and not an empty one."""
    assert refused(lambda: office.do(changes.get, "rollouts/edition/changes/none")) == "NOT_FOUND"


# Approvals


def test_approval__of_ones_own__is_refused(office: Office) -> None:
    """Whoever proposed it; there is nobody for whom this is otherwise."""
    change = office.propose(author=FIRST)
    assert refused(lambda: office.approve(change, FIRST)) == "SELF_APPROVAL"
    assert office.get(change).state is ChangeState.IN_REVIEW


def test_approval__twice__is_refused(database: TemporaryDatabase, clock: FixedClock) -> None:
    """One person is one approval."""
    office = Office(database, clock).open(approvals=2)
    change = office.approve(office.propose(), FIRST)
    assert refused(lambda: office.approve(change, FIRST)) == "ALREADY_APPROVED"
    assert office.get(change).approvers == (FIRST,)


def test_approval__of_what_was_edited_meanwhile__is_refused(office: Office) -> None:
    """One approves what one has read."""
    read = office.propose("first words")
    office.do(changes.edit, read.name, actor=AUTHOR, plan=office.plan("other words"))
    with pytest.raises(ServiceError) as error:
        office.approve(read, FIRST)
    assert (error.value.kind, error.value.reason) == (Kind.ABORTED, "APPROVAL_STALE")
    assert error.value.metadata["contentHash"] == office.get(read).content_hash


def test_edit__voids_approvals__for_good(office: Office) -> None:
    """Other words need other approvals, and so do the first ones when the author goes back to them."""
    approved = office.approve(office.propose("first words"), FIRST)
    for words in ("other words", "first words"):
        edited = office.do(changes.edit, approved.name, actor=AUTHOR, plan=office.plan(words))
        assert (edited.state, edited.approvers) == (ChangeState.IN_REVIEW, ())
        assert edited == office.get(edited)
        assert refused(lambda edited=edited: office.apply(edited)) == "CHANGE_NOT_APPROVED"

    office.apply(office.approve(edited, FIRST))
    assert office.in_force == [(office.plan("first words").text, AUTHOR)]


def test_edit__by_another__is_refused(office: Office) -> None:
    """Or two could approve each other's words in one change."""
    change = office.propose()
    assert (
        refused(lambda: office.do(changes.edit, change.name, actor=FIRST, plan=office.plan("x")))
        == "NOT_THE_AUTHOR"
    )


def test_edit__of_the_reason_alone__voids_approvals_too(office: Office) -> None:
    """The reason is part of what was read; left empty it stays."""
    approved = office.approve(office.propose(), FIRST)
    edited = office.do(changes.edit, approved.name, actor=AUTHOR, plan=office.plan("new"), reason="another")
    assert (edited.reason, edited.approvers) == ("another", ())
    assert office.do(changes.edit, approved.name, actor=AUTHOR, plan=office.plan("x")).reason == "another"


@given(st.data())
def test_content_hash__tells_every_difference(data: st.DataObject) -> None:
    """Whatever is proposed differently has another hash; who approved, and how it stands, does not matter."""
    one = ChangeRequest("n", "rollouts/r", ChangeKind.PLAN, AUTHOR, "reason", 1, 1, NOON, NOON, "plan", NOON)
    other = replace(
        one,
        **data.draw(
            st.sampled_from(
                [
                    {"plan": "plan "},
                    {"reason": "reasons"},
                    {"plan": "planreason", "reason": ""},
                    {"schedule_time": None},
                    {"schedule_time": NOON + HOUR},
                    {"edits": 1},
                    {"rollout": "rollouts/s"},
                    {"kind": ChangeKind.REVIEW},
                ]
            )
        ),
    )
    same = replace(
        one, approvers=(FIRST,), state=ChangeState.APPROVED, note="x", schedule_time=NOON.astimezone()
    )
    assert other.content_hash != one.content_hash
    assert same.content_hash == one.content_hash


# A plan that changes meanwhile


def test_conflict__another_plan_came_into_force(office: Office) -> None:
    """What was approved for one plan is not applied to another: it shows at once, and applying is refused."""
    waiting, approved = office.propose("a"), office.approve(office.propose("b"), FIRST)
    office.apply(office.approve(office.propose("c"), FIRST))

    for change in (waiting, approved):
        assert office.get(change).state is ChangeState.CONFLICTED
        assert refused(lambda change=change: office.apply(change)) == "CHANGE_CONFLICTED"
        assert refused(lambda change=change: office.approve(change, SECOND)) == "CHANGE_CONFLICTED"
    assert [each.state for each in office.do(changes.page, None, limit=9)] == [
        "APPLIED",
        "CONFLICTED",
        "CONFLICTED",
    ]
    assert office.in_force == [(office.plan("c").text, AUTHOR)]
    assert office.propose().base_version == 2


def test_apply__that_fails__leaves_it_approved(office: Office) -> None:
    """What the plan's rules refuse now may be possible later."""
    change = office.approve(office.propose(), FIRST)
    office.refusal = ServiceError(Kind.FAILED_PRECONDITION, "STAGE_IN_USE", "the stage is in use")
    assert refused(lambda: office.apply(change)) == "STAGE_IN_USE"
    assert office.get(change) == change


# Schedules


def test_schedule__is_applied_at_its_time(office: Office, clock: FixedClock) -> None:
    """Not before, by nobody; then by the scheduler, once."""
    change = office.propose(schedule_time=clock.now() + HOUR)
    clock.advance(2 * HOUR)
    assert office.apply_due() == [], "it is not approved"
    clock.advance(-2 * HOUR)
    change = office.approve(change, FIRST)
    assert change.state is ChangeState.SCHEDULED
    assert office.apply_due() == []
    assert refused(lambda: office.apply(change)) == "CHANGE_NOT_DUE"

    clock.advance(HOUR)
    (applied,) = office.apply_due()
    assert (applied.name, applied.state) == (change.name, ChangeState.APPLIED)
    assert office.apply_due() == []
    assert office.in_force == [(office.plan("new").text, AUTHOR)]


def test_schedule__edited__waits_for_approval_again(office: Office, clock: FixedClock) -> None:
    """At its time nothing happens without it."""
    change = office.approve(office.propose(schedule_time=clock.now() + HOUR), FIRST)
    office.do(changes.edit, change.name, actor=AUTHOR, plan=office.plan("other"))
    clock.advance(HOUR)
    assert office.apply_due() == []
    assert office.approve(office.get(change), FIRST).state is ChangeState.SCHEDULED
    assert [each.state for each in office.apply_due()] == [ChangeState.APPLIED]


def test_schedule__two_at_once__the_second_is_in_conflict(office: Office, clock: FixedClock) -> None:
    """The one that is due first wins; the other is told, and does not come up again."""
    times = {"late": clock.now() + 2 * HOUR, "early": clock.now() + HOUR}
    for mark, time in times.items():
        office.approve(office.propose(mark, schedule_time=time), FIRST)
    clock.advance(3 * HOUR)
    early, late = office.apply_due()
    assert (early.state, late.state, late.note) == ("APPLIED", "CONFLICTED", "CHANGE_CONFLICTED")
    assert office.in_force == [(office.plan("early").text, AUTHOR)]
    assert office.apply_due() == []
    assert office.get(late) == late


@pytest.mark.parametrize(
    ("kind", "lasts"),
    [
        (Kind.FAILED_PRECONDITION, True),
        (Kind.INVALID_ARGUMENT, True),
        (Kind.ABORTED, False),
        (Kind.UNAVAILABLE, False),
    ],
)
def test_schedule__that_fails(office: Office, clock: FixedClock, kind: Kind, *, lasts: bool) -> None:
    """What will not get better is in conflict, with its reason; what passes is tried again, and nothing has happened."""
    change = office.approve(office.propose(schedule_time=clock.now() + HOUR), FIRST)
    clock.advance(HOUR)
    office.refusal = ServiceError(kind, "SOME_REASON", "no")
    if lasts:
        (found,) = office.apply_due()
        assert (found.state, found.note) == (ChangeState.CONFLICTED, "SOME_REASON")
        assert office.apply_due() == []
    else:
        assert refused(office.apply_due) == "SOME_REASON"
        assert office.get(change) == change
        office.refusal = None
        assert [each.state for each in office.apply_due()] == [ChangeState.APPLIED]


# Reviews


def test_review__is_closed_by_somebody_else(office: Office) -> None:
    """Whoever broke the glass can neither close the review nor make it go away."""
    opened = office.do(
        changes.open_review, rollout="rollouts/edition", author=AUTHOR, reason="kill: errors", base_version=1
    )
    assert (opened.kind, opened.state) == (ChangeKind.REVIEW, ChangeState.IN_REVIEW)
    for attempt, reason in (
        (lambda: office.approve(opened, AUTHOR), "SELF_APPROVAL"),
        (lambda: office.do(changes.reject, opened.name, actor=AUTHOR, reason="r"), "SELF_APPROVAL"),
        (lambda: office.do(changes.cancel, opened.name, actor=AUTHOR), "CHANGE_IS_REVIEW"),
        (lambda: office.do(changes.edit, opened.name, actor=AUTHOR, plan=office.plan()), "CHANGE_IS_REVIEW"),
        (lambda: office.apply(opened), "CHANGE_IS_REVIEW"),
    ):
        assert refused(attempt) == reason

    office.apply(office.approve(office.propose(), FIRST))
    assert office.get(opened) == opened, "another plan does not close it"
    closed = office.approve(opened, FIRST)
    assert closed.state is ChangeState.APPROVED
    assert not closed.is_open
    assert refused(lambda: office.approve(closed, SECOND)) == "CHANGE_NOT_OPEN"
    assert refused(lambda: office.apply(closed)) == "CHANGE_IS_REVIEW"


def test_review__of_the_longest_reason__says_its_beginning(office: Office) -> None:
    """A reason as long as it may be fits, with the word before it."""
    opened = office.do(
        changes.open_review,
        rollout="rollouts/edition",
        author=AUTHOR,
        reason="kill: " + 500 * "x",
        base_version=1,
    )

    assert opened.reason == "kill: " + 494 * "x"


# Gates


def test_gates__count_approvals_of_this_plan_by_others(office: Office) -> None:
    """Each person once for each gate and plan, the plan's author not at all."""

    def approve(approver: str, gate: str = "start", content_hash: str = "a") -> int:
        given: int = office.do(
            changes.approve_gate,
            rollout="rollouts/edition",
            gate=gate,
            content_hash=content_hash,
            approver=approver,
            author=AUTHOR,
        )
        return given

    def count(gate: str, content_hash: str = "a", rollout: str = "rollouts/edition") -> int:
        given: int = office.do(changes.gate_approvals, rollout=rollout, gate=gate, content_hash=content_hash)
        return given

    assert count("start") == 0
    assert approve(FIRST) == 1
    assert approve(SECOND) == 2
    assert refused(lambda: approve(FIRST)) == "ALREADY_APPROVED"
    assert refused(lambda: approve(AUTHOR)) == "SELF_APPROVAL"
    assert approve(FIRST, gate="ring-1") == 1
    assert approve(FIRST, content_hash="b") == 1
    assert [count("start"), count("ring-1"), count("start", "b"), count("ring-2")] == [2, 1, 1, 0]
    assert count("start", rollout="rollouts/edition-2") == 0


def test_gates__voided__ask_again(office: Office) -> None:
    """All gates of the rollout, and of no other whose name begins alike; change requests keep theirs."""
    for rollout in ("rollouts/edition", "rollouts/edition-2"):
        office.do(
            changes.approve_gate,
            rollout=rollout,
            gate="start",
            content_hash="a",
            approver=FIRST,
            author=AUTHOR,
        )
    change = office.approve(office.propose(), FIRST)
    office.do(changes.void_gates, "rollouts/edition")

    def count(rollout: str) -> int:
        given: int = office.do(changes.gate_approvals, rollout=rollout, gate="start", content_hash="a")
        return given

    assert (count("rollouts/edition"), count("rollouts/edition-2")) == (0, 1)
    assert office.get(change).approvers == (FIRST,)


# What is written down, and lists


def test_audit__every_step_is_written_down(office: Office, clock: FixedClock) -> None:
    """Who, what, and to which content; nothing of what was refused."""
    edited = office.do(changes.edit, office.propose().name, actor=AUTHOR, plan=office.plan("x"))
    refused(lambda: office.approve(edited, AUTHOR))
    office.apply(office.approve(edited, FIRST), actor=SECOND)
    office.do(changes.reject, office.propose().name, actor=FIRST, reason="too wide")
    office.do(changes.cancel, office.propose().name, actor=AUTHOR)
    office.do(
        changes.open_review, rollout="rollouts/edition", author=AUTHOR, reason="kill: x", base_version=1
    )
    office.refusal = ServiceError(Kind.FAILED_PRECONDITION, "STAGE_IN_USE", "the stage is in use")
    office.approve(office.propose(schedule_time=clock.now() + HOUR), FIRST)
    clock.advance(HOUR)
    office.apply_due()

    written = office.do(audit.list_events, "rollouts/edition", limit=100, ascending=True)
    assert [(each.cause, each.actor) for each in written] == [
        ("change.proposed", AUTHOR),
        ("change.edited", AUTHOR),
        ("change.approved", FIRST),
        ("change.applied", SECOND),
        ("change.proposed", AUTHOR),
        ("change.rejected", FIRST),
        ("change.proposed", AUTHOR),
        ("change.cancelled", AUTHOR),
        ("review.opened", AUTHOR),
        ("change.proposed", AUTHOR),
        ("change.approved", FIRST),
        ("change.conflicted", "scheduler"),
    ]
    assert written[2].detail == {
        "change": edited.name,
        "state": "APPROVED",
        "reason": "because",
        "content_hash": edited.content_hash,
        "base_version": 1,
        "approvers": [FIRST],
    }
    assert written[5].detail["reason"] == "too wide"


def test_page__newest_first__of_one_rollout_or_all(office: Office, clock: FixedClock) -> None:
    """Pages without gaps or repetitions, also among those of one moment."""
    other = Office(office.database, clock, id="other").open()
    made = [office.propose(), office.propose()]
    clock.advance(HOUR)
    made += [other.propose(), office.approve(office.propose(), FIRST)]
    expected = sorted(made, key=lambda each: (each.create_time, each.name), reverse=True)

    def pages(rollout: str | None) -> list[ChangeRequest]:
        found: list[ChangeRequest] = []
        while page := office.do(
            changes.page,
            rollout,
            limit=1,
            before=(found[-1].create_time.isoformat(), found[-1].name) if found else None,
        ):
            found += page
        return found

    assert pages(None) == expected
    assert pages("rollouts/edition") == [each for each in expected if each.rollout == "rollouts/edition"]
    assert pages("rollouts/none") == []


# Any order of anything


class Changes(RuleBasedStateMachine):
    """
    One rollout, two change requests, four people and a scheduler who try everything at any time.

    The oracle keeps, for each change, the words and who has approved them since the last edit, and which plan was in force.
    """

    database: TemporaryDatabase
    PEOPLE = (AUTHOR, FIRST, SECOND, "clients/fourth")
    person = st.sampled_from(PEOPLE)
    which = st.integers(0, 1)

    @initialize(needed=st.integers(0, 2), scheduled=st.booleans())
    def begin(self, needed: int, *, scheduled: bool) -> None:
        self.clock = self.database._clock
        self.office = Office(self.database, self.clock, id=new_id()).open(approvals=needed)
        self.needed = needed
        self.version = 1
        self.due = self.clock.now() + HOUR
        times = [None, self.due if scheduled else None]
        self.changes = [
            self.office.propose(f"words {n}", author=self.PEOPLE[n], schedule_time=time)
            for n, time in enumerate(times)
        ]
        self.times = times
        self.approvers: list[set[str]] = [set(), set()]
        self.words = ["words 0", "words 1"]
        self.ended: list[ChangeState | None] = [None, None]
        self.expected_in_force: list[tuple[str, str]] = []

    def attempt(self, what: Callable[[], object]) -> bool:
        """Whether it was done rather than refused."""
        try:
            what()
        except ServiceError as error:
            return error.kind not in {Kind.FAILED_PRECONDITION, Kind.PERMISSION_DENIED, Kind.ABORTED}
        return True

    def is_open(self, n: int) -> bool:
        return self.ended[n] is None and self.version == 1

    def is_approved(self, n: int) -> bool:
        return len(self.approvers[n]) >= self.needed

    @rule(n=which, person=person, stale=st.booleans())
    def approve(self, n: int, person: str, *, stale: bool) -> None:
        now = self.office.get(self.changes[n])
        seen = self.changes[n].content_hash if stale else now.content_hash
        right = (
            self.is_open(n)
            and person != now.author
            and person not in self.approvers[n]
            and seen == now.content_hash
        )
        done = self.attempt(
            lambda: self.office.do(changes.approve, now.name, actor=person, content_hash=seen)
        )
        assert done == right
        if done:
            self.approvers[n].add(person)

    @rule(n=which, person=person, words=st.sampled_from(["words 0", "words 1", "words 2"]))
    def edit(self, n: int, person: str, words: str) -> None:
        right = self.is_open(n) and person == self.PEOPLE[n]
        name = self.changes[n].name
        done = self.attempt(
            lambda: self.office.do(changes.edit, name, actor=person, plan=self.office.plan(words))
        )
        assert done == right
        if done:
            self.words[n] = words
            self.approvers[n] = set()

    @rule(n=which, person=person)
    def reject(self, n: int, person: str) -> None:
        right = self.is_open(n) and person != self.PEOPLE[n]
        name = self.changes[n].name
        assert self.attempt(lambda: self.office.do(changes.reject, name, actor=person, reason="no")) == right
        if right:
            self.ended[n] = ChangeState.REJECTED

    @rule(n=which, person=person)
    def cancel(self, n: int, person: str) -> None:
        right = self.is_open(n) and person == self.PEOPLE[n]
        name = self.changes[n].name
        assert self.attempt(lambda: self.office.do(changes.cancel, name, actor=person)) == right
        if right:
            self.ended[n] = ChangeState.CANCELLED

    @rule(n=which, person=person)
    def apply(self, n: int, person: str) -> None:
        on_time = self.times[n] is None or self.clock.now() >= self.times[n]
        right = self.is_open(n) and self.is_approved(n) and on_time
        assert self.attempt(lambda: self.office.apply(self.changes[n], actor=person)) == right
        if right:
            self.came_into_force(n)

    @rule()
    def tick(self) -> None:
        """The scheduler looks."""
        right = (
            self.is_open(1)
            and self.is_approved(1)
            and self.times[1] is not None
            and self.clock.now() >= self.times[1]
        )
        found = self.office.apply_due()
        assert [each.name for each in found if each.state is ChangeState.APPLIED] == (
            [self.changes[1].name] if right else []
        )
        if right:
            self.came_into_force(1)

    @rule()
    def time_passes(self) -> None:
        self.clock.advance(HOUR)

    @rule()
    def plan_changes(self) -> None:
        """Somebody else puts another plan in force."""
        other = self.office.plan("of somebody else")
        self.office.do(self.office.put_in_force, other, actor="x", approved=True)
        self.version += 1
        self.expected_in_force.append((other.text, "x"))

    def came_into_force(self, n: int) -> None:
        self.ended[n] = ChangeState.APPLIED
        self.version += 1
        self.expected_in_force.append((self.office.plan(self.words[n]).text, self.PEOPLE[n]))

    def teardown(self) -> None:
        """The scheduler looks at all rollouts: leave nothing for the next one's."""
        with self.database.transaction(PLATFORM) as tx:
            tx.execute("delete from change_requests")

    @invariant()
    def each_stands_where_it_should(self) -> None:
        """Nothing is approved but by enough others who read these words; nothing comes into force that is not approved."""
        for n, change in enumerate(self.changes):
            now = self.office.get(change)
            if self.ended[n] is not None:
                expected = self.ended[n]
            elif self.version > 1:
                expected = ChangeState.CONFLICTED
            elif not self.is_approved(n):
                expected = ChangeState.IN_REVIEW
            else:
                expected = ChangeState.SCHEDULED if self.times[n] else ChangeState.APPROVED
            assert now.state is expected
            assert set(now.approvers) == self.approvers[n]
            assert now.plan == self.office.plan(self.words[n]).text
        assert self.office.in_force == self.expected_in_force


def test_states__in_any_order(database: TemporaryDatabase) -> None:
    """Whatever people and scheduler try, in whatever order, each step does or refuses what the rules say."""

    class OnDatabase(Changes):
        pass

    OnDatabase.database = database
    run_state_machine_as_test(
        OnDatabase, settings=hypothesis_settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
