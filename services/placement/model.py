"""Modules, campaigns, placements and their rules; pure."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.names import NamePattern

ENTERPRISE_NAME = NamePattern("enterprises/{enterprise}")
MODULE_NAME = NamePattern("enterprises/{enterprise}/modules/{module}")
CAMPAIGN_NAME = NamePattern("enterprises/{enterprise}/campaigns/{campaign}")
PLACEMENT_NAME = NamePattern("enterprises/{enterprise}/campaigns/{campaign}/placements/{placement}")
REGISTRATION_NAME = NamePattern("enterprises/{enterprise}/campaigns/{campaign}/registrations/{registration}")
AUDIENCE_NAME = NamePattern("enterprises/{enterprise}/audiences/{audience}")

CAP_WINDOW = timedelta(hours=24)
"""A daily cap counts the exposures of the last 24 hours, whenever the day began."""

EXPOSURES_KEPT = CAP_WINDOW
"""How long an exposure is kept here: it then counts against no cap, and no token can repeat it. Analytics has it for good."""

CHANGES_KEPT = timedelta(days=1)
"""How long changes stay in the log; the engine loads the tables at its start and needs only what came since."""


class CampaignState(StrEnum):
    """Where a campaign stands."""

    DRAFT = "DRAFT"
    LIVE = "LIVE"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class Enterprise:
    """What people see of an enterprise."""

    name: str
    display_name: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Module:
    """A block of an enterprise's page that keeps its place for its flight."""

    name: str
    title: str
    body: str
    link_url: str
    start_time: datetime
    end_time: datetime
    position: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Campaign:
    """An offer over a time. `capacity` 0 is no limit."""

    name: str
    display_name: str
    start_time: datetime
    end_time: datetime
    capacity: int
    create_time: datetime
    state: CampaignState = CampaignState.DRAFT
    registration_count: int = 0

    def is_live(self, now: datetime) -> bool:
        """Whether it is LIVE and within its flight."""
        return self.state is CampaignState.LIVE and self.start_time <= now < self.end_time


@dataclass(frozen=True, slots=True)
class Creative:
    """What is shown. "" and None are left out."""

    title: str
    description: str = ""
    call_to_action: str = ""
    venue: str = ""
    event_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """What a campaign shows at one touchpoint, and to whom."""

    name: str
    campaign: str
    touchpoint: str
    format: str
    audience: str
    relevance_floor: float
    daily_cap: int
    creative: Creative
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Registration:
    """That a person signed up."""

    name: str
    campaign: str
    person: str
    display_name: str
    placement: str
    create_time: datetime


def check_flight(start: datetime, end: datetime, resource: str) -> None:
    """Raise INVALID_ARGUMENT unless the flight ends after it starts."""
    if start >= end:
        raise invalid(f"{resource}.end_time", "must be later than start_time", reason="FLIGHT_EMPTY")


def check_link(url: str) -> None:
    """Raise INVALID_ARGUMENT unless the link is empty or leads to a web page; `javascript:` and the like never do."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        fine = False
    # Browsers drop some of these, so that the link would lead elsewhere than it seems to.
    fine = fine and url.isprintable() and " " not in url and "\\" not in url
    if not fine:
        raise invalid(
            "module.link_url", "must begin with https:// or http:// and name a host", reason="LINK_NOT_WEB"
        )


def start(campaign: Campaign, placements: int) -> Campaign:
    """Put a campaign live."""
    if campaign.state is not CampaignState.DRAFT:
        raise not_draft(campaign)
    if not placements:
        raise _refused("CAMPAIGN_WITHOUT_PLACEMENT", campaign, "has no placement: create one first")
    return replace(campaign, state=CampaignState.LIVE)


def end(campaign: Campaign) -> Campaign:
    """End a live campaign."""
    if campaign.state is not CampaignState.LIVE:
        raise _refused(
            "CAMPAIGN_NOT_LIVE", campaign, f"is {campaign.state}: only a LIVE campaign can be ended"
        )
    return replace(campaign, state=CampaignState.ENDED)


def register(campaign: Campaign, now: datetime) -> Campaign:
    """Take one more person."""
    if not campaign.is_live(now):
        raise _refused("CAMPAIGN_NOT_LIVE", campaign, "takes no registrations now")
    if campaign.capacity and campaign.registration_count >= campaign.capacity:
        raise _refused("EVENT_FULL", campaign, f"has taken all {campaign.capacity} people")
    return replace(campaign, registration_count=campaign.registration_count + 1)


def not_draft(campaign: Campaign) -> ServiceError:
    """The campaign can no longer be prepared."""
    return _refused(
        "CAMPAIGN_NOT_DRAFT", campaign, f"is {campaign.state}: only a DRAFT can be changed or started"
    )


def audience_not_ready(audience: str) -> ServiceError:
    """No built version of the audience has arrived."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "AUDIENCE_NOT_READY",
        f"no built version of {audience} has arrived: build it, or try again in a moment",
        metadata={"audience": audience},
        retry_after=timedelta(seconds=1),
    )


def cap_reached(placement: str) -> ServiceError:
    """The person has seen the placement as often as the cap allows."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "CAP_REACHED",
        "the person has seen this placement as often as its daily cap allows",
        metadata={"placement": placement},
    )


def _refused(reason: str, campaign: Campaign, what: str) -> ServiceError:
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        reason,
        f"{campaign.name} {what}",
        metadata={"name": campaign.name, "state": campaign.state.value},
    )
