"""Campaigns and placements by gRPC: prepared, put live, ended."""

from datetime import timedelta

import grpc
import pytest
from numerator.events.v1 import placement_pb2 as events
from numerator.placement.v1 import placement_pb2 as pb

from services.chassis.testing.outcomes import field_reasons_of, reason_of, told
from services.chassis.testing.rpc import client, member
from services.placement.tests.test_model import NOON
from services.placement.tests.world import AUDIENCE, KUNLUN, TIANSHAN, World, stamp

C = pb.Campaign


def refused(call: object, request: object) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(grpc.RpcError) as error:
        call(request)  # type: ignore[operator]
    return reason_of(error.value)


def test_campaign__is_prepared_put_live_and_ended(world: World) -> None:
    """Each step is told once; a repeated request is not a second step."""
    world.audience({"ann": (1, [])})
    campaign = world.campaign(capacity=5)
    assert (campaign.state, campaign.capacity, campaign.registration_count) == (C.DRAFT, 5, 0)
    assert world.owner.GetCampaign(pb.GetCampaignRequest(name=campaign.name)) == campaign
    start = pb.StartCampaignRequest(name=campaign.name, request_id="s-1")
    assert refused(world.owner.StartCampaign, start) == "CAMPAIGN_WITHOUT_PLACEMENT"
    world.place(campaign.name)
    assert world.owner.StartCampaign(start).state == C.LIVE
    assert world.owner.StartCampaign(start).state == C.LIVE
    assert (
        refused(world.owner.StartCampaign, pb.StartCampaignRequest(name=campaign.name))
        == "CAMPAIGN_NOT_DRAFT"
    )
    end = pb.EndCampaignRequest(name=campaign.name)
    assert world.owner.EndCampaign(end).state == C.ENDED
    assert refused(world.owner.EndCampaign, end) == "CAMPAIGN_NOT_LIVE"
    assert [each.campaign for each in told(world.database, events.CampaignStarted)] == [campaign.name]
    assert [each.campaign for each in told(world.database, events.CampaignEnded)] == [campaign.name]


def test_campaign__without_a_flight_is_refused(world: World) -> None:
    """It could never be shown."""
    with pytest.raises(grpc.RpcError) as error:
        world.campaign(end_time=stamp(world.clock.now()))
    assert field_reasons_of(error.value) == {"campaign.end_time": "FLIGHT_EMPTY"}


def test_placement__is_kept_as_it_was_given(world: World) -> None:
    """Also the floor, whose last digit decides who just reaches it; the cap is 1 where nothing is said."""
    world.audience({"ann": (1, [])})
    campaign = world.campaign().name
    creative = pb.Creative(
        title="SUV weekend",
        description="Dunes",
        call_to_action="Sign up",
        venue="Kumtag",
        event_time=stamp(NOON),
    )
    made = [
        world.place(campaign, creative=creative, relevance_floor=0.7, daily_cap=3),
        world.place(campaign, touchpoint=pb.SEARCH, format=pb.NATIVE_POST),
    ]
    assert made[0].creative == creative
    assert (made[0].relevance_floor, made[0].daily_cap, made[1].daily_cap) == (
        pb.Placement(relevance_floor=0.7).relevance_floor,
        3,
        1,
    )
    listed = world.owner.ListPlacements(pb.ListPlacementsRequest(parent=campaign, page_size=1))
    rest = world.owner.ListPlacements(
        pb.ListPlacementsRequest(parent=campaign, page_size=1, page_token=listed.next_page_token)
    )
    assert sorted([*listed.placements, *rest.placements], key=lambda each: each.name) == sorted(
        made, key=lambda each: each.name
    )
    assert not rest.next_page_token


def test_placement__needs_an_audience_that_has_arrived(world: World) -> None:
    """Of the same enterprise, whole, and not archived; and a campaign that is still prepared."""
    campaign = world.campaign().name

    def place(audience: str) -> str:
        with pytest.raises(grpc.RpcError) as error:
            world.place(campaign, audience=audience)
        return reason_of(error.value)

    theirs = world.audience({"ann": (1, [])}, f"{KUNLUN}/audiences/a")
    assert {place(AUDIENCE), place(theirs)} == {"AUDIENCE_NOT_READY"}
    with pytest.raises(grpc.RpcError) as error:
        world.place(campaign, audience="audiences/a")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    world.audience({"ann": (1, [])})
    world.place(campaign)
    world.owner.StartCampaign(pb.StartCampaignRequest(name=campaign))
    assert place(AUDIENCE) == "CAMPAIGN_NOT_DRAFT"


def test_list__goes_through_all_pages_newest_first(world: World) -> None:
    """Each once, and only the enterprise's own; a token of another list is refused."""
    made = []
    for _ in range(5):
        made.append(world.campaign().name)
        world.clock.advance(timedelta(seconds=1))
    world.campaign(member(KUNLUN))
    seen, token = [], ""
    while True:
        request = pb.ListCampaignsRequest(parent=TIANSHAN, page_size=2, page_token=token)
        page = world.owner.ListCampaigns(request)
        seen += [each.name for each in page.campaigns]
        if not page.next_page_token:
            break
        token = page.next_page_token
    assert seen == made[::-1]
    other = pb.ListRegistrationsRequest(parent=made[0], page_token=token)
    with pytest.raises(grpc.RpcError) as error:
        world.owner.ListRegistrations(other)
    assert field_reasons_of(error.value) == {"page_token": "PAGE_TOKEN_INVALID"}


def test_calls__need_their_rights(world: World) -> None:
    """An analyst reads; a partner needs the scope; members do not ask for decisions."""
    analyst, partner = member(TIANSHAN, ["ANALYST"]), client(TIANSHAN, ["campaigns.read"])
    listed = pb.ListCampaignsRequest(parent=TIANSHAN)
    assert world.as_(analyst).ListCampaigns(listed) == world.as_(partner).ListCampaigns(listed)
    for principal, reason in ((analyst, "ROLE_MISSING"), (partner, "SCOPE_MISSING")):
        with pytest.raises(grpc.RpcError) as error:
            world.campaign(principal)
        assert reason_of(error.value) == reason
    ask = pb.DecideRequest(user="users/ann", touchpoint=pb.HOME_FEED)
    assert refused(world.owner.Decide, ask) == "CALLER_NOT_ALLOWED"
