"""Where a rollout stands: its gates, its analyses, what comes next, what would come; and the stream of all this."""

from collections.abc import Iterator
from datetime import UTC, timedelta

import grpc
import pytest
from numerator.rollout.v1 import admissions_pb2, serving_pb2
from numerator.rollout.v1 import rollout_pb2 as pb

from services.chassis.database import PLATFORM
from services.chassis.testing.rpc import gateway, operator
from services.rollout import measurements, usecases
from services.rollout.guardrails import Analysis, Outcome, Verdict
from services.rollout.model import Cause
from services.rollout.plan import Action, GuardrailKind
from services.rollout.tests.world import EDITION, FLAG, OTHER, World, enterprise, plan, refusal, refused

BREAKER = "[{metric: publish.error_rate, max: 5%, action: rollback}]"


def gates(world: World) -> list[tuple[str, bool, str]]:
    """The gates of the edition's stage."""
    return [(each.kind, each.met, each.detail) for each in world.status().gates]


# Status


def test_status__says_what_comes_next_in_every_state(world: World) -> None:
    """What happens by itself, or what somebody has to do."""
    steps = {}

    def look(when: str) -> None:
        steps[when] = world.status().next_step

    world.create(stages="- {ring: a}\n- {ring: b, hold: {approvals: 1}}\n- {ring: c, hold: {time: 1h}}\n- {ring: d}",
                 start="2026-03-01T08:00Z")  # fmt: skip
    look("draft")
    world.do("Arm")
    look("armed")
    world.do("Start")
    look("person")
    world.do("Advance")
    look("approvals")
    world.do("Approve", by=OTHER, gate="b")
    look("approved")
    world.do("Advance")
    look("time")
    world.do("Pause", reason="lunch")
    look("paused")
    world.do("Kill")
    look("killed")
    world.do("Unkill")
    world.do("Rollback", reason="errors doubled")
    look("rolled back")
    world.do("Restart")
    world.do("Approve", by=OTHER, gate="b")
    world.do("Jump", stage="d")
    look("last")
    world.do("Complete")
    look("completed")

    assert steps == {
        "draft": "start it, or arm it for its start time",
        "armed": "starts by itself at 2026-03-01 08:00 UTC",
        "person": "advance it when you are content",
        "approvals": "others approve that it leaves b",
        "approved": "advances by itself after the next look",
        "time": "advances by itself after time",
        "paused": "lunch: resume it, or roll it back",
        "killed": "the flag is off for everybody: unkill it when the cause is mended",
        "rolled back": "errors doubled: restart it when the cause is mended",
        "last": "complete it: the last stage is open",
        "completed": "",
    }


def test_status__gates__in_the_order_in_which_they_are_asked(world: World) -> None:
    """Each with how far it is and, where that is known, when it lets through."""
    world.create(
        stages='- {ring: a, hold: {time: 2h, exposures: 2, window: "Mon-Thu 08-16", approvals: 2}}\n- {ring: b}',
        breakers=BREAKER,
    )
    assert gates(world) == []
    world.verify(1, 2, 3)
    world.do("Start")
    world.clock.advance(timedelta(minutes=30))
    world.use(1, stage="a")
    world.do("Approve", by=OTHER, gate="a")

    assert gates(world) == [
        ("TIME", False, "30m of 2h"),
        ("EXPOSURES", False, "1 of 2 enterprises"),
        ("ANALYSIS", False, "no analysis has passed in this stage"),
        ("WINDOW", True, "open"),
        ("APPROVALS", False, "1 of 2"),
    ]
    meets = [each.meet_time.ToDatetime(UTC) for each in world.status().gates if each.HasField("meet_time")]
    assert meets == [world.clock.now() + timedelta(minutes=90), world.clock.now()]
    world.clock.advance(timedelta(hours=4))
    world.use(1, 2, stage="a")
    assert gates(world)[:2] == [("TIME", True, "4h30m of 2h"), ("EXPOSURES", True, "2 of 2 enterprises")]
    assert gates(world)[3] == ("WINDOW", False, "opens Mon 08:00 UTC")


def test_status__before_the_start__tells_what_is_missing_for_it(world: World) -> None:
    """Its time and its approvals."""
    world.create(start="2026-03-01T08:00Z", approvals="{start: 1}")
    before = gates(world), world.status().next_step
    world.do("Approve", by=OTHER, gate="start")

    assert before == (
        [("TIME", False, "starts 2026-03-01 08:00 UTC"), ("APPROVALS", False, "0 of 1")],
        "others approve its start",
    )
    assert (gates(world)[1], world.status().next_step) == (
        ("APPROVALS", True, "1 of 1"),
        "start it, or arm it for its start time",
    )


def test_status__without_a_hold__waits_for_a_person(world: World) -> None:
    """Who advances it."""
    world.create()
    world.do("Start")

    assert gates(world) == [("PERSON", False, "waits for somebody to advance it")]


def report(
    world: World, replica: str, *, snapshot: int, admissions: int, late: int = 0, **fields: bool
) -> int:
    """A gateway reports what it serves, `late` milliseconds after it was decided; returns how many serve."""
    request = serving_pb2.ReportReplicaRequest(
        replica=replica, snapshot_version=snapshot, admissions_version=admissions, **fields
    )
    for time in (request.snapshot_time, request.admissions_time):
        time.FromDatetime(world.clock.now() + timedelta(milliseconds=late))
    return world.as_(gateway()).serving.ReportReplica(request).replica_count


def test_status__convergence__tells_which_gateways_serve_the_newest(world: World) -> None:
    """By both versions, with the slowest's lag; who leaves or falls silent is no part of it."""
    world.create()
    world.verify(1)
    newest = world.status().convergence
    versions = {"snapshot": newest.snapshot_version, "admissions": newest.admissions_version}
    assert report(world, "g1", **versions, late=9) == 1
    assert report(world, "g2", **versions, late=120) == 2
    assert report(world, "g3", snapshot=versions["snapshot"] - 1, admissions=versions["admissions"]) == 3
    assert report(world, "g4", **versions) == 4
    assert report(world, "g4", **versions, leaving=True) == 3

    found = world.status().convergence

    assert [(each.replica, each.converged) for each in found.replicas] == [
        ("g1", True),
        ("g2", True),
        ("g3", False),
    ]
    assert (found.converged_count, found.slowest_ms) == (2, 120)
    assert found == world.as_(operator()).serving.ListReplicas(serving_pb2.ListReplicasRequest())
    world.clock.advance(timedelta(seconds=11))
    assert report(world, "g2", **versions, late=0) == 1
    assert [each.replica for each in world.status().convergence.replicas] == ["g2"]


def test_report__before_anything_is_served__is_taken(world: World) -> None:
    """A gateway that has just started counts, too: it takes its part of the limits."""
    assert report(world, "g1", snapshot=0, admissions=0) == 1


# Analyses


def keep(world: World, *outcomes: Outcome) -> None:
    """Analyses as the scheduler keeps them, one a minute."""
    for outcome in outcomes:
        world.clock.advance(timedelta(minutes=1))
        failed = outcome is Outcome.FAIL
        verdict = Verdict(
            GuardrailKind.GUARDRAIL, "publish.error_rate", Action.ROLLBACK, False, outcome, "in words",
            treatment=0.1, control=0.02, lower=0.03, treated_count=40, control_count=30, failures=int(failed),
        )  # fmt: skip
        with world.database.transaction(PLATFORM) as tx:
            measurements.save_analysis(
                tx,
                EDITION,
                "private-beta",
                Analysis(
                    (verdict,), outcome, Action.ROLLBACK if failed else None,
                    Cause.GUARDRAIL if failed else Cause.NONE, not failed, f"it is {outcome}",
                ),
            )  # fmt: skip


def test_analyses__are_listed_newest_first(world: World) -> None:
    """With every verdict in numbers and words; the newest stands in the status."""
    world.create()
    world.do("Start")
    assert not world.status().HasField("analysis")
    keep(world, Outcome.WAITING, Outcome.PASS, Outcome.FAIL)

    found, token = [], ""
    while True:
        page = world.ops.ListAnalyses(pb.ListAnalysesRequest(parent=EDITION, page_size=2, page_token=token))
        found += page.analyses
        token = page.next_page_token
        if not token:
            break

    assert [(each.outcome, each.action) for each in found] == [
        ("FAIL", "ROLLBACK"), ("PASS", "NONE"), ("WAITING", "NONE")
    ]  # fmt: skip
    newest = found[0]
    assert newest == world.status().analysis
    assert (newest.stage, newest.reason) == ("private-beta", "it is FAIL")
    assert newest.time.ToDatetime(UTC) == world.clock.now()
    verdict = newest.verdicts[0]
    assert (verdict.metric, verdict.kind, verdict.outcome, verdict.reason) == (
        "publish.error_rate", "GUARDRAIL", "FAIL", "in words",
    )  # fmt: skip
    assert (verdict.treatment, verdict.control, verdict.lower) == (0.1, 0.02, 0.03)
    assert (verdict.treated_count, verdict.control_count, verdict.failures) == (40, 30, 1)
    assert refusal(world.ops.ListAnalyses, pb.ListAnalysesRequest(parent="rollouts/nowhere")) == "NOT_FOUND"


def test_preview__looks_as_the_guardrails_do_and_does_nothing(world: World) -> None:
    """What would roll back at the next look is told, and nothing is stored."""
    world.create(stages="- {ring: a}", breakers=BREAKER)
    world.verify(1)
    world.do("Start")
    world.clock.advance(timedelta(minutes=5))
    for ago in (3, 2, 1):
        world.measure("publish.error_rate", {1: (200, 50)}, ago)
    before = world.everything()

    found = world.ops.PreviewAnalysis(pb.PreviewAnalysisRequest(name=EDITION))

    assert (found.outcome, found.action, found.stage) == ("FAIL", "ROLLBACK", "a")
    assert found.reason.startswith("publish.error_rate: 25.00% of 400")
    assert world.everything() == before


# The stream


@pytest.fixture
def watch(world: World) -> Iterator:
    """Watches the edition; what still runs at the end of the test is cancelled."""
    streams = []

    def begin(after_sequence: int = 0, name: str = EDITION):
        request = pb.WatchRolloutRequest(name=name, after_sequence=after_sequence)
        streams.append(world.ops.WatchRollout(request, timeout=20))
        return streams[-1]

    yield begin
    for stream in streams:
        stream.cancel()


def test_watch__tells_where_it_stands_and_then_every_change(world: World, watch) -> None:
    """Of the rollout and of its admissions, and of no other rollout."""
    world.create()
    world.create("rollouts/other", flag="other")
    stream = watch()
    assert next(stream).status == world.status()

    world.do("Start", "rollouts/other")
    world.do("Start")
    told = next(stream)
    assert told.status.rollout.state == pb.Rollout.RUNNING
    world.verify(1)

    while told.status.rollout.admitted_count < 1:
        following = next(stream)
        assert following.sequence > told.sequence
        told = following
    assert told.status.rollout.name == EDITION


def test_watch__resumed__misses_nothing(world: World, watch) -> None:
    """Whatever happened while nobody watched is told, each change once and in order."""
    world.create()
    first = watch()
    seen = next(first).sequence
    first.cancel()
    world.do("Start")
    world.verify(1, 2)
    world.do("Pause")
    world.do("Kill")

    stream, sequences = watch(after_sequence=seen), []
    while True:
        told = next(stream)
        sequences.append(told.sequence)
        if told.status.rollout.killed and told.sequence == last_change(world):
            break

    missed = [row["sequence"] for row in world.rows("changes") if row["log"] == usecases.ROLLOUTS]
    assert sequences == sorted(each for each in missed if each > seen)


def last_change(world: World) -> int:
    with world.database.transaction(PLATFORM) as tx:
        return tx.last_change(usecases.ROLLOUTS)


def test_watch__unknown__is_refused(watch) -> None:
    """There is nothing to wait for."""
    assert refusal(next, watch(name="rollouts/nowhere")) == "NOT_FOUND"


# What would be


def simulate(world: World, name: str = EDITION, **fields) -> pb.SimulateRolloutResponse:
    """What would come of it."""
    return world.ops.SimulateRollout(pb.SimulateRolloutRequest(name=name, **fields))


A = admissions_pb2.Admission


def test_simulate__tells_who_enters_by_which_rule(world: World) -> None:
    """Against the quota, with their buckets; the stage that comes next when nothing is said."""
    world.create()
    world.do("Start")
    world.verify(1, 2, 3, 4, 5)
    world.tell(6, verified=False)
    before = world.everything()

    found = simulate(world)

    assert (found.stage, found.quota) == ("open-beta", 4)
    assert (found.entering_count, found.leaving_count, found.admitted_count) == (2, 0, 4)
    assert dict(found.by_rule) == {"BUCKET": 4, "QUOTA_FULL": 1, "NOT_VERIFIED": 1}
    assert {(each.before, each.after, each.rule, each.stage) for each in found.admissions} == {
        (A.WAITLISTED, A.ACTIVE, "BUCKET", "open-beta")
    }
    buckets = {each.enterprise: each.bucket for each in world.admissions()}
    assert all(each.bucket == buckets[each.enterprise] for each in found.admissions)
    assert world.everything() == before
    world.do("Advance")
    assert {each.enterprise for each in found.admissions} < world.active()


@pytest.mark.parametrize(
    ("before", "fields", "stage", "entering", "leaving"),
    [
        ((), {}, "private-beta", 2, 0),
        (("Arm",), {}, "private-beta", 2, 0),
        (("Start",), {"verb": "now"}, "private-beta", 0, 0),
        (("Start",), {"verb": "jump", "stage": "everybody"}, "everybody", 3, 0),
        (("Start", "Advance"), {"verb": "rollback"}, "private-beta", 0, 2),
        (("Start", "Advance", "Advance"), {}, "everybody", 0, 0),
        (("Start",), {"verb": "rollback"}, "", 0, 2),
    ],
)
def test_simulate__each_verb__is_the_verbs_own_decision(
    world: World, *, before: tuple[str, ...], fields: dict[str, str], stage: str, entering: int, leaving: int
) -> None:
    """From where the rollout stands."""
    world.create()
    world.verify(*range(5))
    for verb in before:
        world.do(verb)

    found = simulate(world, **fields)

    assert (found.stage, found.entering_count, found.leaving_count) == (stage, entering, leaving)


def test_simulate__a_paused_one__is_resumed(world: World) -> None:
    """Those who came meanwhile would enter."""
    world.create()
    world.do("Start")
    world.do("Pause")
    world.verify(1)

    assert simulate(world).entering_count == 1


def test_simulate__a_plan__is_decided_by_before_it_is_applied(world: World) -> None:
    """A new rollout's, as if it were started; a changed one's, as if it were applied now; and neither is stored."""
    world.verify(1, 2, 3)
    before = world.everything()
    fresh = simulate(world, name="", plan=plan(stages="- {ring: a, quota: 2}"))
    assert (fresh.stage, fresh.entering_count, fresh.quota) == ("a", 2, 2)
    assert world.everything() == before

    world.create(stages="- {ring: a, quota: 3}")
    world.do("Start")
    narrower = plan(stages="- {ring: a, quota: 1}", narrowing="expel_newest_first")
    before = world.everything()
    changed = simulate(world, name="", plan=narrower)
    assert (changed.leaving_count, changed.admitted_count) == (2, 1)
    assert {each.rule for each in changed.admissions} <= {"NARROWED", "QUOTA_FULL"}
    assert world.everything() == before


def test_simulate__named_enterprises__are_all_told(world: World) -> None:
    """Also those with whom nothing would change; and pages hold what they are asked to."""
    world.create()
    world.verify(*range(5))
    names = [enterprise(number) for number in (4, 1, 3)]

    pages = [simulate(world, enterprises=names, page_size=2)]
    pages.append(simulate(world, enterprises=names, page_size=2, page_token=pages[0].next_page_token))

    assert [[each.enterprise for each in page.admissions] for page in pages] == [
        [enterprise(1), enterprise(3)], [enterprise(4)]
    ]  # fmt: skip
    assert not pages[1].next_page_token
    assert simulate(world, enterprises=["enterprises/nobody"]).entering_count == 2


def test_simulate__what_cannot_be__is_refused(world: World) -> None:
    """Neither rollout nor plan, another's plan, a verb that the state has not, no such stage."""
    world.create()

    assert refused(simulate, world, name="").fields == {"name": "INVALID"}
    assert refusal(simulate, world, name="rollouts/nowhere") == "NOT_FOUND"
    other = refused(simulate, world, plan=plan("rollouts/other", flag=FLAG))
    assert other.fields == {"plan": "INVALID"}
    assert other.text == "plan: must be a plan of edition, as rollout: edition"
    assert refusal(simulate, world, verb="advance") == "ROLLOUT_NOT_RUNNING"
    assert refusal(simulate, world, verb="rollback") == "ROLLOUT_NOT_RUNNING"
    assert refused(simulate, world, verb="dance").kind is grpc.StatusCode.INVALID_ARGUMENT
    world.do("Start")
    assert refused(simulate, world, verb="jump", stage="nowhere").fields == {"stage": "INVALID"}
