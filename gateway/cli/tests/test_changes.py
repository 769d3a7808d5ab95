"""`numerator change …`: propose, read, approve what was read."""

from textwrap import dedent

import pytest
from numerator.rollout.v1 import changes_pb2 as pb
from numerator.rollout.v1 import rollout_pb2

from gateway.cli.tests import made
from services.chassis.errors import Kind, ServiceError

HASH = "0f" * 32
NAME = f"{made.EDITION}/changes/c1"


def change(**more) -> pb.ChangeRequest:
    fields = {
        "name": NAME,
        "kind": "PLAN",
        "state": "IN_REVIEW",
        "plan": "rollout: enterprise-edition\n",
        "reason": "the first week was calm",
        "author": "clients/operator",
        "content_hash": HASH,
        "base_version": 3,
        "approvals_needed": 2,
        "approvers": ["clients/reviewer"],
        "create_time": made.ago(minutes=4),
    }
    return pb.ChangeRequest(**{**fields, **more})


SHOWN = dedent("""\
    enterprise-edition/c1  IN_REVIEW  changes plan v3
    by        clients/operator, 4m ago
    why       the first week was calm
    approved  1 of 2: clients/reviewer
    hash      0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
""")


@pytest.fixture
def compared(platform):
    """The platform that tells what the proposed plan changes."""
    platform.rollouts.answers["ApplyPlan"] = rollout_pb2.ApplyPlanResponse(
        rollout=made.rollout(),
        differences=[rollout_pb2.Difference(path="stages[1].percent", before="5%", after="10%")],
    )
    return platform


def test_propose__sends_the_plan_to_its_rollout(numerator, compared, tmp_path):
    """The plan itself says of which rollout it is; a time may be given at which it is applied."""
    (tmp_path / "plan.yaml").write_text("rollout: enterprise-edition\n")
    compared.rollouts.answers["CreateChangeRequest"] = change(schedule_time=made.ahead(hours=3))

    result = numerator(
        "change", "propose", str(tmp_path / "plan.yaml"), "-r", "calm", "--at", "2026-12-24T08:00+08:00"
    )

    assert result.exit_code == 0
    assert result.stdout.splitlines()[4] == "applies   in 3h 0m"
    assert result.stdout.endswith("~ stages[1].percent: 5% -> 10%\n")
    (request,) = compared.rollouts.asked("CreateChangeRequest")
    assert (request.parent, request.change_request.reason) == (made.EDITION, "calm")
    assert request.change_request.schedule_time.ToJsonString() == "2026-12-24T00:00:00Z"


def test_show__tells_what_it_changes(numerator, compared):
    """Who, why, how many have approved, the hash of what is approved, and what it would change now."""
    compared.rollouts.answers["GetChangeRequest"] = change()

    assert (
        numerator("change", "show", "enterprise-edition/c1").stdout
        == SHOWN + "~ stages[1].percent: 5% -> 10%\n"
    )


def test_show__of_what_could_not_be_applied(numerator, platform):
    """That the plan cannot be compared is no reason not to show the request."""
    platform.rollouts.answers["GetChangeRequest"] = change()
    platform.rollouts.answers["ApplyPlan"] = ServiceError(
        Kind.FAILED_PRECONDITION, "STAGE_IN_USE", "3-early is in use"
    )

    result = numerator("change", "show", NAME)

    assert (result.exit_code, result.stdout) == (0, SHOWN)
    assert result.stderr == "it could not be applied now: 3-early is in use\n"


def test_show__of_a_review_has_no_plan(numerator, platform):
    """A review of a broken glass changes nothing, and nothing is compared."""
    platform.rollouts.answers["GetChangeRequest"] = change(
        kind="REVIEW", plan="", content_hash="", approvers=[]
    )

    result = numerator("change", "show", NAME)

    assert result.stdout.startswith("enterprise-edition/c1  IN_REVIEW  review of a kill or rollback\n")
    assert "approved  0 of 2\n" in result.stdout


def test_list__shows_each_in_a_line(numerator, platform):
    """Newest first."""
    platform.rollouts.answers["ListChangeRequests"] = pb.ListChangeRequestsResponse(
        change_requests=[change()]
    )

    assert numerator("change", "list", "enterprise-edition").stdout == dedent("""\
        change                 kind  state      approved  by                when    why
        enterprise-edition/c1  PLAN  IN_REVIEW  1/2       clients/operator  4m ago  the first week was calm
    """)


@pytest.mark.parametrize(("given", "sent"), [(HASH, HASH), (HASH[:8], HASH), ("deadbeef", "deadbeef")])
def test_approve__is_of_what_was_read(numerator, platform, given, sent):
    """The hash is of what was read, not of what is there now: another one goes to the platform, which refuses it."""
    platform.rollouts.answers["GetChangeRequest"] = change()
    platform.rollouts.answers["ApproveChangeRequest"] = change(state="APPROVED")

    result = numerator("change", "approve", "enterprise-edition/c1", "--hash", given, "--as", "reviewer")

    assert result.stdout.startswith("enterprise-edition/c1  APPROVED  changes plan v3\n")
    assert [each.content_hash for each in platform.rollouts.asked("ApproveChangeRequest")] == [sent]


@pytest.mark.parametrize(
    ("options", "says"), [((), "say what you approve"), (("--hash", "0f0f"), "at least 8")]
)
def test_approve__needs_to_know_of_what(numerator, platform, options, says):
    """Away from a terminal nothing is approved that was not named."""
    result = numerator("change", "approve", "enterprise-edition/c1", *options)

    assert result.exit_code == 2
    assert says in result.stderr
    assert platform.rollouts.requests == []


def test_edit__replaces_the_plan(numerator, compared, tmp_path):
    """The new plan is sent; what has come of the approvals is told."""
    (tmp_path / "plan.yaml").write_text("rollout: enterprise-edition\n")
    compared.rollouts.answers["EditChangeRequest"] = change(approvers=[])

    result = numerator("change", "edit", "enterprise-edition/c1", str(tmp_path / "plan.yaml"))

    assert "approved  0 of 2\n" in result.stdout
    assert [each.plan for each in compared.rollouts.asked("EditChangeRequest")] == [
        "rollout: enterprise-edition\n"
    ]


@pytest.mark.parametrize(
    ("arguments", "method", "state"),
    [
        (("reject", "-r", "too early"), "RejectChangeRequest", "REJECTED"),
        (("cancel",), "CancelChangeRequest", "CANCELLED"),
        (("apply",), "ApplyChangeRequest", "APPLIED"),
    ],
)
def test_verb__is_called_and_told(numerator, platform, arguments, method, state):
    """Each verb is one call of the API."""
    platform.rollouts.answers[method] = change(state=state)
    verb, *rest = arguments

    result = numerator("change", verb, "enterprise-edition/c1", *rest)

    assert result.stdout.startswith(f"enterprise-edition/c1  {state}  changes plan v3\n")
    ((called, request),) = platform.rollouts.requests
    assert (called, request.name, getattr(request, "reason", "too early")) == (method, NAME, "too early")
