"""A stage's limit of live placements: exact, each enterprise's own, and made room in by what ends."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from numerator.events.v1 import placement_pb2 as events
from numerator.placement.v1 import placement_pb2 as pb

from services.chassis.errors import Kind, ServiceError
from services.chassis.principal import Principal
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.outcomes import told
from services.chassis.testing.rpc import member
from services.placement.tests.world import KUNLUN, OWNER, TIANSHAN, World, stamp

STRANGER = member(KUNLUN)


def limited(principal: Principal, live_placements: int) -> Principal:
    """The same member, in a stage that allows so many placements."""
    return replace(principal, limits={"live_placements": live_placements})


def prepared(world: World, principal: Principal = OWNER, placements: int = 1, **fields: object) -> str:
    """A campaign that only needs to be started."""
    audience = world.audience({"ann": (1, [])}, f"{principal.enterprise}/audiences/campers")
    campaign = world.campaign(principal, **fields).name
    for _ in range(placements):
        world.place(campaign, principal, audience=audience)
    return campaign


def start(world: World, principal: Principal, campaign: str, request_id: str = "") -> pb.Campaign:
    """Put a campaign live."""
    return world.as_(principal).StartCampaign(pb.StartCampaignRequest(name=campaign, request_id=request_id))


def refusal(world: World, principal: Principal, campaign: str) -> ServiceError:
    """What the start of a campaign is refused with."""
    with pytest.raises(grpc.RpcError) as refused:
        start(world, principal, campaign)
    return error_from_rpc(refused.value)


def start_at_once(
    world: World, campaigns: Iterable[tuple[Principal, str]]
) -> Counter[tuple[str | None, str]]:
    """Start all campaigns at the same moment; how often each enterprise met each reason, `OK` for none."""

    def outcome(each: tuple[Principal, str]) -> tuple[str | None, str]:
        try:
            start(world, *each)
        except grpc.RpcError as error:
            return each[0].enterprise, error_from_rpc(error).reason
        return each[0].enterprise, "OK"

    campaigns = list(campaigns)
    with ThreadPoolExecutor(len(campaigns)) as pool:
        return Counter(pool.map(outcome, campaigns))


def test_start__beyond_the_stage_is_refused(world: World) -> None:
    """A campaign is started with all of its placements or not at all; the caller is told what to do."""
    owner = limited(OWNER, 5)
    first, second, third = (prepared(world, placements=count) for count in (3, 3, 2))
    start(world, owner, first)
    error = refusal(world, owner, second)
    assert (error.kind, error.reason, error.retry_after) == (
        Kind.FAILED_PRECONDITION,
        "STAGE_LIMIT_REACHED",
        None,
    )
    assert error.metadata == {"limit": "live_placements", "allowed": "5", "used": "3", "wanted": "3"}
    assert "or wait for the next stage: GET /v1/edition" in error.message
    assert world.owner.GetCampaign(pb.GetCampaignRequest(name=second)).state == pb.Campaign.DRAFT
    assert start(world, owner, third).state == pb.Campaign.LIVE
    assert [each.campaign for each in told(world.database, events.CampaignStarted)] == [first, third]


def test_start__has_the_room_of_what_is_over(world: World) -> None:
    """A campaign that was ended, or whose flight is over, makes room; one whose flight has yet to begin takes it."""
    owner = limited(OWNER, 1)
    now = world.clock.now()
    tomorrow, soon, last = (
        prepared(world, start_time=stamp(now + timedelta(days=1)), end_time=stamp(now + timedelta(days=2))),
        prepared(world, end_time=stamp(now + timedelta(days=1))),
        prepared(world),
    )
    start(world, owner, tomorrow)
    assert refusal(world, owner, soon).reason == "STAGE_LIMIT_REACHED"
    world.owner.EndCampaign(pb.EndCampaignRequest(name=tomorrow))
    start(world, owner, soon)
    assert refusal(world, owner, last).reason == "STAGE_LIMIT_REACHED"
    world.clock.advance(timedelta(days=1))
    assert start(world, owner, last).state == pb.Campaign.LIVE


def test_start__takes_nothing_away_when_a_stage_allows_less(world: World) -> None:
    """What is live stays live; without a limit, or with 0, everything may be started."""
    campaigns = [prepared(world) for _ in range(4)]
    start(world, OWNER, campaigns[0])
    start(world, limited(OWNER, 0), campaigns[1])
    error = refusal(world, limited(OWNER, 1), campaigns[2])
    assert (error.metadata["used"], error.metadata["allowed"]) == ("2", "1")
    live = [row["name"] for row in world.rows("campaigns") if row["state"] == "LIVE"]
    assert sorted(live) == sorted(campaigns[:2])


def test_start__is_repeated_in_a_full_stage(world: World) -> None:
    """Who took the last place and lost the answer gets it again."""
    owner, campaign = limited(OWNER, 1), prepared(world)
    assert start(world, owner, campaign, "s-1") == start(world, owner, campaign, "s-1")


def test_start__is_exact_however_many_come_at_once(serve: Callable[..., World]) -> None:
    """A hundred campaigns of two placements at the same moment, room for 21: ten are live, and one place stays free."""
    world = serve(calls=100)
    owner = limited(OWNER, 21)
    campaigns = [prepared(world, placements=2) for _ in range(100)]
    outcomes = start_at_once(world, [(owner, campaign) for campaign in campaigns])
    assert outcomes == {(TIANSHAN, "OK"): 10, (TIANSHAN, "STAGE_LIMIT_REACHED"): 90}
    assert len(told(world.database, events.CampaignStarted)) == 10
    assert start(world, owner, prepared(world)).state == pb.Campaign.LIVE
    assert refusal(world, owner, prepared(world)).metadata["used"] == "21"


def test_start__counts_each_enterprise_for_itself(world: World) -> None:
    """Two at once, each with a limit of its own, meet exactly their own."""
    campaigns = [
        (limited(principal, allowed), prepared(world, principal))
        for principal, allowed in ((OWNER, 3), (STRANGER, 7))
        for _ in range(12)
    ]
    assert start_at_once(world, campaigns) == {
        (TIANSHAN, "OK"): 3,
        (TIANSHAN, "STAGE_LIMIT_REACHED"): 9,
        (KUNLUN, "OK"): 7,
        (KUNLUN, "STAGE_LIMIT_REACHED"): 5,
    }
