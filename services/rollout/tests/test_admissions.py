"""The records as operators see them, and what they do about one enterprise: admit, revoke, explain, attributes."""

import grpc
import pytest
from numerator.rollout.v1 import admissions_pb2 as pb

from services.chassis.testing.rpc import operator
from services.rollout.model import NEXT_STEPS, Reason
from services.rollout.tests.world import EDITION, World, enterprise, refusal, refused

A = pb.Admission
NARROW = "- {ring: narrow, percent: 0.01%, quota: 2}\n- {ring: all}"


def steps(world: World, number: int) -> list[tuple[str, bool, str]]:
    """How the decision on an enterprise comes about."""
    return [(each.rule, each.holds, each.detail) for each in world.admit("ExplainAdmission", number).steps]


def attribute(world: World, number: int, **attributes: str) -> pb.EnterpriseAttributes:
    """What operators say of an enterprise."""
    request = pb.SetEnterpriseAttributesRequest(enterprise=enterprise(number), attributes=attributes)
    return world.as_(operator()).admissions.SetEnterpriseAttributes(request)


# The list


def test_list__pages_in_the_order_of_admission_then_of_waiting(world: World) -> None:
    """Who is in by seat, who rests, who waits by arrival, who was put out."""
    world.create(stages="- {ring: a, quota: 2}")
    world.do("Start")
    world.tell(9, verified=False)
    world.verify(1, 2, 3, 4, 5)
    world.admit("RevokeAdmission", 1)
    world.tell(2, verified=False)

    def walk(size: int) -> list[tuple[str, str, str, int]]:
        listed, token = [], ""
        while True:
            request = pb.ListAdmissionsRequest(parent=EDITION, page_size=size, page_token=token)
            page = world.as_(operator()).admissions.ListAdmissions(request)
            listed += [
                (each.enterprise, A.State.Name(each.state), each.reason, each.position)
                for each in page.admissions
            ]
            token = page.next_page_token
            if not token:
                return listed

    waiting = [each for each in walk(500) if each[2] == "QUOTA_FULL"]
    inside = [each for each in walk(500) if each[1] == "ACTIVE"]
    assert walk(500) == walk(2) == walk(1)
    assert walk(500) == [
        *inside,
        (enterprise(2), "SUSPENDED", "VERIFICATION_REVOKED", 0),
        (enterprise(9), "WAITLISTED", "NOT_VERIFIED", 0),
        *sorted(waiting),
        (enterprise(1), "REVOKED", "REVOKED", 0),
    ]
    assert len(inside) == 1
    assert sorted(each[3] for each in waiting) == [1, 2]


def test_list__of_no_rollout__is_refused(world: World) -> None:
    """It is not there."""
    request = pb.ListAdmissionsRequest(parent="rollouts/nowhere")

    assert refusal(world.as_(operator()).admissions.ListAdmissions, request) == "NOT_FOUND"


# Admit and revoke


def test_admit__takes_in_whatever_the_bucket(world: World) -> None:
    """It holds a seat as any other, and keeps it when its verification is lost and comes back."""
    world.create(stages=NARROW)
    world.do("Start")
    world.verify(1)
    assert world.edition(1).reason == "NOT_IN_SHARE"

    admitted = world.admit("AdmitEnterprise", 1, reason="a friend")

    assert (admitted.state, admitted.source, admitted.stage) == (A.ACTIVE, "MANUAL", "narrow")
    world.tell(1, verified=False)
    assert world.edition(1).reason == "VERIFICATION_REVOKED"
    world.verify(1)
    assert world.edition(1).admitted
    trail = [(each.cause, each.enterprise, each.detail) for each in world.audit(EDITION)]
    assert ("admission.granted", enterprise(1), '{"reason": "a friend"}') in trail


def test_admit__who_is_in__changes_nothing(world: World) -> None:
    """However often."""
    world.create(stages="- {ring: a}")
    world.do("Start")
    world.verify(1)
    before = world.everything()

    assert world.admit("AdmitEnterprise", 1).source == "BUCKET"
    assert world.everything() == before


def test_admit__against_the_rules__is_refused(world: World) -> None:
    """Neither eligibility nor quota nor a list nor a rollout that admits nobody gives way, and each says so."""
    world.create(stages=NARROW)
    world.verify(1, 2, 3, 4)
    draft = refused(world.admit, "AdmitEnterprise", 1)
    world.do("Start")
    world.tell(5, verified=False)
    not_eligible = refused(world.admit, "AdmitEnterprise", 5)
    entry = pb.ListEntry(enterprise=enterprise(4), kind=pb.ListEntry.DENY, reason="a test")
    world.as_(operator()).admissions.SetListEntry(pb.SetListEntryRequest(parent=EDITION, entry=entry))
    denied = refused(world.admit, "AdmitEnterprise", 4)
    world.admit("AdmitEnterprise", 1)
    world.admit("AdmitEnterprise", 2)
    full = refused(world.admit, "AdmitEnterprise", 3)
    world.tell(2, verified=False)
    suspended = refused(world.admit, "AdmitEnterprise", 2)
    world.do("Kill")
    killed = refused(world.admit, "AdmitEnterprise", 3)

    texts = {each.reason: each.text for each in (draft, not_eligible, denied, full)}
    assert {each.kind for each in (draft, not_eligible, denied, full)} == {
        grpc.StatusCode.FAILED_PRECONDITION
    }
    assert texts == {
        "ROLLOUT_NOT_RUNNING": "start or resume it first",
        "NOT_ELIGIBLE": "enterprises/e5 cannot be in: NOT_VERIFIED",
        "DENIED": "enterprises/e4 cannot be in: DENIED",
        "QUOTA_FULL": "all 2 places are taken; raise the quota",
    }
    assert (suspended.reason, killed.reason) == ("NOT_ELIGIBLE", "ROLLOUT_NOT_RUNNING")
    assert refusal(world.admit, "AdmitEnterprise", 99) == "NOT_FOUND"


def test_revoke__is_for_good_and_frees_the_place(world: World) -> None:
    """The next in turn gets it; no verification, widening or restart brings the revoked one back, but AdmitEnterprise does."""
    world.create(stages="- {ring: a, quota: 1}\n- {ring: all}")
    world.do("Start")
    world.verify(1, 2)

    revoked = world.admit("RevokeAdmission", 1, reason="abuse")

    assert (revoked.state, revoked.reason) == (A.REVOKED, "REVOKED")
    assert world.active() == {enterprise(2)}
    world.tell(1, verified=False)
    world.verify(1)
    world.do("Advance")
    world.do("Complete")
    assert world.edition(1).state == A.REVOKED
    assert world.active() == {enterprise(2)}
    assert world.admit("AdmitEnterprise", 1).state == A.ACTIVE


def test_admit__in_a_completed_rollout__knows_no_quota(world: World) -> None:
    """Everybody is in; so is whoever comes back."""
    world.create(stages="- {ring: a, quota: 1}")
    world.do("Start")
    world.verify(1, 2)
    world.do("Complete")
    world.admit("RevokeAdmission", 1)

    world.admit("AdmitEnterprise", 1)

    assert world.active() == {enterprise(1), enterprise(2)}


@pytest.mark.parametrize("call", ["AdmitEnterprise", "RevokeAdmission"])
def test_admit_and_revoke__repeated_request__has_one_effect(world: World, call: str) -> None:
    """The answer of the first time; no reason, or no enterprise, is refused."""
    world.create(stages="- {ring: a}")
    world.do("Start")
    world.verify(1)
    first = world.admit(call, 1, request_id="r1")
    before = world.everything()

    assert world.admit(call, 1, request_id="r1") == first
    assert world.everything() == before
    assert refused(world.admit, call, 1, reason="").fields == {"reason": "REQUIRED"}
    assert refusal(world.admit, call, 99) == "NOT_FOUND"


# Explain


def test_explain__follows_the_decision_to_the_first_no(world: World) -> None:
    """Each question with the values that it was asked of."""
    world.create(stages="- {ring: half, percent: 50%, quota: 1}\n- {ring: all}")
    world.tell(1, verified=False)
    eligible = '{"==": [{"var": "verified"}, true]} with {"verified": %s, "enterprise": "enterprises/e1"}'
    begin = [
        ("NOT_KILLED", True, "enterprise-beta is not killed"),
        ("NOT_REVOKED", True, "record: WAITLISTED"),
        ("NOT_DENIED", True, "list: none"),
    ]
    assert steps(world, 1) == [*begin, ("ELIGIBLE", False, eligible % "false")]
    world.verify(1)
    assert steps(world, 1) == [
        *begin, ("ELIGIBLE", True, eligible % "true"), ("RUNNING", False, "the rollout is DRAFT")
    ]  # fmt: skip
    world.do("Start")
    world.verify(*range(2, 12))
    inside = next(each for each in world.admissions() if each.state == A.ACTIVE)
    full = next(each for each in world.admissions() if each.reason == "QUOTA_FULL")
    outside = next(each for each in world.admissions() if each.reason == "NOT_IN_SHARE")

    def last(admission: pb.Admission) -> tuple[str, bool, str]:
        return steps(world, int(admission.enterprise.removeprefix("enterprises/e")))[-1]

    assert last(inside) == ("HAS_SEAT", True, "seat 1, by BUCKET, in half")
    assert last(full) == ("WITHIN_QUOTA", False, "1 of 1 places are taken")
    assert last(outside) == (
        "WITHIN_STAGE", False, f"bucket {outside.bucket} of 10000; half takes those below 5000",
    )  # fmt: skip
    world.do("Kill")
    assert last(inside) == ("NOT_KILLED", False, "killed")


def test_explain__tells_versions_attributes_and_the_next_step(world: World) -> None:
    """Of plan, snapshot and admissions; what predicates see; what the enterprise can do."""
    world.create(stages="- {ring: a, quota: 1}")
    world.do("Start")
    world.verify(1, 2)
    attribute(world, 2, region="cn")

    found = world.admit("ExplainAdmission", 2)

    assert (found.admitted, found.admission.reason, found.admission.position) == (False, "QUOTA_FULL", 1)
    assert found.next_step == world.edition(2).next_step
    assert (found.plan_version, found.snapshot_version) == (1, world.snapshot().version)
    assert found.admissions_version == world.edition(2).admissions_version
    assert dict(found.attributes) == {"verified": "True", "enterprise": enterprise(2), "region": "cn"}
    assert refusal(world.admit, "ExplainAdmission", 99) == "NOT_FOUND"
    assert refusal(world.admit, "ExplainAdmission", 1, "rollouts/nowhere") == "NOT_FOUND"


def test_explain__a_prerequisite_that_is_off__decides_for_who_has_a_seat(world: World) -> None:
    """It is told as the last step, as the enterprise is told it."""
    world.create("rollouts/binding", "- {ring: b}", flag="binding")
    world.create(stages="- {ring: a}", requires="[binding]")
    world.do("Start")
    world.verify(1)

    closed = world.admit("ExplainAdmission", 1)
    world.do("Start", "rollouts/binding")
    opened = world.admit("ExplainAdmission", 1)

    assert (closed.admitted, closed.next_step) == (False, NEXT_STEPS[Reason.PREREQUISITE_OFF])
    assert [(each.rule, each.holds, each.detail) for each in (closed.steps[-1], opened.steps[-1])] == [
        ("PREREQUISITES_ON", False, "requires binding"), ("PREREQUISITES_ON", True, "requires binding")
    ]  # fmt: skip
    assert opened.admitted


# Attributes


def test_attributes__decide_who_is_eligible(world: World) -> None:
    """In every rollout, at once, and again when they are replaced."""
    world.create(
        stages="- {ring: a}", eligible='{and: [{"==": [{var: verified}, true]}, {"==": [{var: plan}, gold]}]}'
    )
    world.do("Start")
    world.verify(1)
    assert world.edition(1).reason == "NOT_ELIGIBLE"

    told = attribute(world, 1, plan="gold", region="cn")
    assert (told.verified, dict(told.attributes)) == (True, {"plan": "gold", "region": "cn"})
    assert world.edition(1).admitted
    attribute(world, 1, region="cn")

    assert world.edition(1).reason == "ELIGIBILITY_LOST"
    trail = [
        (each.enterprise, each.detail) for each in world.audit() if each.cause == "enterprise.attributes_set"
    ]
    assert trail == [
        (enterprise(1), '{"region": "cn"}'), (enterprise(1), '{"plan": "gold", "region": "cn"}')
    ]  # fmt: skip


def test_attributes__survive_what_accounts_tells(world: World) -> None:
    """They are the operators'."""
    world.create()
    world.verify(1)
    attribute(world, 1, plan="gold")
    world.tell(1, verified=False)

    assert world.admit("ExplainAdmission", 1).attributes["plan"] == "gold"


@pytest.mark.parametrize(
    "name", ["verified", "enterprise", "targetingKey", "bucket", "admissions", "a b", "1st", ""]
)
def test_attributes__that_are_ours_or_no_words__are_refused(world: World, name: str) -> None:
    """Nobody is verified by an attribute."""
    world.create()
    world.tell(1, verified=False)

    told = refused(attribute, world, 1, **{name: "true"})

    assert told.fields == {f"attributes[{name}]": "INVALID"}
    assert refusal(attribute, world, 99, plan="gold") == "NOT_FOUND"


def test_segments__by_attribute_and_by_name__open_their_stages(world: World) -> None:
    """Each stage adds its audience to those before."""
    world.create(
        stages="- {ring: 0, audience: {segment: staff}}\n- {ring: 1, audience: {segment: gold}}\n- {ring: 2}",
        segments='{staff: [enterprises/e1], gold: {"==": [{var: plan}, gold]}}',
    )
    world.verify(1, 2, 3)
    attribute(world, 2, plan="gold")
    world.do("Start")
    entered = [world.active()]
    for _ in range(2):
        world.do("Advance")
        entered.append(world.active())

    assert entered == [{enterprise(1)}, {enterprise(1), enterprise(2)}, {enterprise(n) for n in (1, 2, 3)}]
    sources = {each.enterprise: each.source for each in world.admissions()}
    assert sources == {enterprise(1): "SEGMENT", enterprise(2): "SEGMENT", enterprise(3): "BUCKET"}
