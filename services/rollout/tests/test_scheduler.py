"""What moves by itself, where the rules of moving (test_transitions) meet what is stored and measured."""

from datetime import timedelta

import pytest
from numerator.events.v1 import rollout_pb2 as events

from services.chassis.buckets import bucket_of
from services.chassis.database import PLATFORM
from services.rollout import measurements, scheduler
from services.rollout.guardrails import Sample
from services.rollout.tests.world import EDITION, OTHER, World, enterprise, refusal

METRIC = "gateway.error_rate"
BREAKER = f"[{{metric: {METRIC}, max: 5%, action: rollback}}]"
GUARDRAIL = f"[{{metric: {METRIC}, worse: up, alpha: 0.05, action: rollback}}]"
LOOK_EVERY = timedelta(seconds=15)


def step(world: World, **passed: float) -> None:
    """So much time passes, and the scheduler comes by."""
    world.clock.advance(timedelta(**passed))
    with world.database.transaction(PLATFORM) as tx:
        scheduler.step(tx, EDITION, look_every=LOOK_EVERY)


def measured(world: World, numbers: range, *, bad: int = 0) -> None:
    """These enterprises make a hundred calls, in the minute before this one, so many of them bad."""
    now = world.clock.now().replace(second=0, microsecond=0)
    with world.database.transaction(PLATFORM) as tx:
        measurements.record(
            tx,
            METRIC,
            through=now,
            window_start=now - timedelta(minutes=1),
            samples={enterprise(number): Sample(100, bad) for number in numbers},
        )


def control_of(count: int, share: int) -> list[int]:
    """Those of the first `count` enterprises who are of the control group of the edition."""
    return [n for n in range(1, count + 1) if bucket_of(f"{EDITION}/control", enterprise(n)) < share]


def test_ramp__of_the_first_stage_climbs_while_it_is_watched(world: World) -> None:
    """At its foot nobody is in and nobody is compared: there is nothing to judge, and nothing to fail at."""
    world.create(stages="  - {ring: a, percent: 100%, ramp: 1h}", breakers=BREAKER)
    world.do("Start")
    world.verify(*range(1, 11))

    step(world)
    assert world.active() == set()
    step(world, minutes=20)
    assert world.get().basis_points == 3_300
    step(world, minutes=9)
    measured(world, range(1, 11))
    step(world, minutes=29)
    measured(world, range(1, 11))
    step(world, minutes=2)
    assert len(world.active()) == 10


def test_ramp__of_a_backlog_is_one_change(world: World) -> None:
    """However long nobody looked, the share is what the clock says, in one step."""
    world.create(stages="  - {ring: a, percent: 100%, ramp: 1h}")
    world.do("Start")

    step(world, hours=9)

    assert world.get().basis_points == 10_000
    climbs = [each for each in world.audit(EDITION) if each.cause == "rollout.climbed"]
    assert len(climbs) == 1


def test_hold__of_a_backlog_advances_one_stage(world: World) -> None:
    """Each stage's time counts from when it was really entered."""
    world.create(stages="".join(f"  - {{ring: {ring}, hold: {{time: 1h}}}}\n" for ring in "abc"))
    world.do("Start")

    step(world, hours=9)
    step(world)

    assert world.get().stage == "b"
    step(world, minutes=59)
    assert world.get().stage == "b"
    step(world, minutes=1)
    assert world.get().stage == "c"
    assert [each.stage for each in world.told(events.StageEntered)] == ["a", "b", "c"]


def test_hold__ends_by_itself_only_with_the_approvals(world: World) -> None:
    """Which end with a rollback: what was approved then is to be approved anew."""
    world.create(stages="  - {ring: a, hold: {time: 1h, approvals: 1}}\n  - {ring: b}")
    world.do("Start")
    step(world, hours=2)
    assert world.get().stage == "a"

    world.do("Approve", by=OTHER, gate="a")
    step(world)
    assert world.get().stage == "b"

    world.do("Rollback")
    world.do("Restart")
    step(world, hours=2)
    assert world.get().stage == "a"
    assert refusal(world.do, "Advance") == "APPROVALS_MISSING"


@pytest.mark.parametrize("narrowing", ["keep", "expel_all"])
def test_look__after_a_narrowing_expects_the_arms_as_they_are(world: World, narrowing: str) -> None:
    """Who stays in by KEEP belongs to the stage; that they are more than its share is no sample ratio mismatch."""
    count, share = 120, 3_000
    plan = {"control_share": "30%", "narrowing": narrowing, "guardrails": GUARDRAIL}
    world.create(stages="  - {ring: a, percent: 100%}", **plan)
    world.do("Start")
    world.verify(*range(1, count + 1))
    world.create(stages="  - {ring: a, percent: 20%}", **plan)
    step(world, minutes=2)
    measured(world, range(1, count + 1))

    step(world, minutes=1)

    assert len(control_of(count, share)) >= 20
    assert world.status().analysis.outcome != "SRM"
    assert world.get().state == world.get().RUNNING


def test_look__of_whom_one_arm_is_hardly_seen_pauses(world: World) -> None:
    """All of the control group are seen, and a few of those who are in: something loses them."""
    count = 120
    world.create(stages="  - {ring: a}", control_share="30%", guardrails=GUARDRAIL)
    world.do("Start")
    world.verify(*range(1, count + 1))
    step(world, minutes=2)
    control = control_of(count, 3_000)
    measured(world, range(1, 30))
    with world.database.transaction(PLATFORM) as tx:
        now = world.clock.now().replace(second=0, microsecond=0)
        samples = {enterprise(number): Sample(100, 0) for number in control}
        measurements.record(tx, METRIC, through=now, window_start=now - timedelta(minutes=1), samples=samples)

    step(world, minutes=1)

    assert (world.get().state, world.get().cause) == (world.get().PAUSED, "SRM")


def test_look__rolls_back_what_does_harm__and_says_so_once(world: World) -> None:
    """By a breaker; the scheduler then leaves it alone until somebody restarts it."""
    world.create(stages="  - {ring: a}\n  - {ring: b}", breakers=BREAKER)
    world.do("Start")
    world.verify(1, 2, 3)
    for _ in range(3):
        measured(world, range(1, 4), bad=50)
        step(world, minutes=1)

    after = world.get()
    assert (after.state, after.stage, after.cause) == (after.ROLLED_BACK, "", "GUARDRAIL")
    assert world.active() == set()
    assert len(world.told(events.RolloutRolledBack)) == 1
