"""What rollout tells of itself moves with what is done."""

from datetime import timedelta

from numerator.rollout.v1 import admissions_pb2, serving_pb2

from services.chassis.testing.measures import counted, measured
from services.chassis.testing.rpc import gateway, member
from services.rollout.tests.world import EDITION, OTHER, World, enterprise

STAGES = "- {ring: private-beta, quota: 2}\n- {ring: open-beta, quota: 4}\n- {ring: half}"
BREAKER = "[{metric: publish.error_rate, max: 5%, windows: 1, action: pause}]"


def read(world: World, *names: str) -> dict[str, float]:
    """Gauges as the worker reads them, by name, with their labels in braces as Prometheus writes them."""
    world.worker.measure(world.database)
    found = {}
    for name in names:
        sample, _, labels = name.partition("{")
        pairs = (each.split("=") for each in labels.rstrip("}").split(",") if each)
        found[name] = measured(f"numerator_rollout_{sample}", **dict(pairs))
    return found


def test_transitions__count_what_became_of_enterprises(world: World) -> None:
    """A quota of two: two are in, one waits; one rests while it is not verified, and one is put out for good."""
    world.create(stages=STAGES)
    world.do("Start")
    name = "numerator_rollout_transitions_total"

    with (
        counted(4, name, rollout="edition", kind="granted"),
        counted(3, name, rollout="edition", kind="waitlisted"),
        counted(1, name, rollout="edition", kind="suspended"),
        counted(1, name, rollout="edition", kind="revoked"),
    ):
        for number in (1, 2, 3):
            world.tell(number, verified=False)
        world.verify(1, 2, 3)
        world.tell(1, verified=False)
        world.admit("RevokeAdmission", 2)  # the third comes in its place
        world.verify(1)

    with counted(1, name, kind="suspended"):
        world.do("Advance")
        world.admit("AdmitEnterprise", 2)
        world.do("Rollback")


def test_gauges__are_what_the_database_has(world: World) -> None:
    """Where enterprises stand, who waits, the rollout's state and share, and the versions."""
    world.create(stages=STAGES)
    world.verify(1, 2, 3)
    names = (
        "state{rollout=edition,state=DRAFT}", "state{rollout=edition,state=RUNNING}", "state{rollout=edition,state=KILLED}",
        "percent{rollout=edition}", "admissions{rollout=edition,stage=private-beta,state=ACTIVE}",
        "admissions{rollout=edition,state=WAITLISTED}", "waitlist{rollout=edition}",
    )  # fmt: skip

    before = read(world, *names)
    world.do("Start")
    started = read(world, *names)
    world.do("Kill")

    assert list(before.values()) == [1, 0, 0, 0, 0, 3, 0]
    assert list(started.values()) == [0, 1, 0, 100, 2, 1, 1]
    assert list(read(world, *names).values()) == [0, 0, 1, 100, 2, 1, 1]
    versions = read(world, "snapshot_version", "admissions_version")
    assert list(versions.values()) == [world.snapshot().version, world.edition(1).admissions_version]


def test_gates__are_1_while_they_hold(world: World) -> None:
    """One for each thing that a stage waits for."""
    world.create(stages="- {ring: a, hold: {time: 1h, approvals: 1}}\n- {ring: b}")
    world.do("Start")
    names = ("gates{rollout=edition,kind=TIME}", "gates{rollout=edition,kind=APPROVALS}")

    before = read(world, *names)
    world.do("Approve", by=OTHER, gate="a")

    assert list(before.values()) == [1, 1]
    assert list(read(world, *names).values()) == [1, 0]


def test_waitlist__has_those_who_wait_for_a_place(world: World) -> None:
    """Also who joined it before the stage is for them; not who waits for a verification."""
    world.create(stages="- {ring: a, audience: {tenants: [enterprises/x]}}\n- {ring: b}")
    world.do("Start")
    world.verify(1, 2)
    world.tell(3, verified=False)
    for number in (1, 3):
        world.as_(member(enterprise(number))).edition.JoinWaitlist(admissions_pb2.JoinWaitlistRequest())

    assert list(read(world, "waitlist{rollout=edition}").values()) == [1]


def test_replicas__by_whether_they_serve_the_newest(world: World) -> None:
    """And how long the slowest of those took."""
    world.create(stages=STAGES)
    newest = world.status().convergence
    for replica, behind, late in (("g1", 0, 40), ("g2", 0, 250), ("g3", 1, 900)):
        request = serving_pb2.ReportReplicaRequest(
            replica=replica,
            snapshot_version=newest.snapshot_version - behind,
            admissions_version=newest.admissions_version,
        )
        request.snapshot_time.FromDatetime(world.clock.now() + timedelta(milliseconds=late))
        world.as_(gateway()).serving.ReportReplica(request)

    names = ("replicas{converged=true}", "replicas{converged=false}", "convergence_lag_seconds")
    assert list(read(world, *names).values()) == [2, 1, 0.25]
    world.clock.advance(timedelta(minutes=1))
    assert list(read(world, *names).values()) == [0, 0, 0]


def test_analyses__count_by_what_they_found(world: World) -> None:
    """And each check that failed, by its metric."""
    world.create(stages="- {ring: a}", breakers=BREAKER)
    world.verify(1)
    world.do("Start")
    labels = {"rollout": "edition", "kind": "BREAKER", "metric": "publish.error_rate"}

    with (
        counted(1, "numerator_rollout_analyses_total", rollout="edition", outcome="WAITING", action="NONE"),
        counted(1, "numerator_rollout_analyses_total", rollout="edition", outcome="FAIL", action="PAUSE"),
        counted(1, "numerator_rollout_guardrail_failures_total", **labels),
    ):
        world.tick(seconds=1)
        world.clock.advance(timedelta(minutes=1))
        world.measure("publish.error_rate", {1: (1000, 900)})
        world.tick(seconds=0)


def test_steps__count_what_the_scheduler_could_and_could_not(world: World) -> None:
    """One for each rollout each second, with the reason where one failed."""
    world.create("rollouts/bad", "- {ring: a}", flag="bad", breakers=BREAKER.replace("pause", "rollback"))
    world.create(stages="- {ring: a}")
    for name in ("rollouts/bad", EDITION):
        world.do("Start", name)
    world.verify(1)
    world.forge_anchors("rollouts/bad")
    world.clock.advance(timedelta(minutes=1))
    world.measure("publish.error_rate", {1: (1000, 900)})

    name = "numerator_rollout_scheduler_steps_total"
    with counted(1, name, outcome="OK"), counted(1, name, outcome="ROLLBACK_NOT_EXACT"):
        world.tick(seconds=0)


def test_audit__head_and_anchored__are_the_same(world: World) -> None:
    """While every event is anchored as it is committed."""
    assert read(world, "audit_head") == {"audit_head": 0}
    world.create(stages=STAGES)
    world.do("Start")

    assert list(read(world, "audit_head", "audit_anchored").values()) == [2, 2]


def test_audit__an_anchor_that_failed__shows_as_a_difference(world: World) -> None:
    """What is committed stays so; the next anchor covers it."""
    world.create(stages=STAGES)
    for path in world.anchors.iterdir():
        path.unlink()
    world.anchors.rmdir()

    world.do("Start")

    assert len(world.audit()) == 2
    assert measured("numerator_rollout_audit_anchored") == 1
