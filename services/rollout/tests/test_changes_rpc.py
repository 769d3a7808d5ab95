"""Change requests and reviews, as operators call them: what `test_changes.py` proves of the rules holds at the edge."""

from datetime import UTC, timedelta

import grpc
import pytest
from numerator.rollout.v1 import changes_pb2 as pb
from numerator.rollout.v1 import rollout_pb2

from services.chassis.principal import Principal
from services.chassis.testing.rpc import operator
from services.rollout.tests.world import EDITION, OTHER, THIRD, World, enterprise, plan, refusal, refused

C = pb.ChangeRequest
BEFORE = plan(stages="- {ring: a, quota: 1}", approvals="{change: 2}")
AFTER = plan(stages="- {ring: a, quota: 3}", approvals="{change: 2}")


@pytest.fixture
def running(world: World) -> World:
    """A rollout whose plan asks for two approvals of a change, with one place and three who want it."""
    world.apply(BEFORE)
    world.do("Start")
    world.verify(1, 2, 3)
    return world


def propose(world: World, text: str = AFTER, ahead: timedelta | None = None, **fields: str) -> C:
    """A change, proposed by an operator."""
    change = C(plan=text, reason="more are ready")
    if ahead is not None:
        change.schedule_time.FromDatetime(world.clock.now() + ahead)
    request = pb.CreateChangeRequestRequest(parent=EDITION, change_request=change, **fields)
    return world.as_(operator()).changes.CreateChangeRequest(request)


def do(world: World, verb: str, change: C, by: Principal | None = None, **fields: str) -> C:
    """One of the verbs, as `Approve`; a rejection gets a reason."""
    kind = getattr(pb, f"{verb}ChangeRequestRequest")
    if verb == "Reject":
        fields.setdefault("reason", "a test")
    if verb == "Approve":
        fields.setdefault("content_hash", change.content_hash)
    stub = world.as_(by or operator()).changes
    return getattr(stub, f"{verb}ChangeRequest")(kind(name=change.name, **fields))


def get(world: World, change: C) -> C:
    """A change as it stands."""
    return world.as_(operator()).changes.GetChangeRequest(pb.GetChangeRequestRequest(name=change.name))


def test_change__proposed_approved_applied(running: World) -> None:
    """By two others, as the plan in force asks; then it is in force, as its author's, and lets in whom it takes."""
    made = propose(running)
    assert (C.Kind.Name(made.kind), C.State.Name(made.state)) == ("PLAN", "IN_REVIEW")
    assert (made.author, made.base_version, made.approvals_needed) == ("operators/tester", 1, 2)
    assert (made.plan, made.reason, list(made.approvers)) == (AFTER, "more are ready", [])
    early = refused(do, running, "Apply", made)
    do(running, "Approve", made, OTHER)
    approved = do(running, "Approve", made, THIRD)
    assert (C.State.Name(approved.state), list(approved.approvers)) == (
        "APPROVED", ["operators/other", "operators/third"],
    )  # fmt: skip

    applied = do(running, "Apply", made, OTHER)

    assert C.State.Name(applied.state) == "APPLIED"
    assert (early.kind, early.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CHANGE_NOT_APPROVED")
    rollout = running.get()
    assert (rollout.plan, rollout.plan_version, rollout.author) == (AFTER, 2, "operators/tester")
    assert len(running.active()) == 3
    assert get(running, made) == applied


def test_approve__own_stale_or_twice__is_refused(running: World) -> None:
    """Nobody approves their own, nor other words than they have read, nor twice."""
    made = propose(running)
    own = refused(do, running, "Approve", made)
    do(running, "Approve", made, OTHER)
    twice = refused(do, running, "Approve", made, OTHER)
    edited = do(running, "Edit", made, plan=AFTER.replace("quota: 3", "quota: 2"))
    stale = refused(do, running, "Approve", made, THIRD)
    missing = refused(do, running, "Approve", made, THIRD, content_hash="")

    assert (own.reason, own.text) == (
        "SELF_APPROVAL", f"operators/tester proposed {made.name}: somebody else approves it",
    )  # fmt: skip
    assert twice.reason == "ALREADY_APPROVED"
    assert (list(edited.approvers), C.State.Name(edited.state)) == ([], "IN_REVIEW")
    assert edited.content_hash != made.content_hash
    assert edited.reason == made.reason
    assert (stale.kind, stale.reason) == (grpc.StatusCode.ABORTED, "APPROVAL_STALE")
    assert missing.fields == {"content_hash": "REQUIRED"}


def test_edit_and_cancel__are_the_authors(running: World) -> None:
    """Others reject it and propose their own."""
    made = propose(running)

    edit, cancel = (
        refused(do, running, "Edit", made, OTHER, plan=AFTER),
        refused(do, running, "Cancel", made, OTHER),
    )

    assert {edit.reason, cancel.reason} == {"NOT_THE_AUTHOR"}
    assert edit.kind is grpc.StatusCode.PERMISSION_DENIED
    assert C.State.Name(do(running, "Cancel", made).state) == "CANCELLED"
    assert refusal(do, running, "Approve", made, OTHER) == "CHANGE_NOT_OPEN"


def test_reject__ends_it_with_a_reason(running: World) -> None:
    """Which is written down; not by its author."""
    made = propose(running)
    assert refusal(do, running, "Reject", made) == "SELF_APPROVAL"

    rejected = do(running, "Reject", made, OTHER, reason="too early")

    assert C.State.Name(rejected.state) == "REJECTED"
    assert '"reason": "too early"' in running.audit()[0].detail
    assert refusal(do, running, "Apply", made) == "CHANGE_NOT_OPEN"
    assert refused(do, running, "Reject", propose(running), OTHER, reason="").fields == {"reason": "REQUIRED"}


def test_change__of_a_plan_that_changed_meanwhile__is_conflicted(running: World) -> None:
    """Whoever approved it approved a change of another plan."""
    first, second = propose(running), propose(running, AFTER.replace("quota: 3", "quota: 2"))
    for change in (first, second):
        for somebody in (OTHER, THIRD):
            do(running, "Approve", change, somebody)
    do(running, "Apply", first)

    told = refused(do, running, "Apply", second)

    assert told.reason == "CHANGE_CONFLICTED"
    assert C.State.Name(get(running, second).state) == "CONFLICTED"
    assert running.get().plan == AFTER


def test_scheduled__is_applied_at_its_time_by_itself(running: World) -> None:
    """Not before, and not by hand before; one that cannot be applied any more is told as conflicted."""
    change = propose(running, ahead=timedelta(hours=1))
    late = propose(running, AFTER.replace("quota: 3", "quota: 2"), ahead=timedelta(hours=2))
    for each in (change, late):
        for somebody in (OTHER, THIRD):
            approved = do(running, "Approve", each, somebody)
        assert C.State.Name(approved.state) == "SCHEDULED"
    assert refusal(do, running, "Apply", change) == "CHANGE_NOT_DUE"
    running.tick(minutes=59)
    assert C.State.Name(get(running, change).state) == "SCHEDULED"

    running.tick(minutes=1)
    running.tick(hours=1)

    assert C.State.Name(get(running, change).state) == "APPLIED"
    assert (running.get().plan, running.get().author) == (AFTER, "operators/tester")
    assert C.State.Name(get(running, late).state) == "CONFLICTED"
    applied = next(each for each in running.audit() if each.cause == "change.applied")
    assert applied.actor == "scheduler"


def test_scheduled__not_approved__waits(running: World) -> None:
    """Its time alone puts nothing in force."""
    change = propose(running, ahead=timedelta(hours=1))
    do(running, "Approve", change, OTHER)

    running.tick(hours=2)

    assert C.State.Name(get(running, change).state) == "IN_REVIEW"
    assert running.get().plan_version == 1
    do(running, "Approve", change, THIRD)
    running.tick(seconds=1)
    assert running.get().plan_version == 2


def test_propose__what_cannot_be__is_refused(running: World) -> None:
    """A plan with mistakes, another rollout's, a time that has passed, no reason, no rollout."""
    wrong = refused(propose, running, AFTER.replace("quota: 3", "quota: x"))
    assert (list(wrong.fields), "line 5: " in wrong.text) == (["stages[0].quota"], True)
    other = refused(propose, running, plan("rollouts/other", flag="other"))
    assert other.fields == {"change_request.plan": "INVALID"}
    assert refused(propose, running, ahead=timedelta(0)).fields == {"change_request.schedule_time": "PAST"}
    stub = running.as_(operator()).changes
    bare = pb.CreateChangeRequestRequest(parent=EDITION, change_request=C(plan=AFTER))
    assert refused(stub.CreateChangeRequest, bare).fields == {"change_request.reason": "REQUIRED"}
    nowhere = pb.CreateChangeRequestRequest(
        parent="rollouts/nowhere", change_request=C(plan=AFTER, reason="x")
    )
    assert refusal(stub.CreateChangeRequest, nowhere) == "NOT_FOUND"
    unknown = pb.GetChangeRequestRequest(name=f"{EDITION}/changes/nowhere")
    assert refusal(stub.GetChangeRequest, unknown) == "NOT_FOUND"
    assert running.changes() == []


def test_requests__repeated__have_one_effect(running: World) -> None:
    """Proposals and approvals alike."""
    made = propose(running, request_id="r1")
    approved = do(running, "Approve", made, OTHER, request_id="r2")

    assert propose(running, request_id="r1") == made
    assert do(running, "Approve", made, OTHER, request_id="r2") == approved
    assert len(running.changes()) == 1


def test_changes__are_listed_newest_first(running: World) -> None:
    """Page by page, each with its times; and of this rollout alone."""
    running.create("rollouts/other", "- {ring: a}", flag="other")
    running.do("Kill", "rollouts/other")
    names = []
    for _ in range(5):
        names.append(propose(running).name)
        running.clock.advance(timedelta(minutes=1))

    found, token = [], ""
    while True:
        request = pb.ListChangeRequestsRequest(parent=EDITION, page_size=2, page_token=token)
        page = running.as_(operator()).changes.ListChangeRequests(request)
        found += page.change_requests
        token = page.next_page_token
        if not token:
            break

    assert [each.name for each in found] == list(reversed(names))
    assert found[0].create_time.ToDatetime(UTC) == running.clock.now() - timedelta(minutes=1)
    assert len(running.changes("rollouts/other")) == 1
    nowhere = pb.ListChangeRequestsRequest(parent="rollouts/nowhere")
    assert refusal(running.as_(operator()).changes.ListChangeRequests, nowhere) == "NOT_FOUND"


def test_review__of_a_broken_glass__is_closed_by_somebody_else(running: World) -> None:
    """One other approves or rejects it; it is neither edited nor cancelled nor applied."""
    running.do("Kill", reason="fire")
    review = running.changes()[0]

    own = refusal(do, running, "Approve", review)
    refusals = {
        verb: refusal(do, running, verb, review, **fields)
        for verb, fields in {"Edit": {"plan": AFTER}, "Cancel": {}, "Apply": {}}.items()
    }
    closed = do(running, "Approve", review, OTHER)

    assert own == "SELF_APPROVAL"
    assert refusals == dict.fromkeys(("Edit", "Cancel", "Apply"), "CHANGE_IS_REVIEW")
    assert (C.Kind.Name(closed.kind), C.State.Name(closed.state)) == ("REVIEW", "APPROVED")


def test_approvals__of_a_change__do_not_open_gates(running: World) -> None:
    """And the plan that it puts in force needs its own."""
    text = plan(stages="- {ring: a, quota: 1, hold: {approvals: 1}}\n- {ring: b}", approvals="{change: 2}")
    change = propose(running, text)
    for somebody in (OTHER, THIRD):
        do(running, "Approve", change, somebody)
    do(running, "Apply", change)

    assert refusal(running.do, "Advance") == "APPROVALS_MISSING"
    assert refusal(running.do, "Approve", gate="a") == "SELF_APPROVAL"
    running.do("Approve", by=OTHER, gate="a")
    assert running.do("Advance").stage == "b"
    assert enterprise(3) in running.active()
    assert running.get().state == rollout_pb2.Rollout.RUNNING
