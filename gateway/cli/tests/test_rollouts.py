"""`numerator rollout …`: what is asked of the API, what is printed, and how it ends."""

import json
from textwrap import dedent

import pytest
from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import serving_pb2

from gateway.cli.tests import made
from services.chassis.errors import FieldViolation, Kind, ServiceError, invalid_fields


def text(block: str) -> str:
    return dedent(block).lstrip("\n")


@pytest.fixture
def plan(tmp_path):
    """The file of a plan."""
    file = tmp_path / "plan.yaml"
    file.write_text("rollout: enterprise-edition\nstages: []\n")
    return file


DIFFERENCES = [
    pb.Difference(path="stages[1].percent", before="5%", after="10%"),
    pb.Difference(path="stages[2]", before="none", after="{ring: 4-wide, percent: 25%}"),
    pb.Difference(path="requires[0]", before="account-binding", after=""),
]


# Plans


def test_validate__says_that_a_plan_is_valid(numerator, platform, plan):
    """A valid plan is told to be so, with what it would mean; nothing is written."""
    platform.rollouts.answers["ApplyPlan"] = pb.ApplyPlanResponse(
        rollout=made.rollout(), differences=DIFFERENCES, needs_approvals=1
    )

    result = numerator("rollout", "validate", str(plan))

    assert result.exit_code == 0
    assert result.stdout == (
        "enterprise-edition: valid, 2 stages; 3 differences from the plan in force, which 1 other must approve\n"
    )
    (request,) = platform.rollouts.asked("ApplyPlan")
    assert request.validate_only
    assert request.plan == plan.read_text()


def test_validate__tells_mistakes_as_compilers_do(numerator, platform, plan):
    """Each mistake has file, line and field as they are in the file, so that editors jump there."""
    platform.rollouts.answers["ApplyPlan"] = invalid_fields(
        [
            FieldViolation("stages[1].percent", "line 12: must be a percentage"),
            FieldViolation("guardrails[0].min_samples", "line 20: must be a whole number"),
        ]
    )

    result = numerator("rollout", "validate", str(plan))

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"{plan}:12: stages[1].percent: must be a percentage\n"
        f"{plan}:20: guardrails[0].min_samples: must be a whole number\n"
    )


def test_validate__says_of_a_file_that_is_none(numerator, tmp_path):
    """A file that is not there, or no text, is a wrong call."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    absent = numerator("rollout", "validate", str(tmp_path / "none.yaml"))
    binary = numerator("rollout", "validate", str(tmp_path / "binary"))

    assert (absent.exit_code, binary.exit_code) == (2, 2)
    assert "does not exist" in absent.stderr
    assert "is no UTF-8" in binary.stderr


@pytest.mark.parametrize(("option", "code"), [((), 0), (("--exit-code",), 4)])
def test_diff__shows_what_changes(numerator, platform, plan, option, code):
    """Each difference is a line; with --exit-code a script can tell."""
    platform.rollouts.answers["ApplyPlan"] = pb.ApplyPlanResponse(
        rollout=made.rollout(), differences=DIFFERENCES
    )

    result = numerator("rollout", "diff", str(plan), *option)

    assert result.exit_code == code
    assert result.stdout == text("""
        ~ stages[1].percent: 5% -> 10%
        + stages[2]: {ring: 4-wide, percent: 25%}
        - requires[0]: account-binding
        enterprise-edition: 3 differences from the plan in force
    """)


def test_diff__ends_with_0_for_the_same(numerator, platform, plan):
    """The plan in force is no difference."""
    platform.rollouts.answers["ApplyPlan"] = pb.ApplyPlanResponse(rollout=made.rollout())

    result = numerator("rollout", "diff", str(plan), "--exit-code")

    assert (result.exit_code, result.stdout) == (0, "enterprise-edition: the same as the plan in force\n")


def test_apply__puts_a_plan_in_force(numerator, platform, plan):
    """The plan is sent with the etag and the key of the caller's, and what it did is told."""
    platform.rollouts.answers["ApplyPlan"] = pb.ApplyPlanResponse(
        rollout=made.rollout(plan_version=4), differences=DIFFERENCES[:1]
    )

    result = numerator("rollout", "apply", str(plan), "--etag", "e7", "--request-id", "night-1")

    assert result.exit_code == 0
    assert result.stdout == text("""
        ~ stages[1].percent: 5% -> 10%
        enterprise-edition  RUNNING  stage 3-early, 5%, in 41, waiting 12  plan version 4 is in force
    """)
    (request,) = platform.rollouts.asked("ApplyPlan")
    assert (request.etag, request.request_id, request.validate_only) == ("e7", "night-1", False)


def test_apply__dry_only_compares(numerator, platform, plan):
    """A dry run has the platform check and compare, and change nothing."""
    platform.rollouts.answers["ApplyPlan"] = pb.ApplyPlanResponse(
        rollout=made.rollout(state="DRAFT"), created=True, differences=DIFFERENCES
    )

    result = numerator("rollout", "apply", str(plan), "--dry-run")

    assert (result.exit_code, result.stdout) == (0, "enterprise-edition: a new rollout\n")
    assert [each.validate_only for each in platform.rollouts.asked("ApplyPlan")] == [True]


def test_apply__says_how_to_propose(numerator, platform, plan):
    """A change that needs approvals is refused with the way to get them."""
    platform.rollouts.answers["ApplyPlan"] = ServiceError(
        Kind.FAILED_PRECONDITION, "CHANGE_NEEDS_APPROVAL", "the plan in force asks for 1 approval of changes"
    )

    result = numerator("rollout", "apply", str(plan))

    assert result.exit_code == 1
    assert result.stderr == text("""
        error: the plan in force asks for 1 approval of changes (CHANGE_NEEDS_APPROVAL)
        propose it: numerator change propose FILE --reason …
    """)


def test_plans__lists_versions_and_prints_one(numerator, platform):
    """Versions are listed; one of them is printed as it was written, to be applied again."""
    versions = [
        pb.PlanVersion(version=2, plan="rollout: b\n", sha256="ab" * 32, author="clients/operator", create_time=made.ago(hours=1)),
        pb.PlanVersion(version=1, plan="rollout: a\n", sha256="cd" * 32, author="clients/reviewer", create_time=made.ago(days=3)),
    ]  # fmt: skip
    platform.rollouts.answers["ListPlans"] = pb.ListPlansResponse(plans=versions)

    listed = numerator("rollout", "plans", "enterprise-edition")
    printed = numerator("rollout", "plans", "enterprise-edition", "--text", "1")
    absent = numerator("rollout", "plans", "enterprise-edition", "--text", "7")

    assert listed.stdout == text("""
        version  by                when       sha256
        2        clients/operator  1h 0m ago  abababababab
        1        clients/reviewer  3d 0h ago  cdcdcdcdcdcd
    """)
    assert printed.stdout == "rollout: a\n"
    assert absent.exit_code == 2


def test_export__prints_the_plan_in_force(numerator, platform):
    """As it was written, to be kept in a file."""
    platform.rollouts.answers["GetRollout"] = pb.Rollout(
        name="rollouts/enterprise-edition", plan="rollout: a  # ours\n"
    )

    assert numerator("rollout", "export", "enterprise-edition").stdout == "rollout: a  # ours\n"


@pytest.mark.parametrize("dry", [False, True])
def test_promote__applies_the_plan_elsewhere(numerator, platform, environment, dry):
    """The plan of one platform is put in force on another; here both are one. A dry run only compares."""
    platform.rollouts.answers["GetRollout"] = pb.Rollout(
        name="rollouts/enterprise-edition", plan="rollout: a\n"
    )
    platform.rollouts.answers["ApplyPlan"] = pb.ApplyPlanResponse(
        rollout=pb.Rollout(name="rollouts/enterprise-edition"), created=True
    )
    target = ["--to", platform.url, "--to-secret-file", environment["NUMERATOR_CLIENT_SECRET_FILE"]]

    result = numerator("rollout", "promote", "enterprise-edition", *target, *(["--dry-run"] if dry else []))

    assert result.exit_code == 0
    (request,) = platform.rollouts.asked("ApplyPlan")
    assert (request.plan, request.validate_only) == ("rollout: a\n", dry)


def test_preview__tells_what_the_guardrails_would_say(numerator, platform):
    """The same table as that of looks that were taken."""
    platform.rollouts.answers["PreviewAnalysis"] = pb.Analysis(
        time=made.ago(),
        stage="ring-1",
        outcome="PASS",
        action="NONE",
        reason="nothing speaks against going on",
    )

    assert "nothing speaks against going on" in numerator("rollout", "preview", "enterprise-edition").stdout


def test_snapshot__is_printed_for_people(numerator, platform):
    """The versions, and the document."""
    platform.rollouts.answers["ShowSnapshot"] = serving_pb2.ShowSnapshotResponse(
        version=7, admissions_version=9, sha256="ab" * 32, document='{"flags":{}}'
    )

    printed = numerator("rollout", "snapshot").stdout

    assert printed == 'snapshot v7, admissions v9, abababababab\n{\n  "flags": {}\n}\n'


# Where they stand


def test_list__shows_each_in_a_line(numerator, platform):
    """All rollouts, over as many pages as there are."""
    pages = {
        "": pb.ListRolloutsResponse(rollouts=[made.rollout()], next_page_token="2"),
        "2": pb.ListRolloutsResponse(
            rollouts=[
                made.rollout(name="rollouts/panel", state="DRAFT", stage="", basis_points=0),
                made.rollout(name="rollouts/old", killed=True),
            ]
        ),
    }
    platform.rollouts.answers["ListRollouts"] = lambda request: pages[request.page_token]

    result = numerator("rollout", "list")

    assert result.stdout == text("""
        rollout             state             stage    share  in  waiting  plan  changed
        enterprise-edition  RUNNING           3-early  5%     41  12       v3    3m ago
        panel               DRAFT             -        0%     41  12       v3    3m ago
        old                 KILLED (RUNNING)  3-early  5%     41  12       v3    3m ago
    """)


def test_list__says_that_there_is_none(numerator, platform):
    """An empty list is a sentence, not a header."""
    platform.rollouts.answers["ListRollouts"] = pb.ListRolloutsResponse()

    assert numerator("rollout", "list").stdout == "there is no rollout\n"


def test_list__as_json_is_the_apis_own(numerator, platform):
    """JSON is what the API answers, as one page."""
    platform.rollouts.answers["ListRollouts"] = pb.ListRolloutsResponse(rollouts=[made.rollout()])

    answer = json.loads(numerator("rollout", "list", "-o", "json").stdout)

    assert list(answer) == ["rollouts"]
    assert answer["rollouts"][0]["basisPoints"] == 500
    assert answer["rollouts"][0]["stages"][1]["limits"]["requestsPerMinute"] == 600


def test_status__tells_all_that_matters(numerator, platform):
    """Stage, numbers, gates, analysis, convergence and the next step, on one screen."""
    platform.rollouts.answers["GetRolloutStatus"] = made.status()

    result = numerator("rollout", "status", "enterprise-edition")

    assert result.stdout == text("""
        enterprise-edition  RUNNING  stage 3-early (2 of 2), for 2h 5m

        flag      enterprise-beta
        takes     5% of everyone, quota 60
        limits    600 requests/min, 20 accounts
        in        41, 12 waiting
        plan      version 3, by clients/operator
        gateways  converged 3/3 at v812 in 9 ms
        next      advances by itself after time

        gate          how far
        TIME       ✗  2h of 72h, in 2d 21h
        EXPOSURES  ✓  31 of 20

        analysis  PASS, 1m ago: nothing got worse
        metric                kind             verdict  in     control  of     why
        publish.error_rate    GUARDRAIL        PASS     0.42%  0.31%    41/38  at least 0.4 points better or worse
        binding.success_rate  SIGNAL, dry run  NO_DATA  -      -        0/0    nobody bound an account
    """)


def test_status__tells_why_it_stopped_and_who_is_behind(numerator, platform):
    """A rollout that a guardrail stopped says so first; gateways that are behind are named."""
    platform.rollouts.answers["GetRolloutStatus"] = pb.RolloutStatus(
        rollout=made.rollout(
            state="ROLLED_BACK", cause="GUARDRAIL", reason="publish.error_rate is 4 points worse", killed=True
        ),
        convergence=made.convergence("gateway-2"),
        next_step="restart it when the cause is mended",
    )

    shown = numerator("rollout", "status", "enterprise-edition").stdout

    assert shown.startswith("enterprise-edition  KILLED (ROLLED_BACK)  stage 3-early (2 of 2), for 2h 5m\n")
    assert "because   GUARDRAIL: publish.error_rate is 4 points worse\n" in shown
    assert "gateways  NOT converged: 2/3 at v812; behind: gateway-2\n" in shown


def test_status__of_a_draft_has_neither_stage_nor_gates(numerator, platform):
    """What is not there yet is not printed."""
    draft = made.rollout(state="DRAFT", stage="", basis_points=0)
    draft.ClearField("stage_time")
    platform.rollouts.answers["GetRolloutStatus"] = pb.RolloutStatus(rollout=draft, next_step="start it")

    assert numerator("rollout", "status", "enterprise-edition").stdout == text("""
        enterprise-edition  DRAFT

        flag      enterprise-beta
        in        41, 12 waiting
        plan      version 3, by clients/operator
        gateways  no gateway has reported lately
        next      start it
    """)


def test_analyses__lists_the_newest(numerator, platform):
    """As many as were asked for, newest first."""
    platform.rollouts.answers["ListAnalyses"] = pb.ListAnalysesResponse(
        analyses=[
            pb.Analysis(time=made.ago(minutes=1), stage="3-early", outcome="FAIL", action="ROLLBACK", reason="it is worse"),
        ],
        next_page_token="more",
    )  # fmt: skip

    result = numerator("rollout", "analyses", "enterprise-edition", "--limit", "1")

    assert result.stdout == text("""
        when    stage    outcome  action    why
        1m ago  3-early  FAIL     ROLLBACK  it is worse
    """)
    assert [each.page_size for each in platform.rollouts.asked("ListAnalyses")] == [1]


# What would happen


SIMULATED = pb.SimulateRolloutResponse(
    admissions=[
        pb.SimulatedAdmission(enterprise="enterprises/tianshan", before="WAITLISTED", after="ACTIVE", rule="BUCKET", stage="4-wide", bucket=812),
        pb.SimulatedAdmission(enterprise="enterprises/unsure", before="ACTIVE", after="SUSPENDED", rule="NOT_VERIFIED", bucket=90),
        pb.SimulatedAdmission(enterprise="enterprises/moved", before="ACTIVE", after="ACTIVE", rule="ALLOW", stage="4-wide", bucket=7),
        pb.SimulatedAdmission(enterprise="enterprises/new", after="WAITLISTED", rule="QUOTA_FULL", bucket=3000),
    ],
    entering_count=38,
    leaving_count=2,
    admitted_count=77,
    quota=100,
    stage="4-wide",
    by_rule={"BUCKET": 70, "ALLOW": 7, "QUOTA_FULL": 12},
)  # fmt: skip


def test_simulate__tells_who_enters_and_who_leaves(numerator, platform):
    """Now versus then, by rule, against the quota; and each enterprise of which something changes."""
    platform.rollouts.answers["SimulateRollout"] = SIMULATED

    result = numerator("rollout", "simulate", "enterprise-edition", "--verb", "advance", "--exit-code")

    assert result.exit_code == 4
    assert result.stdout == text("""
        stage 4-wide: 38 enter, 2 leave; in now 41, then 77, quota 100
        by rule: BUCKET 70, QUOTA_FULL 12, ALLOW 7

        what    enterprise  now         then        rule          stage   bucket
        enters  tianshan    WAITLISTED  ACTIVE      BUCKET        4-wide  812
        leaves  unsure      ACTIVE      SUSPENDED   NOT_VERIFIED  -       90
        stays   moved       ACTIVE      ACTIVE      ALLOW         4-wide  7
        -       new         -           WAITLISTED  QUOTA_FULL    -       3000
    """)
    (request,) = platform.rollouts.asked("SimulateRollout")
    assert (request.name, request.verb) == (made.EDITION, "advance")


def test_simulate__of_a_file_names_the_plan_alone(numerator, platform, plan):
    """A plan says itself of which rollout it is; the same decision is no difference."""
    platform.rollouts.answers["SimulateRollout"] = pb.SimulateRolloutResponse(admitted_count=5)

    result = numerator("rollout", "simulate", str(plan), "--exit-code")

    assert (result.exit_code, result.stdout) == (0, "0 enter, 0 leave; in now 5, then 5\n")
    (request,) = platform.rollouts.asked("SimulateRollout")
    assert (request.name, request.plan) == ("", plan.read_text())


def test_simulate__asks_of_the_enterprises_in_a_file(numerator, platform, tmp_path):
    """All of them, in parts that the API takes, over all pages."""
    named = [f"tenant-{number}" for number in range(1001)]
    (tmp_path / "tenants").write_text("\n".join(named))

    def simulate(request):
        pages = {"": "2", "2": ""} if len(request.enterprises) == 1000 else {"": ""}
        found = [pb.SimulatedAdmission(enterprise=request.enterprises[0])]
        return pb.SimulateRolloutResponse(admissions=found, next_page_token=pages[request.page_token])

    platform.rollouts.answers["SimulateRollout"] = simulate

    result = numerator(
        "rollout", "simulate", "enterprise-edition", "--tenants", str(tmp_path / "tenants"), "-o", "json"
    )

    assert [len(each.enterprises) for each in platform.rollouts.asked("SimulateRollout")] == [1000, 1000, 1]
    assert [each["enterprise"] for each in json.loads(result.stdout)["admissions"]] == [
        "enterprises/tenant-0",
        "enterprises/tenant-0",
        "enterprises/tenant-1000",
    ]


def test_simulate__says_of_a_file_that_is_not_there(numerator):
    """A mistyped path is not taken for a rollout's name."""
    result = numerator("rollout", "simulate", "plans/none.yaml")

    assert result.exit_code == 2
    assert "there is no file plans/none.yaml" in result.stderr


# Verbs


@pytest.mark.parametrize(
    ("arguments", "method", "fields"),
    [
        (("arm",), "ArmRollout", {}),
        (("start",), "StartRollout", {}),
        (("advance",), "AdvanceRollout", {}),
        (("advance", "--skip-hold", "-r", "why"), "AdvanceRollout", {"skip_hold": True, "reason": "why"}),
        (("jump", "4-wide", "-r", "why"), "JumpRollout", {"stage": "4-wide", "reason": "why"}),
        (("pause", "--reason", "why"), "PauseRollout", {"reason": "why"}),
        (("resume",), "ResumeRollout", {}),
        (("rollback", "-r", "why"), "RollbackRollout", {"reason": "why"}),
        (("rollback", "-r", "why", "--to-start"), "RollbackRollout", {"reason": "why", "to_start": True}),
        (("restart",), "RestartRollout", {}),
        (("kill", "-r", "why"), "KillRollout", {"reason": "why"}),
        (("unkill",), "UnkillRollout", {}),
        (("complete",), "CompleteRollout", {}),
        (("archive",), "ArchiveRollout", {}),
    ],
)
def test_verb__is_called_and_told(numerator, platform, arguments, method, fields):
    """Each verb is one call of the API, with the caller's etag and a key; where the rollout stands then is a line."""
    platform.rollouts.answers[method] = made.rollout()
    verb, *rest = arguments

    result = numerator("rollout", verb, "enterprise-edition", *rest, "--etag", "e7")

    assert result.stdout == "enterprise-edition  RUNNING  stage 3-early, 5%, in 41, waiting 12\n"
    ((called, request),) = platform.rollouts.requests
    assert called == method
    assert (request.name, request.etag) == (made.EDITION, "e7")
    assert {name: getattr(request, name) for name in fields} == fields
    assert len(request.request_id) == 36


def test_approve__names_the_gate(numerator, platform):
    """What is approved is said, and told."""
    platform.rollouts.answers["ApproveRollout"] = made.rollout()

    result = numerator("rollout", "approve", "enterprise-edition", "start", "--etag", "e7")

    assert result.stdout == (
        "enterprise-edition  RUNNING  stage 3-early, 5%, in 41, waiting 12  you approve its start\n"
    )
    ((called, request),) = platform.rollouts.requests
    assert (called, request.gate, request.etag) == ("ApproveRollout", "start", "e7")


@pytest.mark.parametrize(
    ("stage", "gate", "told"), [("3-early", "3-early", "that it leaves 3-early"), ("", "start", "its start")]
)
def test_approve__takes_what_waits_now(numerator, platform, stage, gate, told):
    """Without a gate, the start is approved of a rollout that has not started, and else that it leaves its stage."""
    platform.rollouts.answers["GetRollout"] = made.rollout(stage=stage)
    platform.rollouts.answers["ApproveRollout"] = made.rollout()

    result = numerator("rollout", "approve", "rollouts/enterprise-edition", "--as", "reviewer")

    assert result.stdout.endswith(f"  you approve {told}\n")
    assert [each.gate for each in platform.rollouts.asked("ApproveRollout")] == [gate]
    assert platform.accounts.logins == ["reviewer"]


def test_verb__dry_decides_without_doing(numerator, platform):
    """What a verb would decide is simulated; nothing else is called."""
    platform.rollouts.answers["SimulateRollout"] = SIMULATED

    result = numerator("rollout", "jump", "enterprise-edition", "4-wide", "-r", "why", "--dry-run")

    assert result.stdout.startswith("stage 4-wide: 38 enter, 2 leave;")
    ((called, request),) = platform.rollouts.requests
    assert (called, request.verb, request.stage) == ("SimulateRollout", "jump", "4-wide")


def test_verb__dry_shows_the_request_that_nobody_simulates(numerator, platform):
    """A verb that decides nothing is shown, and not sent."""
    told = numerator("rollout", "kill", "enterprise-edition", "-r", "why", "--dry-run", "-o", "json")

    assert json.loads(told.stdout) == {
        "method": "POST",
        "url": f"{platform.url}/v1/rollouts/enterprise-edition:kill",
        "body": {"reason": "why"},
    }
    assert platform.rollouts.requests == []


def test_verb__needs_a_reason(numerator, platform):
    """Where the record needs a reason, a call without one is wrong."""
    result = numerator("rollout", "kill", "enterprise-edition")

    assert result.exit_code == 2
    assert "--reason" in result.stderr
    assert platform.rollouts.requests == []


def test_verb__tells_a_refusal_as_json(numerator, platform):
    """With -o json the problem document is JSON too, on stderr."""
    platform.rollouts.answers["AdvanceRollout"] = ServiceError(
        Kind.FAILED_PRECONDITION, "HOLD_NOT_MET", "the stage 3-early holds"
    )

    result = numerator("rollout", "advance", "enterprise-edition", "-o", "json")

    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(result.stderr)["reason"] == "HOLD_NOT_MET"


@pytest.mark.parametrize("name", ["Enterprise", "rollouts/", "a/b", "enterprises/x", "ü", "a b"])
def test_name__that_is_none_is_a_wrong_call(numerator, platform, name):
    """What cannot be a rollout's name is not sent."""
    result = numerator("rollout", "status", name)

    assert result.exit_code == 2
    assert "is no name" in result.stderr
    assert platform.rollouts.requests == []
