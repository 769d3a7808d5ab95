"""What happens at the same moment happens as if one came after the other."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc
from numerator.events.v1 import rollout_pb2 as events

from services.chassis.errors import Kind, ServiceError
from services.chassis.testing.outcomes import reason_of
from services.rollout.tests.world import World, enterprise, plan


def at_once(calls: Iterable[Callable[[], object]], threads: int = 16) -> Counter[str]:
    """Make all calls at once; how often each reason came back, `OK` for none."""

    def outcome(call: Callable[[], object]) -> str:
        try:
            call()
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"

    with ThreadPoolExecutor(threads) as pool:
        return Counter(pool.map(outcome, calls))


def until_done(call: Callable[[], object]) -> Callable[[], None]:
    """As the worker does it: what the database was too busy for comes again."""

    def repeat() -> None:
        while True:
            try:
                call()
            except ServiceError as error:
                if error.kind is not Kind.UNAVAILABLE:
                    raise
            else:
                return

    return repeat


def test_quota__200_verifications_at_once__admit_exactly_50(world: World) -> None:
    """Through real transactions: 50 are in, each was told once, and 150 wait in places 1 to 150."""
    world.create(stages="  - {ring: private-beta, quota: 50}")
    world.do("Start")

    assert at_once(until_done(lambda number=number: world.verify(number)) for number in range(200)) == {
        "OK": 200
    }

    admissions = world.admissions()
    assert len(admissions) == 200
    assert len(world.active()) == 50
    granted = [each.enterprise for each in world.told(events.AdmissionGranted)]
    assert len(granted) == 50
    assert set(granted) == world.active()
    assert sorted(each.position for each in admissions if each.reason == "QUOTA_FULL") == list(range(1, 151))
    assert world.snapshots_told() == list(range(1, len(world.snapshots_told()) + 1))


def test_create__while_enterprises_come__misses_none(world: World) -> None:
    """An enterprise of which the rollout heard while it was being made is on its list."""
    calls = [lambda number=number: world.verify(number) for number in range(30)]
    calls[15:15] = [lambda n=n: world.create(f"rollouts/r{n}", flag=f"f{n}") for n in range(5)]

    assert at_once(map(until_done, calls)) == {"OK": 35}

    for number in range(5):
        assert {each.enterprise for each in world.admissions(f"rollouts/r{number}")} == {
            enterprise(n) for n in range(30)
        }


def test_advance__by_eight_who_saw_the_same__widens_once(world: World) -> None:
    """With its etag each acts on what it saw: one wins."""
    world.create()
    etag = world.do("Start").etag

    outcomes = at_once(lambda: world.do("Advance", etag=etag) for _ in range(8))

    assert outcomes == {"OK": 1, "ETAG_MISMATCH": 7}


def test_create__twice_at_once__makes_one(world: World) -> None:
    """The same plan, eight times: one rollout of one version, made by one of them."""
    made: list[bool] = []

    def apply() -> None:
        made.append(world.apply(plan()).created)

    assert at_once(apply for _ in range(8)) == {"OK": 8}
    assert sorted(made) == [False] * 7 + [True]
    assert [each["version"] for each in world.rows("plans")] == [1]
