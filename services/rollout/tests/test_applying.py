"""Plans are applied: what they make and change, what is refused, and which versions are kept."""

from datetime import timedelta

import grpc
import pytest
from numerator.rollout.v1 import rollout_pb2 as pb

from services.rollout.tests.world import (
    EDITION,
    FLAG,
    OTHER,
    STAGES,
    World,
    enterprise,
    plan,
    refusal,
    refused,
)


def test_apply__new__is_a_draft_that_admits_nobody(world: World) -> None:
    """Everything is new, and told; those who are known wait."""
    world.verify(1)
    text = plan(stages="- {ring: a, percent: 5%, quota: 3}", start="2026-03-01T08:00+01:00")

    applied = world.apply(text)

    made = applied.rollout
    assert applied.created
    assert (made.name, made.flag, made.state, made.author) == (
        EDITION,
        FLAG,
        pb.Rollout.DRAFT,
        "operators/tester",
    )
    assert (made.stage, made.basis_points, made.admitted_count, made.waiting_count) == ("", 0, 0, 1)
    assert (made.plan, made.plan_version) == (text, 1)
    assert made.start_time.ToDatetime().isoformat() == "2026-03-01T07:00:00"
    told = {each.path: (each.before, each.after) for each in applied.differences}
    assert told["rollout"] == ("none", "edition")
    assert told["stages[0]"][0] == "none"
    assert made == world.get()
    assert world.edition(1).reason == "ROLLOUT_NOT_RUNNING"


def test_stages__are_told_as_the_plan_means_them(world: World) -> None:
    """Audience and hold in words, shares in basis points, limits with those that stand for all."""
    stages = """
  - {ring: 0, audience: {segment: staff}, limits: {bound_accounts: 3}}
  - {ring: 1-invited, audience: {waitlist: invited}, quota: 25, hold: {time: 90m, approvals: 2}}
  - {ring: joined, audience: {waitlist: joined}, hold: {exposures: 5, window: "Mon-Thu 08-16"}}
  - {ring: named, audience: {tenants: [enterprises/a, enterprises/b]}}
  - {ring: some, percent: 12.5%}
"""
    made = world.create(
        stages=stages,
        segments="{staff: [enterprises/a]}",
        limits="{default: {requests_per_min: 60, live_placements: 2}}",
    )

    told = [(each.id, each.basis_points, each.quota, each.audience, each.hold) for each in made.stages]
    assert told == [
        ("ring-0", 10_000, 0, "segment staff", ""),
        ("1-invited", 10_000, 25, "waitlist invited", "1h30m, 2 approvals"),
        ("joined", 10_000, 0, "waitlist joined", "5 exposures, window"),
        ("named", 10_000, 0, "2 named enterprises", ""),
        ("some", 1250, 0, "everyone", ""),
    ]
    limits = [
        (each.limits.requests_per_minute, each.limits.bound_accounts, each.limits.live_placements)
        for each in made.stages
    ]
    assert limits == [(0, 3, 0), *[(60, 0, 2)] * 4]


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("", "plan", ""),
        (
            "rollout: edition\nstages:\n  - {ring: a, percent: 5}",
            "stages[0].percent",
            "line 3: must be a percentage",
        ),
        (
            plan(stages="- {ring: a, percent: 5%}\n- {ring: a, percent: 4%}"),
            "stages[1].ring",
            "line 5: is the id a of the stage in line 4, too",
        ),
        (plan(stages="- {ring: start}"), "stages[0].ring", "line 4: must not be start"),
        (plan(colour="red"), "colour", "line 3: is not known here"),
    ],
)
def test_apply__mistakes__are_told_by_line_and_field(world: World, text: str, field: str, words: str) -> None:
    """And nothing is stored of such a plan."""
    before = world.everything()

    wrong = refused(world.apply, text)

    assert (wrong.kind, field in wrong.fields) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert words in wrong.text
    assert world.everything() == before


def test_apply__the_same_again__changes_nothing(world: World) -> None:
    """However it is spaced and commented, and whatever defaults are written out."""
    first = world.create()
    before = world.everything()

    again = world.apply(
        "# the same\n" + plan().replace("{ring: everybody}", '{ring: everybody, percent: "100%"}')
    )

    assert not again.created
    assert not again.differences
    assert again.rollout == first
    assert world.everything() == before


def test_apply__another__is_the_next_version(world: World) -> None:
    """What it changes is told by its places; all versions stay, with who applied them; pages come newest first."""
    first = world.create()
    wider = STAGES.replace("quota: 2", "quota: 3").replace(
        "- {ring: everybody}", "- {ring: everybody, hold: {time: 1h}}"
    )
    world.clock.advance(timedelta(hours=1))

    applied = world.as_(OTHER).rollouts.ApplyPlan(
        pb.ApplyPlanRequest(plan=plan(stages=wider), etag=first.etag)
    )

    assert [(each.path, each.before, each.after) for each in applied.differences] == [
        ("stages[0].quota", "2", "3"),
        ("stages[2].hold", "none", "{time: 1h}"),
    ]
    assert (applied.rollout.plan_version, applied.rollout.author) == (2, "operators/other")
    assert applied.rollout.plan_sha256 != first.plan_sha256
    pages = [world.ops.ListPlans(pb.ListPlansRequest(parent=EDITION, page_size=1))]
    pages.append(
        world.ops.ListPlans(
            pb.ListPlansRequest(parent=EDITION, page_size=1, page_token=pages[0].next_page_token)
        )
    )
    versions = [each for page in pages for each in page.plans]
    assert [(each.version, each.plan, each.author) for each in versions] == [
        (2, plan(stages=wider), "operators/other"),
        (1, plan(), "operators/tester"),
    ]
    assert versions[0].create_time.ToDatetime() - versions[1].create_time.ToDatetime() == timedelta(hours=1)
    assert versions[0].sha256 == applied.rollout.plan_sha256
    assert not pages[1].next_page_token
    assert refusal(world.ops.ListPlans, pb.ListPlansRequest(parent="rollouts/nowhere")) == "NOT_FOUND"


def test_apply__wider__lets_those_in_who_wait(world: World) -> None:
    """At once, in the stage that it is in."""
    world.create()
    world.do("Start")
    world.verify(1, 2, 3)
    assert len(world.active()) == 2

    world.apply(plan(stages=STAGES.replace("quota: 2", "quota: 3")))

    assert len(world.active()) == 3


@pytest.mark.parametrize(
    ("narrowing", "left"), [("keep", {1, 2, 3}), ("expel_newest_first", {1}), ("expel_all", {1})]
)
def test_apply__narrower__follows_the_plan(world: World, narrowing: str, left: set[int]) -> None:
    """By default it expels nobody."""
    world.create(stages="- {ring: a, quota: 3}")
    world.do("Start")
    world.verify(1, 2, 3)

    world.apply(plan(stages="- {ring: a, quota: 1}", narrowing=narrowing))

    assert world.active() == {enterprise(number) for number in left}


def test_apply__validate_only__tells_and_stores_nothing(world: World) -> None:
    """Of a new plan and of a changed one: what it would be, and what it changes."""
    untouched = world.everything()
    tried = world.apply(plan(), validate_only=True, request_id="r1")
    assert (tried.created, tried.rollout.state, tried.needs_approvals) == (True, pb.Rollout.DRAFT, 0)
    assert world.everything() == untouched

    world.create(approvals="{change: 2}")
    world.do("Start")
    before = world.everything()
    text = plan(stages=STAGES.replace("quota: 2", "quota: 3"), approvals="{change: 2}")
    tried = world.apply(text, validate_only=True)

    assert [each.path for each in tried.differences] == ["stages[0].quota"]
    assert (tried.created, tried.needs_approvals, tried.rollout.plan_version) == (False, 2, 2)
    assert world.everything() == before


def test_apply__stale_etag__is_refused(world: World) -> None:
    """Also that of a rollout which is not there."""
    assert refusal(world.apply, plan(), etag="1") == "ETAG_MISMATCH"
    seen = world.create().etag
    world.do("Start")

    assert refusal(world.apply, plan(stages="- {ring: private-beta}"), etag=seen) == "ETAG_MISMATCH"


def test_apply__a_flag_of_another_rollout__is_refused(world: World) -> None:
    """One rollout for a flag, for ever."""
    world.create()

    taken = refused(world.create, "rollouts/other")
    moved = refused(world.create, flag="other-flag")

    assert (taken.kind, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "FLAG_TAKEN")
    assert taken.text == "the flag enterprise-beta is taken: another rollout serves it"
    assert (moved.reason, moved.text) == (
        "FLAG_FIXED",
        "rollouts/edition is DRAFT: it serves enterprise-beta for ever; make another rollout",
    )


def test_apply__without_a_stage_that_is_needed__is_refused(world: World) -> None:
    """The one that it is in, and those that a rollback may go back to; the others may go."""
    world.create()
    world.do("Start")
    world.do("Advance")

    present = refused(world.create, stages="- {ring: private-beta}\n- {ring: everybody}")
    anchored = refused(world.create, stages="- {ring: open-beta}\n- {ring: everybody}")
    world.create(stages="- {ring: private-beta}\n- {ring: open-beta}\n- {ring: last}")

    assert (present.reason, present.text) == (
        "STAGE_IN_USE",
        "rollouts/edition is RUNNING: the plan must keep the stages open-beta",
    )
    assert anchored.text == "rollouts/edition is RUNNING: the plan must keep the stages private-beta"
    assert world.do("Advance").stage == "last"


def test_apply__archived__is_refused(world: World) -> None:
    """What was put away stays as it is."""
    world.create()
    world.do("Archive")

    told = refused(world.create, stages="- {ring: other}")

    assert (told.reason, told.text) == (
        "ROLLOUT_ARCHIVED",
        "rollouts/edition is ARCHIVED: make another rollout",
    )


def test_apply__where_others_must_approve__is_proposed_instead(world: World) -> None:
    """A DRAFT may be changed by its author; from then on the plan in force says how many must agree."""
    world.create(approvals="{change: 1}")
    drafted = world.create(stages="- {ring: a}", approvals="{change: 1}")
    world.do("Start")
    before = world.everything()

    told = refused(world.create, stages="- {ring: a}")

    assert drafted.plan_version == 2
    assert (told.kind, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CHANGE_NEEDS_APPROVAL")
    assert (
        told.text == "rollouts/edition asks for 1 approvals of a change: propose it with CreateChangeRequest"
    )
    assert world.everything() == before


def test_apply__that_asks_for_approvals__needs_none_itself(world: World) -> None:
    """The plan that was in force says what was needed, not the new one."""
    world.create(stages="- {ring: a}")
    world.do("Start")

    applied = world.apply(plan(stages="- {ring: a}", approvals="{change: 2}"))

    assert (applied.rollout.plan_version, applied.needs_approvals) == (2, 0)


def test_salt__does_not_change_with_the_plan(world: World) -> None:
    """So nobody's bucket does."""
    world.create()
    world.verify(*range(5))
    before = {each.enterprise: each.bucket for each in world.admissions()}

    world.create(stages="- {ring: other, percent: 50%}", control_share="10%")

    assert {each.enterprise: each.bucket for each in world.admissions()} == before
