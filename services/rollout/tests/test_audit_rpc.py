"""The audit trail, as operators read and verify it: what every act leaves behind."""

import json
from datetime import UTC, timedelta

import psycopg
from numerator.rollout.v1 import admissions_pb2, flags_pb2
from numerator.rollout.v1 import audit_pb2 as pb

from services.chassis.testing.rpc import member, operator
from services.rollout.tests.world import EDITION, OTHER, World, enterprise, plan

STAGES = "- {ring: a, quota: 1}\n- {ring: b, quota: 2}"


def verify(world: World) -> pb.VerifyAuditResponse:
    """The trail, verified."""
    return world.as_(operator()).audit.VerifyAudit(pb.VerifyAuditRequest())


def causes(world: World, before: int) -> list[str]:
    """What was written down since there were so many events, oldest first."""
    return [each.cause for each in reversed(world.audit())][before:]


def test_every_act__is_written_down_once(world: World) -> None:
    """With what it brought about, and nothing where nothing happened."""
    world.create(stages=STAGES)
    world.verify(1, 2)
    acts = {}

    def act(name: str, call, *args, **fields) -> None:
        before = len(world.audit())
        call(*args, **fields)
        acts[name] = causes(world, before)

    ops, own = world.as_(operator()), world.as_(member(enterprise(1))).edition
    act("apply", world.create, stages=STAGES + "\n- {ring: c}")
    act("apply the same", world.create, stages=STAGES + "\n- {ring: c}")
    act("approve", world.do, "Approve", by=OTHER, gate="a")
    act("arm", world.do, "Arm")
    act("start", world.do, "Start")
    act("advance", world.do, "Advance")
    act("pause", world.do, "Pause")
    act("resume", world.do, "Resume")
    act("rollback", world.do, "Rollback")
    act("restart", world.do, "Restart")
    act("jump", world.do, "Jump", stage="c")
    act("complete", world.do, "Complete")
    act("kill", world.do, "Kill")
    act("unkill", world.do, "Unkill")
    act("revoke", world.admit, "RevokeAdmission", 1)
    act("admit", world.admit, "AdmitEnterprise", 1)
    act("join", own.JoinWaitlist, admissions_pb2.JoinWaitlistRequest())
    act("join again", own.JoinWaitlist, admissions_pb2.JoinWaitlistRequest())
    act("leave", own.LeaveWaitlist, admissions_pb2.LeaveWaitlistRequest())
    act("lose verification", world.tell, 1, verified=False)
    act("told the same", world.tell, 1, verified=False)
    act("flags", ops.flags.ApplyFlags, flags_pb2.ApplyFlagsRequest(document="flags: {x: {}}"))
    act("flags again", ops.flags.ApplyFlags, flags_pb2.ApplyFlagsRequest(document="flags: {x: {}}"))
    act("delete flag", ops.flags.DeleteFlag, flags_pb2.DeleteFlagRequest(name="flags/x"))
    act("archive", world.do, "Archive")

    decided = "admissions.decided"
    assert acts == {
        "apply": ["plan.applied"],
        "apply the same": [],
        "approve": ["rollout.approved"],
        "arm": ["rollout.armed"],
        "start": ["rollout.started", decided],
        "advance": ["rollout.advanced", decided],
        "pause": ["rollout.paused"],
        "resume": ["rollout.resumed"],
        "rollback": ["rollout.rolled_back", decided, "review.opened"],
        "restart": ["rollout.restarted"],
        "jump": ["rollout.jumped", decided],
        "complete": ["rollout.completed"],
        "kill": ["rollout.killed", "review.opened"],
        "unkill": ["rollout.unkilled"],
        "revoke": [decided, "admission.revoked"],
        "admit": [decided, "admission.granted"],
        "join": ["waitlist.joined"],
        "join again": [],
        "leave": ["waitlist.left"],
        "lose verification": [decided],
        "told the same": [],
        "flags": ["flags.applied"],
        "flags again": [],
        "delete flag": ["flag.deleted"],
        "archive": ["rollout.archived"],
    }
    assert verify(world).ok


def test_event__says_who_what_and_from_what_to_what(world: World) -> None:
    """With the snapshot that came of it, the chain's hashes, and the number without a gap."""
    world.create(stages=STAGES)
    world.clock.advance(timedelta(hours=1))
    world.do("Start")
    world.do("Pause", reason="lunch")

    paused, started, created = world.audit(EDITION)

    assert (paused.actor, paused.cause, paused.rollout, paused.enterprise) == (
        "operators/tester", "rollout.paused", EDITION, "",
    )  # fmt: skip
    detail = json.loads(paused.detail)
    assert detail["reason"] == "lunch"
    assert {"op": "replace", "path": "/state", "before": "RUNNING", "value": "PAUSED"} in detail["changed"]
    assert {"op": "replace", "path": "/cause", "before": "", "value": "USER"} in detail["changed"]
    assert paused.snapshot_version == world.snapshot().version
    assert paused.previous_hash == started.hash
    assert started.time.ToDatetime(UTC) == world.clock.now()
    assert [each.sequence for each in (created, started, paused)] == [1, 2, 3]


def test_event__of_a_plan__tells_its_differences(world: World) -> None:
    """In the words of the diff, with the plan's hash before and after."""
    first = world.create(stages=STAGES)
    second = world.create(stages=STAGES.replace("quota: 1", "quota: 2"))

    detail = json.loads(world.audit(EDITION)[0].detail)

    assert detail["differences"] == ["stages[0].quota: 1 -> 2"]
    assert {
        "op": "replace", "path": "/plan/sha256", "before": first.plan_sha256, "value": second.plan_sha256
    } in detail["changed"]  # fmt: skip


def test_event__of_an_enterprises_own_act__names_who_did_it(world: World) -> None:
    """The member, and the enterprise that it concerns."""
    world.create(stages="- {ring: a, audience: {waitlist: joined}}")
    world.do("Start")
    world.verify(1)
    principal = member(enterprise(1), subject=f"{enterprise(1)}/members/ada")
    world.as_(principal).edition.JoinWaitlist(admissions_pb2.JoinWaitlistRequest())

    decided, joined = world.audit(EDITION)[:2]

    assert (joined.actor, joined.enterprise) == (f"{enterprise(1)}/members/ada", enterprise(1))
    assert (decided.actor, decided.enterprise) == (f"{enterprise(1)}/members/ada", enterprise(1))
    assert json.loads(decided.detail)["entered"] == [enterprise(1)]


def test_list__pages_newest_first_and_by_rollout(world: World) -> None:
    """Each event once, whatever the size of a page."""
    world.create(stages=STAGES)
    world.create("rollouts/other", "- {ring: a}", flag="other")
    world.do("Start")
    world.do("Start", "rollouts/other")

    def walk(size: int, rollout: str = "") -> list[int]:
        found, token = [], ""
        while True:
            request = pb.ListAuditEventsRequest(rollout=rollout, page_size=size, page_token=token)
            page = world.as_(operator()).audit.ListAuditEvents(request)
            found += [each.sequence for each in page.events]
            token = page.next_page_token
            if not token:
                return found

    assert walk(500) == walk(1) == walk(3) == [4, 3, 2, 1]
    assert walk(500, EDITION) == walk(1, EDITION) == [3, 1]


def test_verify__whole__is_anchored_to_the_newest(world: World) -> None:
    """Everything was computed anew and is vouched for from outside the database."""
    world.create(stages=STAGES)
    world.do("Start")

    found = verify(world)

    assert (found.ok, found.checked_count, found.anchored_count) == (True, 2, 2)
    assert found.head == world.audit()[0].hash
    assert not found.mistakes


def test_verify__an_edited_event__is_found(world: World) -> None:
    """Also when whoever edits may do anything in the database: here, hashes and all."""
    world.create(stages=STAGES)
    world.do("Start")
    world.do("Kill")
    with psycopg.connect(world.database.admin_url, autocommit=True) as connection:
        connection.execute("set numerator.scope = 'platform'")
        connection.execute("update rollout.audit_events set actor = 'operators/innocent' where sequence = 3")

    found = verify(world)

    assert not found.ok
    assert [(each.sequence, each.what) for each in found.mistakes] == [
        (3, "is not what was written: its hash is another")
    ]


def test_verify__a_cut_tail__is_found(world: World) -> None:
    """Which the chain alone would not tell."""
    world.create(stages=STAGES)
    world.do("Start")
    with psycopg.connect(world.database.admin_url, autocommit=True) as connection:
        connection.execute("set numerator.scope = 'platform'")
        connection.execute("delete from rollout.audit_events where sequence = 2")

    found = verify(world)

    assert (found.ok, found.checked_count) == (False, 1)
    assert [each.what for each in found.mistakes] == ["is the last, but events up to 2 were anchored"]


def test_scheduler_and_accounts__are_named_as_actors(world: World) -> None:
    """What nobody did by hand."""
    world.apply(plan(stages=STAGES, start="2026-01-15T13:00Z"))
    world.do("Arm")
    world.tick(hours=1)
    world.verify(1)

    actors = {each.cause: each.actor for each in world.audit(EDITION)}

    assert actors["rollout.started"] == "scheduler"
    assert actors["admissions.decided"] == "accounts"
