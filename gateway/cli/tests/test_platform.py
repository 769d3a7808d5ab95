"""`numerator flags …`, `audit …` and `replicas`."""

import json
from textwrap import dedent

import pytest
from numerator.rollout.v1 import audit_pb2, flags_pb2

from gateway.cli.tests import made
from services.chassis.errors import FieldViolation, invalid_fields


def text(block: str) -> str:
    return dedent(block).lstrip("\n")


@pytest.fixture
def document(tmp_path):
    """The file of some flags."""
    file = tmp_path / "flags.yaml"
    file.write_text("flags: {}\n")
    return file


@pytest.mark.parametrize("dry", [False, True])
def test_flags__are_applied(numerator, platform, document, dry):
    """The file is sent as it is; a dry run has it checked only."""
    platform.rollouts.answers["ApplyFlags"] = flags_pb2.ApplyFlagsResponse(
        changed=["panel"], deleted=["old", "older"]
    )

    result = numerator("flags", "apply", str(document), "--prune", *(["--dry-run"] if dry else []))

    assert result.stdout == text("""
        ~ panel
        - old
        - older
        1 flag new or changed, 2 deleted
    """)
    (request,) = platform.rollouts.asked("ApplyFlags")
    assert (request.document, request.prune, request.validate_only) == ("flags: {}\n", True, dry)


def test_flags__tells_the_line_of_a_mistake(numerator, platform, document):
    """As with plans."""
    platform.rollouts.answers["ApplyFlags"] = invalid_fields(
        [FieldViolation("flags.panel.percent", "line 3: must be a percentage")]
    )

    result = numerator("flags", "apply", str(document))

    assert (result.exit_code, result.stderr) == (
        1,
        f"{document}:3: flags.panel.percent: must be a percentage\n",
    )


def test_flags__are_listed_and_deleted(numerator, platform):
    """How each is decided; and what a deleted one was."""
    definition = {"state": "ENABLED", "defaultVariant": "off", "targeting": {"==": [1, 1]}}
    flag = flags_pb2.Flag(
        name="flags/panel", definition=json.dumps(definition), update_time=made.ago(hours=5)
    )
    plain = flags_pb2.Flag(
        name="flags/plain", definition='{"state": "DISABLED"}', update_time=made.ago(hours=5)
    )
    platform.rollouts.answers["ListFlags"] = flags_pb2.ListFlagsResponse(flags=[flag, plain])
    platform.rollouts.answers["DeleteFlag"] = plain

    listed = numerator("flags", "list")
    deleted = numerator("flags", "delete", "plain")

    assert listed.stdout == text("""
        flag   state     default  decided        changed
        panel  ENABLED   off      by rule        5h 0m ago
        plain  DISABLED  -        for everybody  5h 0m ago
    """)
    assert deleted.stdout == 'plain is deleted; it was {"state": "DISABLED"}\n'
    assert [each.name for each in platform.rollouts.asked("DeleteFlag")] == ["flags/plain"]


def test_audit__lists_the_newest(numerator, platform):
    """Who did what to what and why, as many as were asked for, of one rollout."""
    moved = {"path": "/stage", "op": "replace", "before": "2-invited", "value": "3-early"}
    details = {
        "admission.granted": {"reason": "they asked"},
        "rollout.advanced": {
            "changed": [moved],
            "reason": "calm",
            "skip_hold": True,
            "entered": ["enterprises/a"],
        },
        "plan.changed": {"differences": ["stages[1].percent: 5% -> 10%", "x" * 100]},
        "rollout.resumed": {},
    }
    platform.rollouts.answers["ListAuditEvents"] = audit_pb2.ListAuditEventsResponse(
        events=[
            audit_pb2.AuditEvent(
                sequence=1204, time=made.ago(minutes=9), actor="clients/operator", cause=cause, rollout=made.EDITION,
                enterprise="enterprises/tianshan" if cause.startswith("admission") else "", detail=json.dumps(detail),
            )
            for cause, detail in details.items()
        ],
        next_page_token="more",
    )  # fmt: skip

    result = numerator("audit", "list", "--rollout", "enterprise-edition", "--limit", "4")

    assert result.stdout == text(f"""
        number  when    who               what               of                           detail
        1204    9m ago  clients/operator  admission.granted  enterprise-edition tianshan  they asked
        1204    9m ago  clients/operator  rollout.advanced   enterprise-edition           calm; stage: 2-invited -> 3-early; skip_hold: True
        1204    9m ago  clients/operator  plan.changed       enterprise-edition           stages[1].percent: 5% -> 10%; {"x" * 60}…
        1204    9m ago  clients/operator  rollout.resumed    enterprise-edition
    """)
    assert [(each.rollout, each.page_size) for each in platform.rollouts.asked("ListAuditEvents")] == [
        (made.EDITION, 4)
    ]


def test_audit__verifies(numerator, platform):
    """A trail that is as it was written ends with 0."""
    platform.rollouts.answers["VerifyAudit"] = audit_pb2.VerifyAuditResponse(
        ok=True, checked_count=1204, anchored_count=1200, head="ab" * 32
    )

    result = numerator("audit", "verify")

    assert result.exit_code == 0
    assert result.stdout == (
        "the trail is as it was written: 1204 events computed anew, 1200 anchors compared, head abababababab\n"
    )


def test_audit__finds_what_was_rewritten(numerator, platform):
    """Each mistake is a line, and scripts can tell."""
    platform.rollouts.answers["VerifyAudit"] = audit_pb2.VerifyAuditResponse(
        checked_count=7, mistakes=[audit_pb2.AuditMistake(sequence=3, what="its hash is another")]
    )

    result = numerator("audit", "verify")

    assert result.exit_code == 1
    assert result.stdout == text("""
        event 3: its hash is another
        the trail is NOT as it was written: 7 events computed anew, 0 anchors compared, head -
    """)


def test_replicas__shows_who_is_behind(numerator, platform):
    """In a sentence, and each gateway in a line."""
    platform.rollouts.answers["ListReplicas"] = made.convergence("gateway-2")

    assert numerator("replicas").stdout == text("""
        NOT converged: 2/3 at v812; behind: gateway-2

        gateway       snapshot  after  admissions  after  heard
        gateway-1  ✓  v812      9 ms   v4711       4 ms   1m ago
        gateway-2  ✗  v811      9 ms   v4711       4 ms   1m ago
        gateway-3  ✓  v812      9 ms   v4711       4 ms   1m ago
    """)
