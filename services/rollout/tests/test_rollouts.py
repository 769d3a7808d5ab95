"""The operators' verbs, as they are called: what each does, what it refuses and why, and what it tells."""

from datetime import timedelta

import grpc
import pytest
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import rollout_pb2 as pb

from services.chassis.testing.outcomes import field_reasons_of, reason_of
from services.chassis.testing.rpc import gateway, member
from services.rollout.tests.world import EDITION, STAGES, World, enterprise

VERBS = ("Start", "Advance", "Rollback", "Pause", "Resume", "Kill", "Unkill")


def refusal(call, *args, **fields) -> str:
    """Why a call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        call(*args, **fields)
    return reason_of(refused.value)


def test_create__is_a_draft_that_admits_nobody(world: World) -> None:
    """Nobody is in before it starts, and those who are known wait."""
    world.verify(1)

    made = world.create()

    assert (made.name, made.flag, made.state) == (EDITION, "enterprise-beta", pb.Rollout.DRAFT)
    assert (made.stage, made.admitted_count, made.waiting_count) == ("", 0, 1)
    assert made == world.ops.GetRollout(pb.GetRolloutRequest(name=EDITION))
    assert world.edition(1).reason == "ROLLOUT_NOT_RUNNING"


@pytest.mark.parametrize(("name", "flag"), [(EDITION, "another"), ("rollouts/another", "")])
def test_create__taken__is_refused(world: World, name: str, flag: str) -> None:
    """A name belongs to one rollout, and so does a flag."""
    world.create()

    assert refusal(world.create, name, flag=flag) == "ROLLOUT_EXISTS"


@pytest.mark.parametrize(
    ("stages", "wrong"),
    [
        ((), {"rollout.stages": "REQUIRED"}),
        ((("a", 1, 0), ("a", 2, 0)), {"rollout.stages": "STAGE_ID_REPEATED"}),
        ((("a", 2, 0), ("b", 1, 0)), {"rollout.stages[1]": "STAGE_NARROWER"}),
        ((("a", 1, 0), ("b", 2, 1)), {"rollout.stages[1]": "STAGE_NARROWER"}),
        ((("a", 0, 0),), {"rollout.stages[0].basis_points": "INVALID"}),
        ((("a", 10_001, 0),), {"rollout.stages[0].basis_points": "INVALID"}),
        ((("A", 1, 0),), {"rollout.stages[0].id": "INVALID"}),
        ((("a", 1, -1),), {"rollout.stages[0].quota": "INVALID"}),
    ],
)
def test_create__wrong_stages__names_the_field(world: World, stages, wrong: dict[str, str]) -> None:
    """A stage that is none, or takes fewer than the one before, is refused by its place."""
    with pytest.raises(grpc.RpcError) as refused:
        world.create(stages=stages)

    assert field_reasons_of(refused.value) == wrong
    assert not world.rows("rollouts")


def test_verbs__from_each_state__do_or_refuse(world: World) -> None:
    """In DRAFT, in the first and last stage, and paused: every verb does its work or says why not."""
    world.create()

    def refused() -> dict[str, str]:
        return {verb: refusal(world.do, verb) for verb in expected}

    expected = dict.fromkeys(("Advance", "Rollback", "Pause"), "ROLLOUT_NOT_RUNNING") | {
        "Resume": "ROLLOUT_NOT_PAUSED"
    }
    assert refused() == expected

    assert world.do("Start").state == pb.Rollout.RUNNING
    expected = {
        "Start": "ROLLOUT_NOT_STARTABLE",
        "Rollback": "NOTHING_TO_ROLL_BACK",
        "Resume": "ROLLOUT_NOT_PAUSED",
    }
    assert refused() == expected

    assert world.do("Pause").state == pb.Rollout.PAUSED
    expected = {
        "Start": "ROLLOUT_NOT_STARTABLE",
        "Advance": "ROLLOUT_NOT_RUNNING",
        "Pause": "ROLLOUT_NOT_RUNNING",
        "Rollback": "NOTHING_TO_ROLL_BACK",
    }
    assert refused() == expected

    assert world.do("Resume").stage == "private-beta"
    assert [world.do("Advance").stage for _ in STAGES[1:]] == ["open-beta", "everybody"]
    assert refusal(world.do, "Advance") == "LAST_STAGE"
    back = world.do("Rollback")
    assert (back.stage, back.state) == ("open-beta", pb.Rollout.PAUSED)
    assert world.do("Rollback").stage == "private-beta"
    assert refusal(world.do, "Rollback") == "NOTHING_TO_ROLL_BACK"


@pytest.mark.parametrize("verb", VERBS)
def test_verbs__unknown_rollout_or_stale_etag__change_nothing(world: World, verb: str) -> None:
    """A rollout that is not there, and one that changed since the caller looked."""
    world.create()
    before = world.rows("rollouts")

    assert refusal(world.do, verb, "rollouts/nowhere") == "NOT_FOUND"
    assert refusal(world.do, verb, etag="0") == "ETAG_MISMATCH"
    assert world.rows("rollouts") == before


def test_etag__of_the_last_answer__is_good_once(world: World) -> None:
    """Who acts on what they saw succeeds; the second one who saw the same does not."""
    seen = world.create().etag

    assert world.do("Start", etag=seen).etag != seen
    assert refusal(world.do, "Kill", etag=seen) == "ETAG_MISMATCH"


def test_request_id__repeated__has_one_effect(world: World) -> None:
    """The answer of the first time, even though its etag is stale by now; the key is no good for another request."""
    created = world.create(request_id="c1")
    started = world.do("Start", etag=created.etag, request_id="r1")
    world.do("Advance", request_id="r2")

    assert world.create(request_id="c1") == created
    assert world.do("Start", etag=created.etag, request_id="r1") == started
    assert world.do("Advance", request_id="r2").stage == "open-beta"
    assert refusal(world.do, "Advance", etag="7", request_id="r2") == "IDEMPOTENCY_KEY_REUSED"


def test_refused__is_tried_again_under_its_request_id(world: World) -> None:
    """A refusal is no answer to keep: when the state is right, the same request works."""
    world.create()
    assert refusal(world.do, "Advance", request_id="r1") == "ROLLOUT_NOT_RUNNING"
    world.do("Start")

    assert world.do("Advance", request_id="r1").stage == "open-beta"


def test_events__tell_every_change_with_its_reason(world: World) -> None:
    """Stages, admissions, and who stopped what and why."""
    world.create()
    world.verify(1, 2, 3)
    world.do("Start")
    world.do("Advance")
    world.do("Rollback", reason="errors doubled")
    world.do("Resume")
    world.do("Pause", reason="lunch")
    world.do("Kill", reason="fire")
    world.do("Unkill")

    assert [each.stage for each in world.told(events.StageEntered)] == ["private-beta", "open-beta"]
    granted = [(each.enterprise, each.stage) for each in world.told(events.AdmissionGranted)]
    assert granted == [
        (enterprise(1), "private-beta"), (enterprise(2), "private-beta"), (enterprise(3), "open-beta")
    ]  # fmt: skip
    suspended = [(each.enterprise, each.reason) for each in world.told(events.AdmissionSuspended)]
    assert suspended == [(enterprise(3), "STAGE_ROLLED_BACK")]
    rolled_back = [(each.stage, each.reason) for each in world.told(events.RolloutRolledBack)]
    assert rolled_back == [("private-beta", "errors doubled")]
    assert [each.reason for each in world.told(events.RolloutPaused)] == ["lunch"]
    assert [each.reason for each in world.told(events.RolloutKilled)] == ["fire"]
    assert len(world.told(events.RolloutResumed)) == len(world.told(events.RolloutUnkilled)) == 1


@pytest.mark.parametrize("verb", ["Rollback", "Pause", "Kill"])
def test_stopping__without_a_reason__is_refused(world: World, verb: str) -> None:
    """Whoever stops something says why."""
    world.create()
    with pytest.raises(grpc.RpcError) as refused:
        world.do(verb, reason="")

    assert field_reasons_of(refused.value) == {"reason": "REQUIRED"}


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


def test_list_admissions__pages_in_the_order_of_admission_then_of_waiting(world: World) -> None:
    """Who is in by seat, who rests, who waits by arrival."""
    world.create()
    world.do("Start")
    world.tell(9, verified=False)
    world.verify(1, 2, 3, 4)
    world.tell(1, verified=False)

    listed, token = [], ""
    while True:
        page = world.ops.ListAdmissions(
            pb.ListAdmissionsRequest(parent=EDITION, page_size=2, page_token=token)
        )
        listed += [
            (each.enterprise, pb.Admission.State.Name(each.state), each.reason, each.position)
            for each in page.admissions
        ]
        token = page.next_page_token
        if not token:
            break

    assert listed == [
        (enterprise(2), "ACTIVE", "", 0),
        (enterprise(1), "SUSPENDED", "VERIFICATION_REVOKED", 0),
        (enterprise(9), "WAITLISTED", "NOT_VERIFIED", 0),
        (enterprise(3), "WAITLISTED", "QUOTA_FULL", 1),
        (enterprise(4), "WAITLISTED", "QUOTA_FULL", 2),
    ]


def test_callers__operators_only(world: World) -> None:
    """Members neither see rollouts nor change them; snapshots are the gateway's."""
    world.create()
    request = pb.GetRolloutRequest(name=EDITION)
    for principal in (member(enterprise(1)), gateway()):
        assert refusal(world.as_(principal).GetRollout, request) == "CALLER_NOT_ALLOWED"
    assert refusal(world.ops.GetSnapshot, pb.GetSnapshotRequest()) == "CALLER_NOT_ALLOWED"
    assert refusal(world.ops.GetEdition, pb.GetEditionRequest()) == "CALLER_NOT_ALLOWED"
