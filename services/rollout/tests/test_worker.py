"""The worker: what accounts and analytics tell, and what the clock brings, to decisions; by its handlers, and as the processes run."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pika
import pytest
from google.protobuf.message import Message
from numerator.events.v1 import rollout_pb2 as events
from numerator.events.v1.accounts_pb2 import (
    EnterpriseChanged,
    EnterpriseRegistered,
    EnterpriseVerificationRevoked,
    EnterpriseVerified,
)
from numerator.events.v1.analytics_pb2 import GuardrailMeasured
from numerator.rollout.v1 import admissions_pb2, admissions_pb2_grpc, serving_pb2, serving_pb2_grpc
from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import rollout_pb2_grpc as pb_grpc

from services.chassis.database import PLATFORM
from services.chassis.messaging.envelope import Event
from services.chassis.testing.broker import Broker
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.processes import Processes
from services.chassis.testing.rpc import gateway, member, metadata_of, operator
from services.rollout import usecases
from services.rollout.tests.world import EDITION, OTHER, World, enterprise, plan

ONE = enterprise(1)
HANDLERS: dict[type[Message], str] = {
    EnterpriseRegistered: "on_enterprise_registered",
    EnterpriseChanged: "on_enterprise_changed",
    EnterpriseVerified: "on_enterprise_verified",
    EnterpriseVerificationRevoked: "on_enterprise_verification_revoked",
}
METRIC = "publish.error_rate"
BREAKER = f"[{{metric: {METRIC}, max: 5%, action: rollback}}]"
STATE = pb.Rollout.State


def where(world: World, name: str = EDITION) -> tuple[str, str, str]:
    """Where a rollout stands: state, stage, and what stopped it."""
    rollout = world.get(name)
    return STATE.Name(rollout.state), rollout.stage, rollout.cause


# What accounts tells


def hear(world: World, kind: type[Message], after: int, **said: object) -> None:
    """The worker hears an event that was told so many seconds after noon."""
    told = world.clock.now() + timedelta(seconds=after)
    with world.database.transaction(PLATFORM) as tx:
        event = Event("id", "type", ONE, ONE, told, kind(enterprise=ONE, **said))
        getattr(world.worker, HANDLERS[kind])(tx, event)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ([(EnterpriseRegistered, 0)], "NOT_VERIFIED"),
        ([(EnterpriseRegistered, 0), (EnterpriseVerified, 1)], ""),
        ([(EnterpriseVerified, 1), (EnterpriseRegistered, 0)], ""),
        (
            [(EnterpriseRegistered, 0), (EnterpriseVerified, 1), (EnterpriseVerificationRevoked, 2)],
            "VERIFICATION_REVOKED",
        ),
        ([(EnterpriseVerificationRevoked, 2), (EnterpriseVerified, 1)], "NOT_VERIFIED"),
        ([(EnterpriseVerified, 3), (EnterpriseVerificationRevoked, 2), (EnterpriseVerified, 1)], ""),
    ],
)
def test_events__in_any_order__the_newest_word_counts(
    world: World, order: list[tuple[type[Message], int]], reason: str
) -> None:
    """Each event has a queue of its own, so they overtake each other; what was told last is what holds."""
    world.create()
    world.do("Start")

    for kind, after in order:
        hear(world, kind, after)

    assert [each.reason for each in world.admissions()] == [reason]


def test_events__carry_what_rules_may_ask(world: World) -> None:
    """Industry, region, tier and attributes of the newest event; what operators set here goes before, and stays."""
    hear(world, EnterpriseRegistered, 0, industry="cars")
    hear(
        world,
        EnterpriseVerified,
        3,
        industry="cars",
        tier="gold",
        attributes={"team": "west", "plan": "basic"},
    )
    with world.database.transaction(PLATFORM) as tx:
        usecases.set_attributes(tx, ONE, {"plan": "pro"}, "operators/x")
    hear(world, EnterpriseChanged, 2, industry="trains", verified=True)
    (row,) = world.rows("enterprises")
    assert row["attributes"] == {"industry": "cars", "tier": "gold", "team": "west", "plan": "pro"}
    hear(world, EnterpriseChanged, 4, region="xinjiang", verified=True)
    (row,) = world.rows("enterprises")
    assert (row["attributes"], row["verified"]) == ({"region": "xinjiang", "plan": "pro"}, True)


# What analytics tells


def test_measured__is_kept_by_window(world: World) -> None:
    """Told again, the larger numbers hold, in whatever order they come; until when it is known only grows."""
    world.create()
    world.verify(1)
    world.measure(METRIC, {1: (10, 2)}, ago=2)
    world.measure(METRIC, {1: (7, 1)}, ago=2)
    world.measure(METRIC, {1: (5, 0)}, ago=3)

    rows = sorted((row["window_start"], row["count"], row["bad"]) for row in world.rows("measurements"))
    noon = world.clock.now()
    assert rows == [(noon - timedelta(minutes=3), 5, 0), (noon - timedelta(minutes=2), 10, 2)]
    assert [row["through"] for row in world.rows("measured")] == [noon - timedelta(minutes=1)]


def test_measured__without_samples__says_only_until_when(world: World) -> None:
    """So that silence is not taken for a quiet time."""
    event = GuardrailMeasured(metric=METRIC, window_seconds=60)
    event.measured_through.FromDatetime(world.clock.now())
    with world.database.transaction(PLATFORM) as tx:
        told = Event("id", "type", METRIC, None, world.clock.now(), event)
        world.worker.on_guardrail_measured(tx, told)

    assert [(row["metric"], row["through"]) for row in world.rows("measured")] == [
        (METRIC, world.clock.now())
    ]
    assert world.rows("measurements") == []


# Starts, holds and ramps


def test_armed__starts_at_its_time(world: World) -> None:
    """Not before, not twice, and not unless it is armed."""
    world.create(stages="- {ring: a}", start="2026-01-15T13:00Z")
    world.create("rollouts/draft", "- {ring: a}", flag="draft", start="2026-01-15T13:00Z")
    world.verify(1)
    world.do("Arm")
    world.tick(minutes=59, seconds=59)
    assert where(world) == ("ARMED", "", "")

    world.tick(seconds=1)
    started = world.get()
    world.tick(seconds=1)

    assert where(world) == ("RUNNING", "a", "")
    assert world.active() == {ONE}
    assert world.get() == started
    assert where(world, "rollouts/draft")[0] == "DRAFT"


@pytest.mark.parametrize("held_by", ["approval", "kill"])
def test_armed__what_may_not_start__does_not(world: World, held_by: str) -> None:
    """A plan that was changed after arming may ask for approvals; and a kill beats everything."""
    world.create(stages="- {ring: a}", start="2026-01-15T13:00Z")
    world.do("Arm")
    if held_by == "approval":
        world.create(stages="- {ring: a}", start="2026-01-15T13:00Z", approvals="{start: 1}")
    else:
        world.do("Kill")
    world.tick(hours=2)
    assert where(world)[0] == "ARMED"

    if held_by == "approval":
        world.do("Approve", by=OTHER, gate="start")
    else:
        world.do("Unkill")
    world.tick(seconds=1)

    assert where(world)[0] == "RUNNING"


def test_hold__met__advances(world: World) -> None:
    """By time, uses, window and approval, whichever comes last; the last stage stays."""
    world.create(
        stages='- {ring: a, hold: {time: 1h, exposures: 1, window: "Thu 14-15", approvals: 1}}\n- {ring: b, hold: {time: 1h}}'
    )
    world.verify(1)
    world.do("Start")
    stages = []
    for step in (
        lambda: world.tick(hours=1),
        lambda: (world.use(1, stage="a"), world.tick(seconds=1)),
        lambda: world.tick(hours=1),
        lambda: (world.do("Approve", by=OTHER, gate="a"), world.tick(seconds=1)),
        lambda: world.tick(hours=5),
    ):
        step()
        stages.append(world.get().stage)

    assert stages == ["a", "a", "a", "b", "b"]
    assert [each.stage for each in world.told(events.StageEntered)] == ["a", "b"]
    assert world.audit(EDITION)[0].actor == "scheduler"


def test_hold__none__waits_for_a_person(world: World) -> None:
    """For ever."""
    world.create()
    world.do("Start")

    world.tick(days=100)

    assert where(world) == ("RUNNING", "private-beta", "")


def test_backlog__never_runs_through_several_stages(world: World) -> None:
    """However long no worker ran, each stage lasts its time from when it was really entered."""
    world.create(stages="\n".join(f"- {{ring: {ring}, hold: {{time: 1h}}}}" for ring in "abcd"))
    world.do("Start")

    world.tick(hours=10)
    assert world.get().stage == "b"
    world.tick(minutes=59)
    assert world.get().stage == "b"
    world.tick(minutes=1)
    assert world.get().stage == "c"


@pytest.mark.parametrize("stop", ["Pause", "Kill", "Rollback"])
def test_hold__met_while_it_is_stopped__does_not_advance(world: World, stop: str) -> None:
    """Time alone starts nothing again."""
    world.create(stages="- {ring: a, hold: {time: 1h}}\n- {ring: b, hold: {time: 1h}}\n- {ring: c}")
    world.do("Start")
    world.tick(hours=1)
    world.do(stop)
    before = world.get()

    world.tick(hours=5)

    assert world.get() == before


def test_ramp__climbs_with_the_clock(world: World) -> None:
    """In whole per cent from the share before, never back, never beyond; whoever is reached is let in."""
    world.create(stages="- {ring: a, percent: 10%}\n- {ring: b, percent: 60%, ramp: 100m}")
    world.verify(*range(40))
    world.do("Start")
    world.do("Advance")
    assert world.get().basis_points == 1000
    shares = []
    for minutes in (0, 1, 2, 30, 60, 7, 100):
        world.tick(minutes=minutes)
        shares.append(world.get().basis_points)
        inside = {each.enterprise for each in world.admissions() if each.bucket < shares[-1]}
        assert world.active() == inside

    assert shares == [1000, 1000, 1100, 2600, 5600, 6000, 6000]


def test_ramp__paused__stands_still(world: World) -> None:
    """And is where the clock says when it goes on."""
    world.create(stages="- {ring: a, percent: 50%, ramp: 50m}")
    world.do("Start")
    world.tick(minutes=10)
    world.do("Pause")
    world.tick(minutes=10)
    assert world.get().basis_points == 1000
    world.do("Resume")

    world.tick(seconds=1)

    assert world.get().basis_points == 2000


# Guardrails


def minute(world: World, samples: dict[int, tuple[int, int]]) -> None:
    """A minute passes; analytics tells what was done in it, and the worker looks."""
    world.clock.advance(timedelta(minutes=1))
    world.measure(METRIC, samples)
    world.tick(seconds=0)


def all_of(numbers: Iterable[int], count: int, bad: int) -> dict[int, tuple[int, int]]:
    return dict.fromkeys(numbers, (count, bad))


@pytest.fixture
def guarded(world: World) -> World:
    """In the second stage of a plan with a breaker, with the admissions of the first to go back to."""
    world.create(stages="- {ring: a, quota: 1}\n- {ring: b, quota: 3}\n- {ring: c}", breakers=BREAKER)
    world.do("Start")
    world.verify(1, 2, 3)
    world.do("Advance", skip_hold=True)
    return world


def test_breaker__tripped__rolls_back_to_exactly_what_was(guarded: World) -> None:
    """After the plan's two windows; by the guardrail, with the reason, and somebody looks at it afterwards."""
    minute(guarded, all_of((1, 2, 3), 100, 0))
    minute(guarded, all_of((1, 2, 3), 100, 20))
    assert where(guarded) == ("RUNNING", "b", "")

    minute(guarded, all_of((1, 2, 3), 100, 20))

    assert where(guarded) == ("ROLLED_BACK", "a", "GUARDRAIL")
    assert guarded.active() == {ONE}
    assert guarded.edition(2).reason == "STAGE_ROLLED_BACK"
    assert guarded.get().reason.startswith("publish.error_rate: 20.00%")
    told = guarded.told(events.RolloutRolledBack)
    assert [(each.stage, each.reason) for each in told] == [("a", guarded.get().reason)]
    review = guarded.changes()[0]
    assert (review.author, review.reason) == ("guardrail", f"rollback: {guarded.get().reason}")
    assert guarded.status().analysis.action == "ROLLBACK"


@pytest.mark.parametrize(
    ("action", "expected"), [("pause", ("PAUSED", "b", "GUARDRAIL")), ("warn", ("RUNNING", "b", ""))]
)
def test_breaker__tripped__does_what_the_plan_says(
    guarded: World, action: str, expected: tuple[str, str, str]
) -> None:
    """Pause, or only tell."""
    guarded.create(
        stages="- {ring: a, quota: 1}\n- {ring: b, quota: 3}\n- {ring: c}",
        breakers=BREAKER.replace("rollback", action),
    )
    for _ in range(3):
        minute(guarded, all_of((1, 2, 3), 100, 20))

    assert where(guarded) == expected
    assert len(guarded.active()) == 3
    assert guarded.status().analysis.outcome == "FAIL"


def test_breaker__dry_run__is_judged_and_told_only(guarded: World) -> None:
    """Nothing happens, and nothing is held."""
    breaker = BREAKER.replace("action", "dry_run: true, action")
    guarded.create(
        stages="- {ring: a, quota: 1}\n- {ring: b, quota: 3, hold: {time: 5m}}\n- {ring: c}", breakers=breaker
    )
    for _ in range(5):
        minute(guarded, all_of((1, 2, 3), 100, 20))

    verdicts = guarded.ops.ListAnalyses(pb.ListAnalysesRequest(parent=EDITION)).analyses[-1].verdicts
    assert where(guarded) == ("RUNNING", "c", "")
    assert [each.dry_run for each in verdicts] == [True]


@pytest.mark.parametrize("wait", ["approval", "pause"])
def test_breaker__acts_while_the_rollout_waits(world: World, wait: str) -> None:
    """For an approval, or paused by a person: whoever is in is still in danger."""
    world.create(stages="- {ring: a, hold: {time: 1m, approvals: 1}}\n- {ring: b}", breakers=BREAKER)
    world.verify(1, 2, 3)
    world.do("Start")
    minute(world, all_of((1, 2, 3), 100, 0))
    minute(world, all_of((1, 2, 3), 100, 0))
    assert [each.kind for each in world.status().gates if not each.met] == ["APPROVALS"]
    if wait == "pause":
        world.do("Pause")

    for _ in range(2):
        minute(world, all_of((1, 2, 3), 100, 20))

    assert where(world) == ("ROLLED_BACK", "", "GUARDRAIL")
    assert world.active() == set()


def test_guardrail__worse_than_the_control_group__rolls_back(world: World) -> None:
    """Enterprises are compared with those that are held out at the same time; what happens to both alarms nobody."""
    world.create(
        stages="- {ring: a, hold: {time: 3m}}\n- {ring: b}",
        control_share="50%",
        guardrails=f"[{{metric: {METRIC}, worse: up, vs: control, alpha: 0.05, action: rollback}}]",
    )
    world.verify(*range(100))
    world.do("Start")
    numbers = {int(name.removeprefix("enterprises/e")) for name in world.active()}
    control = set(range(100)) - numbers
    assert min(len(numbers), len(control)) >= 20

    for _ in range(4):  # a bad time for all
        minute(world, all_of(range(100), 50, 10))
    assert where(world) == ("RUNNING", "b", "")
    for _ in range(3):
        minute(world, all_of(numbers, 50, 40) | all_of(control, 50, 1))

    assert where(world) == ("ROLLED_BACK", "a", "GUARDRAIL")
    assert "surely worse" in world.get().reason


def test_no_data__pauses(guarded: World) -> None:
    """Half an hour after the last that was known, as the plan bears; data lets a person resume it."""
    minute(guarded, all_of((1, 2, 3), 100, 0))
    guarded.tick(minutes=30)
    assert where(guarded)[0] == "RUNNING"

    guarded.tick(minutes=1)

    assert where(guarded) == ("PAUSED", "b", "NO_DATA")
    assert "nothing is measured since 2026-01-15 12:01 UTC" in guarded.get().reason
    minute(guarded, all_of((1, 2, 3), 100, 0))
    guarded.do("Resume")
    guarded.tick(seconds=20)
    assert where(guarded) == ("RUNNING", "b", "")


def test_no_data__never_advances(world: World) -> None:
    """A hold that is met waits for an analysis that passes; then it goes on."""
    world.create(stages="- {ring: a, hold: {time: 5m}}\n- {ring: b}", breakers=BREAKER)
    world.verify(1, 2, 3)
    world.do("Start")
    world.tick(minutes=10)
    assert (where(world)[1], world.status().analysis.outcome) == ("a", "WAITING")

    minute(world, all_of((1, 2, 3), 100, 0))

    assert where(world) == ("RUNNING", "b", "")


def test_inconclusive__at_the_gate__pauses(world: World) -> None:
    """Too few to compare: a person decides, and nothing advances by silence."""
    world.create(
        stages="- {ring: a, hold: {time: 2m}}\n- {ring: b}",
        control_share="50%",
        guardrails=f"[{{metric: {METRIC}, worse: up, vs: control, alpha: 0.05, action: rollback}}]",
    )
    world.verify(1, 2, 3)
    world.do("Start")
    minute(world, all_of((1, 2, 3), 100, 0))
    assert where(world)[0] == "RUNNING"

    minute(world, all_of((1, 2, 3), 100, 0))

    assert where(world) == ("PAUSED", "a", "INCONCLUSIVE")


def test_killed__is_not_looked_at(guarded: World) -> None:
    """Nobody uses it, so there is nothing to find; the unkill finds it as it was."""
    minute(guarded, all_of((1, 2, 3), 100, 0))
    guarded.do("Kill")
    looks = len(guarded.rows("analyses"))

    guarded.tick(hours=3)

    assert len(guarded.rows("analyses")) == looks
    assert where(guarded) == ("RUNNING", "b", "")


def test_looks__come_every_fifteen_seconds(guarded: World) -> None:
    """However often the scheduler runs; and each is told to who watches."""
    for _ in range(45):
        guarded.tick(seconds=1)

    assert len(guarded.rows("analyses")) == 3


# The periodic jobs


def test_move__one_that_fails__stops_no_other(world: World) -> None:
    """A rollout whose rollback would not be exact stays as it is and is tried again; the others go on."""
    world.create("rollouts/a", "- {ring: a}", flag="a", breakers=BREAKER)
    world.create(stages="- {ring: a}", start="2026-01-15T12:03Z")
    world.do("Arm")
    world.do("Start", "rollouts/a")
    world.verify(1, 2, 3)
    world.forge_anchors("rollouts/a")
    for _ in range(3):
        minute(world, all_of((1, 2, 3), 100, 20))

    assert where(world, "rollouts/a") == ("RUNNING", "a", "")
    assert where(world) == ("RUNNING", "a", "")


def test_measure__anchors_what_another_process_did_not(world: World) -> None:
    """Whoever died between commit and anchor is made up for."""
    world.create()
    worker = world.worker  # begins a file of its own
    for path in world.anchors.iterdir():
        path.write_text("")

    worker.measure(world.database)

    assert any('"sequence":1' in path.read_text() for path in world.anchors.iterdir())


def test_forget__removes_what_nobody_needs(world: World) -> None:
    """Gateways that are gone, and measurements of long ago."""
    world.create()
    world.verify(1)
    world.use(1, stage="a")
    for ago in (1, 2, 3):
        world.measure(METRIC, {1: (10, 0)}, ago)

    world.clock.advance(timedelta(days=31))
    world.worker.forget(world.database)

    assert world.rows("replicas") == []
    assert len(world.rows("measurements")) == 1  # from whose sums the next ones are counted


# As processes


@pytest.mark.slow
def test_processes__admit_and_tell(
    make_database: Callable[..., TemporaryDatabase],
    amqp_url: str,
    tmp_path: Path,
    eventually: Callable[..., object],
) -> None:
    """
    A company is admitted once however often it is told of, a hundred at once fill the quota and no more, all of it is told; the
    clock starts what is armed, and what analytics tells stops it.
    """
    processes = Processes("rollout", make_database("rollout"), amqp_url, tmp_path, ROLLOUT_LOOK_SECONDS="1")
    processes.run("migrate")
    staff = metadata_of(operator())
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        broker = Broker(connection, "rollout")
        try:
            processes.start("api")
            processes.start("worker")
            with processes.serving(pb.DESCRIPTOR.services_by_name["RolloutService"]) as served:
                rollouts = pb_grpc.RolloutServiceStub(served)
                serving = serving_pb2_grpc.ServingServiceStub(served)
                edition = admissions_pb2_grpc.EditionServiceStub(served)
                text = plan(stages="- {ring: private-beta, quota: 2}", start="2026-01-01T00:00Z",
                            breakers=f"[{{metric: {METRIC}, max: 5%, windows: 1, min_samples: 10, action: pause}}]")  # fmt: skip
                rollouts.ApplyPlan(pb.ApplyPlanRequest(plan=text), metadata=staff, timeout=10)
                rollouts.ArmRollout(pb.ArmRolloutRequest(name=EDITION), metadata=staff, timeout=10)

                def rollout() -> pb.Rollout:
                    return rollouts.GetRollout(pb.GetRolloutRequest(name=EDITION), metadata=staff, timeout=10)

                eventually(lambda: rollout().state == pb.Rollout.RUNNING, timeout=30)
                broker.tell(EnterpriseRegistered(enterprise=ONE), ONE, subject=ONE)
                for _ in range(2):
                    broker.tell(EnterpriseVerified(enterprise=ONE), ONE, subject=ONE, event_id="verified-1")

                def admitted() -> bool:
                    request, own = admissions_pb2.GetEditionRequest(), metadata_of(member(ONE))
                    return edition.GetEdition(request, metadata=own, timeout=10).admitted

                eventually(admitted, timeout=30)
                for number in range(2, 102):
                    broker.tell(EnterpriseVerified(enterprise=enterprise(number)), enterprise(number))

                def all_decided() -> bool:
                    found = rollout()
                    assert found.admitted_count <= 2
                    return (found.admitted_count, found.waiting_count) == (2, 99)

                eventually(all_decided, timeout=60)

                def stopped() -> bool:
                    event = GuardrailMeasured(metric=METRIC, window_seconds=60)
                    window = datetime.now(UTC).replace(second=0, microsecond=0)
                    event.window_start.FromDatetime(window)
                    event.measured_through.FromDatetime(window + timedelta(minutes=1))
                    event.samples.add(enterprise=ONE, count=100, bad=50)
                    broker.tell(event, None, subject=METRIC)
                    return rollout().cause == "GUARDRAIL"

                eventually(stopped, timeout=100, interval=1)
                known = metadata_of(gateway())
                newest = serving.GetSnapshot(
                    serving_pb2.GetSnapshotRequest(), metadata=known, timeout=10
                ).version
                admissions = serving.GetAdmissions(
                    serving_pb2.GetAdmissionsRequest(), metadata=known, timeout=10
                ).version
            heard: list[str] = []

            def all_told() -> bool:
                heard.extend(broker.heard())
                told = (heard.count("rollout.snapshot.published"), heard.count("rollout.admissions.changed"))
                return told == (newest, admissions)

            eventually(all_told, timeout=30)
        finally:
            processes.stop()
    assert heard.count("rollout.admission.granted") == 2
    assert heard.count("rollout.stage.entered") == 1
    assert heard.count("rollout.rollout.paused") == 1
