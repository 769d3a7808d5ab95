"""Campaigns' states, flights and links."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.chassis.errors import ServiceError
from services.placement import model
from services.placement.model import Campaign, CampaignState

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
DRAFT = Campaign("enterprises/e/campaigns/c", "SUV weekend", NOON, NOON + timedelta(days=1), 2, NOON)
LIVE = replace(DRAFT, state=CampaignState.LIVE)
ENDED = replace(DRAFT, state=CampaignState.ENDED)


def reason(call: object) -> str:
    """The reason of what a call raises."""
    with pytest.raises(ServiceError) as refused:
        call()  # type: ignore[operator]
    return refused.value.violations[0].reason if refused.value.violations else refused.value.reason


def test_campaign__goes_from_draft_over_live_to_ended() -> None:
    """And no other way."""
    assert model.start(DRAFT, 1) == LIVE
    assert model.end(LIVE) == ENDED
    assert reason(lambda: model.start(DRAFT, 0)) == "CAMPAIGN_WITHOUT_PLACEMENT"
    assert {reason(lambda each=each: model.start(each, 1)) for each in (LIVE, ENDED)} == {
        "CAMPAIGN_NOT_DRAFT"
    }
    assert {reason(lambda each=each: model.end(each)) for each in (DRAFT, ENDED)} == {"CAMPAIGN_NOT_LIVE"}


def test_registration__is_for_live_campaigns_in_flight_with_room() -> None:
    """The flight's first moment belongs to it, its last does not; capacity 0 is no limit."""
    one = model.register(LIVE, NOON)
    two = model.register(one, NOON)
    assert two.registration_count == 2
    assert reason(lambda: model.register(two, NOON)) == "EVENT_FULL"
    assert model.register(replace(two, capacity=0), NOON).registration_count == 3
    for campaign, now in (
        (DRAFT, NOON),
        (ENDED, NOON),
        (LIVE, NOON - timedelta(seconds=1)),
        (LIVE, NOON + timedelta(days=1)),
    ):
        assert reason(lambda c=campaign, n=now: model.register(c, n)) == "CAMPAIGN_NOT_LIVE"


def test_flight__must_have_a_length() -> None:
    """A moment is not enough."""
    model.check_flight(NOON, NOON + timedelta(microseconds=1), "module")
    assert reason(lambda: model.check_flight(NOON, NOON, "module")) == "FLIGHT_EMPTY"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://tianshan.example",
        "http://127.0.0.1:7400/pages/x?a=b&c=d#e",
        "HTTPS://Tianshan.Example/路?品牌=天山",
        "https://[2001:db8::1]/",
    ],
)
def test_link__to_a_web_page(url: str) -> None:
    """Is taken as it was written."""
    model.check_link(url)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript://tianshan.example/%0aalert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "//tianshan.example",
        "/pages/x",
        "tianshan.example",
        "https://",
        "https:///path",
        "ftp://tianshan.example",
        " https://tianshan.example",
        "https://tianshan.example /",
        "https://tian\tshan.example",
        "https://evil.example\\@tianshan.example",
        "https://tianshan.example:port/",
        "https://[2001:db8::1",
        "https://tianshan.example/\u202egnp.exe",
    ],
)
def test_link__to_anything_else(url: str) -> None:
    """Is refused: it would run something, lead elsewhere than it seems to, or nowhere."""
    assert reason(lambda: model.check_link(url)) == "LINK_NOT_WEB"
