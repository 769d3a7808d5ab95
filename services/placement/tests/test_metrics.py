"""What placement tells of itself moves with what is done."""

import grpc
import pytest
from numerator.placement.v1 import placement_pb2 as pb

from services.chassis.testing.measures import counted, measured
from services.placement import metrics
from services.placement.tests.world import World


def test_decisions__count_by_outcome_and_reason(world: World) -> None:
    """Of one view and of many; of an interest it is not told which."""
    world.live({"ann": (0.7, ["topic:camping"]), "bo": (0.1, [])}, relevance_floor=0.5)
    name = "numerator_placement_decisions_total"
    views = [pb.DecideRequest(user=f"users/{person}", touchpoint=pb.HOME_FEED) for person in ("ann", "carl")]

    with (
        counted(1, name, outcome="PLACEMENT", reason="INTEREST"),
        counted(1, name, outcome="NONE", reason="BELOW_FLOOR"),
        counted(1, name, outcome="NONE", reason="CAP_REACHED"),
        counted(1, name, outcome="NONE", reason="NOT_IN_AUDIENCE"),
        counted(2, "numerator_placement_decision_duration_seconds_count", views="one"),
        counted(1, "numerator_placement_decision_duration_seconds_count", views="batch"),
    ):
        world.decide("ann")
        world.decide("bo")
        world.feed.DecideBatch(pb.DecideBatchRequest(requests=views))


def test_exposures_and_registrations__count_once(world: World) -> None:
    """What is told again, or refused, does not count again."""
    placement = world.live({"ann": (0.7, [])}, capacity=1)
    token = world.decide("ann").token

    with (
        counted(1, "numerator_placement_exposures_total", touchpoint="HOME_FEED"),
        counted(1, "numerator_placement_registrations_total", touchpoint="HOME_FEED"),
    ):
        for _ in range(2):
            world.expose(token)
            world.register(token)
        with pytest.raises(grpc.RpcError):
            world.register(world.token("d", "bo", placement.name))


def test_live__is_what_decisions_are_made_from(world: World) -> None:
    """Campaigns, placements and people, until the campaign ends."""
    metrics.watch(world.engine)
    placement = world.live({"ann": (0.7, []), "bo": (0.1, [])})

    def live() -> list[float]:
        return [
            measured("numerator_placement_live", kind=kind) for kind in ("campaigns", "placements", "people")
        ]

    during = live()
    world.owner.EndCampaign(pb.EndCampaignRequest(name=placement.name.partition("/placements/")[0]))
    world.settle()

    assert during == [1, 1, 2]
    assert live() == [0, 0, 2]
