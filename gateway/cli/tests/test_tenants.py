"""`numerator tenant …`, `waitlist …` and `invite …`."""

from datetime import UTC, datetime, timedelta
from textwrap import dedent

import pytest
from numerator.rollout.v1 import admissions_pb2 as pb
from numerator.rollout.v1 import rollout_pb2

from gateway.cli.tests import made
from services.chassis.errors import Kind, ServiceError

TIANSHAN = "enterprises/tianshan"
RECORDS = [
    made.admission("tianshan"),
    made.admission("gone", "REVOKED", reason="REVOKED"),
    made.admission("later", "WAITLISTED", reason="QUOTA_FULL", position=2),
]


def text(block: str) -> str:
    return dedent(block).lstrip("\n")


@pytest.fixture
def one_rollout(platform):
    """A platform with one rollout, and one that is put away."""
    platform.rollouts.answers["ListRollouts"] = rollout_pb2.ListRolloutsResponse(
        rollouts=[made.rollout(), made.rollout(name="rollouts/old", state="ARCHIVED")]
    )
    return platform


def test_explain__shows_the_way_to_the_decision(numerator, one_rollout):
    """Each step with its values, which of them decides, what to do, and the versions that it holds for."""
    one_rollout.rollouts.answers["ExplainAdmission"] = pb.ExplainAdmissionResponse(
        admission=made.admission("tianshan", "WAITLISTED", reason="NOT_IN_SHARE"),
        steps=[
            pb.DecisionStep(rule="ELIGIBLE", holds=True, detail="verified, and plan is enterprise"),
            pb.DecisionStep(rule="IN_SHARE", detail="bucket 3120, the stage takes those under 500"),
            pb.DecisionStep(rule="PLACE_FREE", detail="41 of 60"),
        ],
        next_step="Wait for the next stage.",
        plan_version=3,
        snapshot_version=812,
        admissions_version=4711,
        attributes={"verified": "True", "plan": "enterprise"},
    )

    result = numerator("tenant", "explain", "tianshan")

    assert result.stdout == text("""
        tianshan  is not in  WAITLISTED: NOT_IN_SHARE, bucket 312

        rule           because
        ELIGIBLE    ✓  verified, and plan is enterprise
        IN_SHARE    ✗  bucket 3120, the stage takes those under 500  <- decides
        PLACE_FREE  ✗  41 of 60

        next   Wait for the next stage.
        known  plan=enterprise, verified=True
        by     plan v3, snapshot v812, admissions v4711
    """)
    (request,) = one_rollout.rollouts.asked("ExplainAdmission")
    assert (request.name, request.enterprise) == (made.EDITION, TIANSHAN)


def test_explain__of_one_who_is_in(numerator, platform):
    """With a rollout named, nothing else is asked."""
    platform.rollouts.answers["ExplainAdmission"] = pb.ExplainAdmissionResponse(
        admission=made.admission("tianshan"),
        admitted=True,
        steps=[pb.DecisionStep(rule="ELIGIBLE", holds=True)],
    )

    result = numerator("tenant", "explain", TIANSHAN, "--rollout", "enterprise-edition")

    assert result.stdout.startswith("tianshan  is in  ACTIVE, by BUCKET, stage 3-early, bucket 312\n")
    assert [method for method, _ in platform.rollouts.requests] == ["ExplainAdmission"]


@pytest.mark.parametrize(
    ("names", "says"),
    [([], "there is no rollout yet"), (["a", "b"], "which of a, b? Name one with --rollout")],
)
def test_rollout__must_be_named_where_there_is_not_one(numerator, platform, names, says):
    """Nothing is guessed."""
    platform.rollouts.answers["ListRollouts"] = rollout_pb2.ListRolloutsResponse(
        rollouts=[made.rollout(name=f"rollouts/{name}") for name in names]
    )

    result = numerator("tenant", "admit", "tianshan", "-r", "why")

    assert result.exit_code == 2
    assert says in result.stderr
    assert platform.rollouts.asked("AdmitEnterprise") == []


def test_list__shows_all_records(numerator, one_rollout):
    """All pages, in the API's order."""
    pages = {
        "": pb.ListAdmissionsResponse(admissions=RECORDS[:1], next_page_token="2"),
        "2": pb.ListAdmissionsResponse(admissions=RECORDS[1:]),
    }
    one_rollout.rollouts.answers["ListAdmissions"] = lambda request: pages[request.page_token]

    assert numerator("tenant", "list").stdout == text("""
        enterprise  state       why         place  by      stage    bucket  since
        tianshan    ACTIVE      -           -      BUCKET  3-early  312     2d 0h ago
        gone        REVOKED     REVOKED     -      -       -        312     -
        later       WAITLISTED  QUOTA_FULL  2      -       -        312     -
    """)
    assert {each.page_size for each in one_rollout.rollouts.asked("ListAdmissions")} == {500}


def test_waitlist__shows_who_waits(numerator, one_rollout):
    """Only those who wait."""
    one_rollout.rollouts.answers["ListAdmissions"] = pb.ListAdmissionsResponse(admissions=RECORDS)

    assert numerator("waitlist", "list").stdout == text("""
        enterprise  state       why         place  by  stage  bucket  since
        later       WAITLISTED  QUOTA_FULL  2      -   -      312     -
    """)


@pytest.mark.parametrize(("verb", "method"), [("admit", "AdmitEnterprise"), ("revoke", "RevokeAdmission")])
def test_admission__is_given_and_taken(numerator, one_rollout, verb, method):
    """The reason goes on record."""
    one_rollout.rollouts.answers[method] = made.admission("tianshan", source="MANUAL")

    result = numerator("tenant", verb, "tianshan", "--reason", "they asked")

    assert result.stdout == "tianshan  ACTIVE, by MANUAL, stage 3-early, bucket 312\n"
    (request,) = one_rollout.rollouts.asked(method)
    assert (request.enterprise, request.reason) == (TIANSHAN, "they asked")


def test_admit__tells_why_not(numerator, one_rollout):
    """A rule's no is told with its reason, and ends with 1."""
    one_rollout.rollouts.answers["AdmitEnterprise"] = ServiceError(
        Kind.FAILED_PRECONDITION, "QUOTA_FULL", "60 of 60 places are taken"
    )

    result = numerator("tenant", "admit", "tianshan", "-r", "why")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: 60 of 60 places are taken (QUOTA_FULL)\n"


@pytest.mark.parametrize(("verb", "kind"), [("allow", "ALLOW"), ("deny", "DENY")])
def test_lists__are_written_until_a_time(numerator, one_rollout, verb, kind):
    """A length of time counts from now."""
    one_rollout.rollouts.answers["SetListEntry"] = pb.ListEntry(
        enterprise=TIANSHAN, kind=kind, reason="why", expire_time=made.ahead(days=13, hours=23)
    )

    result = numerator("tenant", verb, "tianshan", "-r", "why", "--until", "14d")

    assert result.stdout == f"tianshan  {kind}, until 13d 23h: why\n"
    (request,) = one_rollout.rollouts.asked("SetListEntry")
    assert (request.parent, request.entry.enterprise) == (made.EDITION, TIANSHAN)
    assert pb.ListEntry.Kind.Name(request.entry.kind) == kind
    left = request.entry.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(days=13, hours=23) < left <= timedelta(days=14)


@pytest.mark.parametrize("time", ["soon", "2026-12-24T08:00", "14", "1y"])
def test_until__must_be_a_time(numerator, time):
    """What could be read in two ways is refused."""
    result = numerator("tenant", "deny", "tianshan", "-r", "why", "--until", time)

    assert result.exit_code == 2
    assert "is no time" in result.stderr


def test_unlist__and_lists(numerator, one_rollout):
    """An entry goes; the others are shown."""
    one_rollout.rollouts.answers["DeleteListEntry"] = pb.ListEntry(enterprise=TIANSHAN, kind="DENY")
    one_rollout.rollouts.answers["ListListEntries"] = pb.ListListEntriesResponse(
        entries=[pb.ListEntry(enterprise="enterprises/friend", kind="ALLOW", reason="partner")]
    )

    gone = numerator("tenant", "unlist", "tianshan")
    left = numerator("tenant", "lists")

    assert gone.stdout == "tianshan is on no list any more; it was DENY\n"
    assert left.stdout == text("""
        enterprise  list   ends   why
        friend      ALLOW  never  partner
    """)


def test_set__replaces_attributes(numerator, platform):
    """Every KEY=VALUE is sent; values may hold anything."""
    platform.rollouts.answers["SetEnterpriseAttributes"] = pb.EnterpriseAttributes(
        enterprise=TIANSHAN, verified=True, attributes={"plan": "enterprise", "note": "a=b"}
    )

    result = numerator("tenant", "set", "tianshan", "plan=enterprise", "note=a=b")

    assert result.stdout == "tianshan: note=a=b, plan=enterprise, verified=true\n"
    (request,) = platform.rollouts.asked("SetEnterpriseAttributes")
    assert (request.enterprise, dict(request.attributes)) == (TIANSHAN, {"plan": "enterprise", "note": "a=b"})


def test_invite__tells_the_token_once(numerator, one_rollout):
    """The token is printed when it is made, and never in a list."""
    invitation = pb.Invitation(
        name=f"{made.EDITION}/invitations/i1", enterprise=TIANSHAN, state="OPEN", expire_time=made.ahead(days=13),
        note="met in Urumqi",
    )  # fmt: skip
    told = pb.Invitation()
    told.CopyFrom(invitation)
    told.token = "t0ken"
    one_rollout.rollouts.answers["CreateInvitation"] = told
    one_rollout.rollouts.answers["ListInvitations"] = pb.ListInvitationsResponse(invitations=[invitation])

    created = numerator("invite", "create", "--enterprise", "tianshan", "--note", "met in Urumqi")
    listed = numerator("invite", "list")

    assert created.stdout == text("""
        enterprise-edition/i1  OPEN, for tianshan, ends in 13d 0h
        token: t0ken
        It is told here and never again.
    """)
    assert listed.stdout == text("""
        invitation             state  for       accepted by  ends       note
        enterprise-edition/i1  OPEN   tianshan  -            in 13d 0h  met in Urumqi
    """)
    (request,) = one_rollout.rollouts.asked("CreateInvitation")
    assert (request.invitation.enterprise, request.invitation.note) == (TIANSHAN, "met in Urumqi")
    assert not request.invitation.HasField("expire_time")


def test_invite__is_revoked_by_its_short_name(numerator, platform):
    """`rollout/invitation` is enough of a name."""
    platform.rollouts.answers["RevokeInvitation"] = pb.Invitation(
        name=f"{made.EDITION}/invitations/i1", state="REVOKED", expire_time=made.ahead(days=13)
    )

    result = numerator("invite", "revoke", "enterprise-edition/i1")

    assert result.stdout == "enterprise-edition/i1  REVOKED, for whoever has the token, ends in 13d 0h\n"
    assert [each.name for each in platform.rollouts.asked("RevokeInvitation")] == [
        f"{made.EDITION}/invitations/i1"
    ]
