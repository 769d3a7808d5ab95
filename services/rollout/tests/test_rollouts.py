"""The operators' verbs, as they are called: what each does, what it refuses and why, and what it tells."""

from datetime import timedelta

import grpc
import pytest
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import admissions_pb2, audit_pb2, changes_pb2, flags_pb2, serving_pb2
from numerator.rollout.v1 import rollout_pb2 as pb

from services.chassis.buckets import bucket_of
from services.chassis.testing.rpc import client, gateway, member, operator
from services.rollout.tests.world import (
    EDITION,
    OTHER,
    THIRD,
    World,
    enterprise,
    plan,
    refusal,
    refused,
)

ACTIVE = admissions_pb2.Admission.ACTIVE
ONE_STAGE = "- {ring: only}"
NOT_RUNNING = dict.fromkeys(("Advance", "Jump", "Pause", "Complete"), "ROLLOUT_NOT_RUNNING")
NOT_STARTABLE = dict.fromkeys(("Arm", "Start"), "ROLLOUT_NOT_STARTABLE")
NOT_PAUSED = {"Resume": "ROLLOUT_NOT_PAUSED"}
NOT_ROLLED_BACK = {"Restart": "ROLLOUT_NOT_ROLLED_BACK"}
NOT_ENDED = {"Archive": "ROLLOUT_NOT_ENDED"}
NO_ROLLBACK = {"Rollback": "ROLLOUT_NOT_RUNNING"}
VERBS = {
    "Arm", "Start", "Advance", "Jump", "Rollback", "Restart", "Pause", "Resume", "Complete", "Archive", "Kill", "Unkill",
}  # fmt: skip
WANTED = {"Jump": {"stage": "open-beta"}}
"""What a verb needs besides a name."""


def reasons(world: World, verbs: set[str]) -> dict[str, str]:
    """Why each of these verbs is refused."""
    return {verb: refusal(world.do, verb, **WANTED.get(verb, {})) for verb in verbs}


def assert_refused(world: World, *expected: dict[str, str]) -> None:
    """Exactly these verbs are refused, for these reasons, and change nothing."""
    table = {verb: reason for part in expected for verb, reason in part.items()}
    before = world.everything()
    assert reasons(world, set(table)) == table
    assert world.everything() == before


# Which verbs there are in which state


def test_verbs__in_each_state__do_or_refuse(world: World) -> None:
    """From DRAFT to ARCHIVED, and back from every rollback: every verb does its work or says why not."""
    world.create()
    assert_refused(world, NOT_RUNNING, NOT_PAUSED, NOT_ROLLED_BACK, NO_ROLLBACK)

    assert world.do("Arm").state == pb.Rollout.ARMED
    assert_refused(
        world,
        NOT_RUNNING,
        NOT_PAUSED,
        NOT_ROLLED_BACK,
        NO_ROLLBACK,
        NOT_ENDED,
        {"Arm": "ROLLOUT_NOT_STARTABLE"},
    )

    started = world.do("Start")
    assert (started.state, started.stage, started.basis_points) == (
        pb.Rollout.RUNNING,
        "private-beta",
        10_000,
    )
    assert_refused(
        world, NOT_STARTABLE, NOT_PAUSED, NOT_ROLLED_BACK, NOT_ENDED, {"Complete": "NOT_LAST_STAGE"}
    )

    paused = world.do("Pause", reason="lunch")
    assert (paused.state, paused.cause, paused.reason) == (pb.Rollout.PAUSED, "USER", "lunch")
    assert_refused(world, NOT_STARTABLE, NOT_RUNNING, NOT_ROLLED_BACK, NOT_ENDED)

    resumed = world.do("Resume")
    assert (resumed.state, resumed.cause, resumed.reason) == (pb.Rollout.RUNNING, "", "")
    assert [world.do("Advance").stage for _ in range(2)] == ["open-beta", "everybody"]
    assert_refused(world, NOT_STARTABLE, NOT_PAUSED, NOT_ROLLED_BACK, NOT_ENDED, {"Advance": "LAST_STAGE"})

    assert world.do("Complete").state == pb.Rollout.COMPLETED
    assert_refused(world, NOT_STARTABLE, NOT_RUNNING, NOT_PAUSED, NOT_ROLLED_BACK)

    back = world.do("Rollback", reason="errors doubled")
    assert (back.state, back.stage, back.cause, back.reason) == (
        pb.Rollout.ROLLED_BACK, "everybody", "USER", "errors doubled",
    )  # fmt: skip
    assert_refused(world, NOT_STARTABLE, NOT_RUNNING, NOT_PAUSED, NO_ROLLBACK)

    assert world.do("Restart").state == pb.Rollout.RUNNING
    for stage in ("open-beta", "private-beta"):
        assert world.do("Rollback").stage == stage
        assert world.do("Restart").stage == stage
    assert (world.do("Rollback").stage, world.get().basis_points) == ("", 0)
    assert world.do("Restart").state == pb.Rollout.ARMED
    assert world.do("Start").stage == "private-beta"

    world.do("Rollback")
    assert world.do("Archive").state == pb.Rollout.ARCHIVED
    assert_refused(world, NOT_STARTABLE, NOT_RUNNING, NOT_PAUSED, NOT_ROLLED_BACK, NOT_ENDED, NO_ROLLBACK)


def test_refusals__say_what_to_do_instead(world: World) -> None:
    """The text names the rollout, where it stands, and the way out."""
    world.create()
    texts = {verb: refused(world.do, verb).text for verb in ("Pause", "Resume", "Restart", "Complete")}
    world.do("Start")
    texts["Start"] = refused(world.do, "Start").text
    texts["Archive"] = refused(world.do, "Archive").text
    world.do("Rollback")
    texts["Advance"] = refused(world.do, "Advance").text

    assert texts == {
        "Pause": "rollouts/edition is DRAFT: start it first",
        "Complete": "rollouts/edition is DRAFT: start it first",
        "Resume": "rollouts/edition is DRAFT: only a paused rollout can be resumed",
        "Restart": "rollouts/edition is DRAFT: only a rolled back rollout can be restarted",
        "Start": "rollouts/edition is RUNNING: only a DRAFT or an ARMED one can be started",
        "Archive": "rollouts/edition is RUNNING: complete it or roll it back first",
        "Advance": "rollouts/edition is ROLLED_BACK: restart it first",
    }


@pytest.mark.parametrize("verb", sorted(VERBS | {"Approve"}))
def test_verbs__unknown_rollout_or_stale_etag__change_nothing(world: World, verb: str) -> None:
    """A rollout that is not there, and one that changed since the caller looked."""
    world.create()
    before = world.everything()
    fields = {**WANTED, "Approve": {"gate": "start"}}.get(verb, {})

    unknown = refused(world.do, verb, "rollouts/nowhere", **fields)
    stale = refused(world.do, verb, etag="0", **fields)

    assert (unknown.kind, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert (stale.kind, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert world.everything() == before


@pytest.mark.parametrize("verb", ["Rollback", "Pause", "Kill", "Jump"])
def test_verbs__that_want_a_reason__are_refused_without(world: World, verb: str) -> None:
    """Whoever stops something, or goes past the plan's order, says why."""
    world.create()

    assert refused(world.do, verb, reason="", **WANTED.get(verb, {})).fields == {"reason": "REQUIRED"}


def test_etag__of_the_last_answer__is_good_once(world: World) -> None:
    """Who acts on what they saw succeeds; the second one who saw the same does not."""
    seen = world.create().etag

    assert world.do("Start", etag=seen).etag != seen
    assert refusal(world.do, "Kill", etag=seen) == "ETAG_MISMATCH"


def test_request_id__repeated__has_one_effect(world: World) -> None:
    """The answer of the first time, even though its etag is stale by now; the key is no good for another request."""
    created = world.apply(plan(), request_id="c1")
    started = world.do("Start", etag=created.rollout.etag, request_id="r1")
    world.do("Advance", request_id="r2")

    assert world.apply(plan(), request_id="c1") == created
    assert world.do("Start", etag=created.rollout.etag, request_id="r1") == started
    assert world.do("Advance", request_id="r2").stage == "open-beta"
    assert world.get().stage == "open-beta"
    assert refusal(world.do, "Advance", etag="7", request_id="r2") == "IDEMPOTENCY_KEY_REUSED"


def test_refused__is_tried_again_under_its_request_id(world: World) -> None:
    """A refusal is no answer to keep: when the state is right, the same request works."""
    world.create()
    assert refusal(world.do, "Advance", request_id="r1") == "ROLLOUT_NOT_RUNNING"
    world.do("Start")

    assert world.do("Advance", request_id="r1").stage == "open-beta"


def test_events__tell_every_change_with_its_reason(world: World) -> None:
    """Stages, admissions, who stopped what and why, and the end."""
    world.create()
    world.do("Start")
    world.verify(1, 2, 3)
    world.do("Advance")
    world.do("Rollback", reason="errors doubled")
    world.do("Restart")
    world.do("Pause", reason="lunch")
    world.do("Resume")
    world.do("Kill", reason="fire")
    world.do("Unkill")
    world.admit("RevokeAdmission", 1)
    world.do("Jump", stage="everybody")
    world.do("Complete")

    assert [each.stage for each in world.told(events.StageEntered)] == [
        "private-beta",
        "open-beta",
        "everybody",
    ]
    granted = [(each.enterprise, each.stage) for each in world.told(events.AdmissionGranted)]
    assert granted == [
        (enterprise(1), "private-beta"),
        (enterprise(2), "private-beta"),
        (enterprise(3), "open-beta"),
        (enterprise(3), "private-beta"),  # in the place of the first, which was revoked
    ]
    suspended = [(each.enterprise, each.reason) for each in world.told(events.AdmissionSuspended)]
    assert suspended == [(enterprise(3), "STAGE_ROLLED_BACK")]
    revoked = [(each.enterprise, each.reason) for each in world.told(events.AdmissionRevoked)]
    assert revoked == [(enterprise(1), "REVOKED")]
    rolled_back = [(each.stage, each.reason) for each in world.told(events.RolloutRolledBack)]
    assert rolled_back == [("private-beta", "errors doubled")]
    assert [each.reason for each in world.told(events.RolloutPaused)] == ["lunch"]
    assert [each.reason for each in world.told(events.RolloutKilled)] == ["fire"]
    for kind in (events.RolloutResumed, events.RolloutUnkilled, events.RolloutCompleted):
        assert len(world.told(kind)) == 1


# Holds and approvals


def test_advance__held__says_how_far_it_is(world: World) -> None:
    """Each thing that holds the stage; a reason passes over them, and is written down."""
    world.create(stages='- {ring: a, hold: {time: 2h, exposures: 3, window: "Mon-Fri 18-20"}}\n- {ring: b}')
    world.verify(1, 2)
    world.do("Start")
    world.clock.advance(timedelta(minutes=90))
    world.use(1, 2, 1, stage="a")

    held = refused(world.do, "Advance")

    assert (held.kind, held.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_NOT_MET")
    assert held.text == (
        "rollouts/edition is RUNNING: TIME: 1h30m of 2h; EXPOSURES: 2 of 3 enterprises; WINDOW: opens Thu 18:00 UTC"
    )
    assert refused(world.do, "Advance", skip_hold=True, reason="").fields == {"reason": "INVALID"}
    assert world.do("Advance", skip_hold=True, reason="the customer waits").stage == "b"
    assert '"skip_hold": true' in world.audit()[0].detail
    assert '"reason": "the customer waits"' in world.audit()[0].detail


def test_advance__met__needs_nobody_to_skip(world: World) -> None:
    """When time has passed and enough have used it."""
    world.create(stages="- {ring: a, hold: {time: 2h, exposures: 1}}\n- {ring: b}")
    world.verify(1)
    world.do("Start")
    world.clock.advance(timedelta(hours=2))
    world.use(1, stage="a")

    assert world.do("Advance").stage == "b"


APPROVED = "- {ring: a, hold: {approvals: 2}}\n- {ring: b, hold: {approvals: 1}}\n- {ring: c}"


def test_approvals__of_the_start__are_others(world: World) -> None:
    """Neither arming nor starting goes without them; nobody approves their own plan, nor twice."""
    world.create(stages=ONE_STAGE, approvals="{start: 2}")
    missing = refused(world.do, "Start")
    own = refused(world.do, "Approve", gate="start")
    world.do("Approve", by=OTHER, gate="start")
    again = refused(world.do, "Approve", by=OTHER, gate="start")
    assert refusal(world.do, "Arm") == "APPROVALS_MISSING"
    world.do("Approve", by=THIRD, gate="start")

    assert world.do("Arm").state == pb.Rollout.ARMED
    assert (missing.reason, missing.text) == (
        "APPROVALS_MISSING",
        "rollouts/edition is DRAFT: start has 0 of 2 approvals: others approve it with ApproveRollout",
    )
    assert (own.reason, own.text) == (
        "SELF_APPROVAL",
        "operators/tester wrote the plan: somebody else approves the gate start of rollouts/edition",
    )
    assert (again.reason, again.text) == (
        "ALREADY_APPROVED",
        "operators/other has approved the gate start of rollouts/edition: others are needed",
    )


def test_approvals__of_a_stage__are_never_passed_over(world: World) -> None:
    """Neither by skipping the hold nor by jumping; and approvals of one stage do not count for the next."""
    world.create(stages=APPROVED)
    world.do("Start")
    world.do("Approve", by=OTHER, gate="a")

    missing = refused(world.do, "Advance", skip_hold=True, reason="hurry")
    jump = refused(world.do, "Jump", stage="c", reason="hurry")
    world.do("Approve", by=THIRD, gate="a")
    assert world.do("Advance").stage == "b"
    assert refusal(world.do, "Jump", stage="c") == "APPROVALS_MISSING"
    world.do("Approve", by=THIRD, gate="b")

    assert world.do("Jump", stage="c").stage == "c"
    assert (missing.reason, missing.text) == ("APPROVALS_MISSING", "rollouts/edition is RUNNING: 1 of 2")
    assert (jump.reason, jump.text) == (
        "APPROVALS_MISSING",
        "rollouts/edition is RUNNING: a has 1 of 2 approvals: others approve it with ApproveRollout",
    )


def test_approve__no_such_gate__names_those_that_there_are(world: World) -> None:
    """`start`, and the stages."""
    world.create()

    told = refused(world.do, "Approve", by=OTHER, gate="nowhere")

    assert told.fields == {"gate": "INVALID"}
    assert told.text == "gate: must be one of start, private-beta, open-beta, everybody"


@pytest.mark.parametrize("back", [False, True])
def test_approvals__end_with_the_plan_that_they_were_given_to(world: World, *, back: bool) -> None:
    """Also when the former words come back: by then their author may be who has approved them."""
    world.create(stages=ONE_STAGE, approvals="{start: 1}")
    world.do("Approve", by=OTHER, gate="start")
    stub = world.as_(OTHER).rollouts
    stub.ApplyPlan(pb.ApplyPlanRequest(plan=plan(stages="- {ring: other}", approvals="{start: 1}")))
    if back:
        stub.ApplyPlan(pb.ApplyPlanRequest(plan=plan(stages=ONE_STAGE, approvals="{start: 1}")))

    assert refusal(world.do, "Start") == "APPROVALS_MISSING"
    assert refusal(world.do, "Approve", by=OTHER, gate="start") == "SELF_APPROVAL"
    world.do("Approve", gate="start")
    assert world.do("Start").state == pb.Rollout.RUNNING


def test_approvals__end_with_a_rollback(world: World) -> None:
    """What was fit to go on then need not be so now."""
    world.create(stages=APPROVED)
    world.do("Start")
    for somebody in (OTHER, THIRD):
        world.do("Approve", by=somebody, gate="a")
    world.do("Advance")
    world.do("Rollback")
    world.do("Restart")

    assert refusal(world.do, "Advance") == "APPROVALS_MISSING"


# Going back, stopping, ending


@pytest.mark.parametrize("widenings", [0, 1, 2])
def test_rollback__serves_exactly_what_was_served_before(world: World, widenings: int) -> None:
    """The same enterprises in the same stages of admission; from the first stage that is nobody."""
    world.create()
    world.verify(*range(1, 8))

    def serving() -> dict[str, str]:
        return {each.enterprise: each.stage for each in world.admissions() if each.state == ACTIVE}

    before = [serving()]
    world.do("Start")
    for _ in range(widenings):
        before.append(serving())
        world.do("Advance")

    assert len(serving()) == (2, 4, 7)[widenings]
    for expected in reversed(before):
        world.do("Rollback")
        assert serving() == expected
        world.do("Restart")
    assert world.get().state == pb.Rollout.ARMED


def test_rollback__to_the_start__takes_all_widenings_back(world: World) -> None:
    """At once, from the last stage; whoever was in comes first when it starts again."""
    world.create()
    world.verify(*range(1, 8))
    world.do("Start")
    first = world.active()
    world.do("Advance")
    world.do("Advance")

    assert world.do("Rollback", to_start=True).stage == ""
    assert world.active() == set()
    world.do("Restart")
    world.do("Start")
    assert world.active() == first
    assert world.do("Rollback").stage == ""


def test_rollback__of_who_was_revoked_since__gives_nothing_back(world: World) -> None:
    """What an operator took away for good stays away, and the rollback is exact for all others."""
    world.create(stages="- {ring: a}\n- {ring: b}")
    world.verify(1, 2)
    world.do("Start")
    world.do("Advance")
    world.admit("RevokeAdmission", 1)

    world.do("Rollback")

    assert world.active() == {enterprise(2)}


def test_rollback__that_would_not_be_exact__changes_nothing(world: World) -> None:
    """It is not reported as done, whatever the reason; a kill works all the same."""
    world.create()
    world.verify(1, 2)
    world.do("Start")
    world.forge_anchors()
    before = world.everything()

    told = refused(world.do, "Rollback")

    assert (told.kind, told.reason) == (grpc.StatusCode.INTERNAL, "ROLLBACK_NOT_EXACT")
    assert told.text == (
        "rollouts/edition would not serve what it served before; nothing was changed. Kill it to switch it off"
    )
    assert world.everything() == before
    assert world.do("Kill").killed


@pytest.mark.parametrize("verb", ["Kill", "Rollback"])
def test_breaking_the_glass__needs_no_approval_and_opens_a_review(world: World, verb: str) -> None:
    """Somebody else looks at it afterwards."""
    world.create(stages=ONE_STAGE, approvals="{change: 3}")
    world.do("Start")
    world.do(verb, reason="it burns")

    reviews = world.changes()

    assert [(each.kind, each.state, each.author, each.reason) for each in reviews] == [
        (
            changes_pb2.ChangeRequest.REVIEW,
            changes_pb2.ChangeRequest.IN_REVIEW,
            "operators/tester",
            f"{verb.lower()}: it burns",
        )
    ]
    assert (reviews[0].approvals_needed, reviews[0].plan) == (1, "")


@pytest.mark.parametrize(
    "before", [(), ("Arm",), ("Start",), ("Start", "Pause"), ("Start", "Rollback"), ("Start", "Complete")]
)
def test_kill__beats_every_state_and_is_taken_back_whole(world: World, before: tuple[str, ...]) -> None:
    """Nobody is in while it lasts, nobody enters; then everything is as it was."""
    world.create(stages=ONE_STAGE)
    world.verify(1)
    for verb in before:
        world.do(verb)
    state, inside = world.get(), world.active()

    killed = world.do("Kill", reason="fire")
    assert (killed.killed, killed.state, killed.stage) == (True, state.state, state.stage)
    assert not world.edition(1).admitted
    assert world.document()["flags"]["flags"]["enterprise-beta"]["state"] == "DISABLED"
    back = world.do("Unkill")

    assert world.active() == inside
    assert (back.killed, back.state, back.cause, back.reason) == (
        False,
        state.state,
        state.cause,
        state.reason,
    )


def test_kill__nobody_enters_and_all_of_them_enter_afterwards(world: World) -> None:
    """Who is verified meanwhile waits for the unkill."""
    world.create(stages=ONE_STAGE)
    world.do("Start")
    world.do("Kill")
    world.verify(1)
    assert world.edition(1).reason == "EDITION_KILLED"

    world.do("Unkill")

    assert world.active() == {enterprise(1)}


def test_complete__lets_the_control_group_in(world: World) -> None:
    """Which no stage takes before, however wide it is."""
    world.create(stages=ONE_STAGE, control_share="50%")
    world.do("Start")
    world.verify(*range(12))
    held_out = {each.enterprise for each in world.admissions() if each.reason == "HELD_OUT"}
    control = {name for name in map(enterprise, range(12)) if bucket_of(f"{EDITION}/control", name) < 5000}
    assert 0 < len(held_out) < 12
    assert held_out == control

    world.do("Complete")

    assert len(world.active()) == 12


def test_jump__narrower__keeps_whom_the_wider_stage_let_in(world: World) -> None:
    """Stickiness outranks shares, unless the plan says otherwise."""
    world.create(stages="- {ring: a, quota: 1}\n- {ring: b, quota: 3}")
    world.verify(1, 2, 3)
    world.do("Start")
    world.do("Jump", stage="b")
    assert len(world.active()) == 3

    back = world.do("Jump", stage="a", reason="too early")

    assert (back.stage, len(world.active())) == ("a", 3)
    world.verify(4)
    assert world.edition(4).reason == "QUOTA_FULL"


def test_jump__narrower_where_the_plan_expels__puts_the_newest_out(world: World) -> None:
    """They keep their place, and come first when it widens again."""
    world.create(stages="- {ring: a, quota: 1}\n- {ring: b, quota: 3}", narrowing="expel_newest_first")
    world.do("Start")
    world.verify(1, 2, 3)
    world.do("Jump", stage="b")
    world.do("Jump", stage="a")

    assert world.active() == {enterprise(1)}
    assert world.edition(2).reason in {"NARROWED", "QUOTA_FULL"}
    world.do("Advance")
    assert len(world.active()) == 3


def test_jump__no_such_stage__names_those_that_there_are(world: World) -> None:
    """Nothing is changed."""
    world.create()
    world.do("Start")

    told = refused(world.do, "Jump", stage="nowhere")

    assert told.fields == {"stage": "INVALID"}
    assert told.text == "stage: must be one of private-beta, open-beta, everybody"


# Lists, and who may call


def test_list__pages_newest_first(world: World) -> None:
    """Also those made at the same moment come once, whatever the size of a page."""
    for number in range(7):
        world.create(f"rollouts/r{number}", flag=f"f{number}")
        world.clock.advance(timedelta(seconds=number % 2))

    def walk(size: int) -> list[str]:
        names, token = [], ""
        while True:
            page = world.ops.ListRollouts(pb.ListRolloutsRequest(page_size=size, page_token=token))
            assert 0 < len(page.rollouts) <= size
            names += [each.name for each in page.rollouts]
            token = page.next_page_token
            if not token:
                return names

    expected = [f"rollouts/r{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    # r1 and r2 were made at different moments, r2 and r3 not; names break the tie.
    assert walk(500) == walk(3) == walk(1) == expected


def test_callers__each_service_is_for_its_own(world: World) -> None:
    """Members neither see rollouts nor change them; streams are the gateway's; the edition is the enterprises'."""
    world.create()
    for principal in (member(enterprise(1)), client(enterprise(1)), gateway()):
        stubs = world.as_(principal)
        calls = [
            (stubs.rollouts.GetRollout, pb.GetRolloutRequest(name=EDITION)),
            (stubs.rollouts.ApplyPlan, pb.ApplyPlanRequest(plan=plan())),
            (stubs.rollouts.KillRollout, pb.KillRolloutRequest(name=EDITION, reason="x")),
            (stubs.admissions.ListAdmissions, admissions_pb2.ListAdmissionsRequest(parent=EDITION)),
            (stubs.flags.ListFlags, flags_pb2.ListFlagsRequest()),
            (stubs.changes.ListChangeRequests, changes_pb2.ListChangeRequestsRequest(parent=EDITION)),
            (stubs.audit.ListAuditEvents, audit_pb2.ListAuditEventsRequest()),
            (stubs.serving.ListReplicas, serving_pb2.ListReplicasRequest()),
        ]
        assert {refusal(call, request) for call, request in calls} == {"CALLER_NOT_ALLOWED"}
    ops = world.as_(operator())
    calls = [
        (ops.serving.GetSnapshot, serving_pb2.GetSnapshotRequest()),
        (ops.serving.GetAdmissions, serving_pb2.GetAdmissionsRequest()),
        (ops.serving.ReportReplica, serving_pb2.ReportReplicaRequest(replica="x", snapshot_version=1)),
        (ops.edition.GetEdition, admissions_pb2.GetEditionRequest()),
        (ops.edition.JoinWaitlist, admissions_pb2.JoinWaitlistRequest()),
    ]
    assert {refusal(call, request) for call, request in calls} == {"CALLER_NOT_ALLOWED"}
