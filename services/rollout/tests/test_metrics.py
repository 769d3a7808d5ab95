"""What rollout tells of itself moves with what is done."""

from services.chassis.database import PLATFORM
from services.chassis.testing.measures import counted, measured
from services.rollout import metrics
from services.rollout.tests.world import World


def test_transitions__count_who_came_in_and_who_lost_it(world: World) -> None:
    """A quota of two: two are in, one waits; whose verification is taken back is revoked, and the next comes in."""
    world.create()
    world.do("Start")

    with (
        counted(3, "numerator_rollout_transitions_total", rollout="edition", kind="granted"),
        counted(3, "numerator_rollout_transitions_total", rollout="edition", kind="waitlisted"),
        counted(1, "numerator_rollout_transitions_total", rollout="edition", kind="revoked"),
    ):
        for number in (1, 2, 3):
            world.tell(number, verified=False)
        world.verify(1, 2, 3)
        world.tell(1, verified=False)
        world.do("Advance")

    with counted(1, "numerator_rollout_transitions_total", kind="suspended"):
        world.do("Rollback")


def test_gauges__are_what_the_database_has(world: World) -> None:
    """Where enterprises stand, the rollout's state and share, and the snapshot."""
    world.create(stages=(("private-beta", 10_000, 2), ("half", 10_000, 0)))
    world.verify(1, 2, 3)

    def read() -> dict[str, float]:
        with world.database.transaction(PLATFORM) as tx:
            metrics.read(tx)
        return {
            "draft": measured("numerator_rollout_state", rollout="edition", state="DRAFT"),
            "running": measured("numerator_rollout_state", rollout="edition", state="RUNNING"),
            "killed": measured("numerator_rollout_state", rollout="edition", state="KILLED"),
            "percent": measured("numerator_rollout_percent", rollout="edition"),
            "active": measured("numerator_rollout_admissions", stage="private-beta", state="ACTIVE"),
            "waiting": measured("numerator_rollout_admissions", state="WAITLISTED"),
            "snapshot": measured("numerator_rollout_snapshot_version") - world.snapshot().version,
        }

    before = read()
    world.do("Start")
    started = read()
    world.do("Kill")

    assert before == {
        "draft": 1, "running": 0, "killed": 0, "percent": 0, "active": 0, "waiting": 3, "snapshot": 0,
    }  # fmt: skip
    assert started == {**before, "draft": 0, "running": 1, "percent": 100, "active": 2, "waiting": 1}
    assert read() == {**started, "running": 0, "killed": 1}
