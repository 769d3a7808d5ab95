"""What can be done with pages, campaigns and decisions: load, decide, save, tell; each in the transaction that it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from numerator.events.v1 import placement_pb2 as events
from numerator.events.v1.targeting_pb2 import AudienceComputed, AudienceMembersListed

from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.ids import deterministic_id, new_id
from services.placement import model, store
from services.placement.model import (
    CAMPAIGN_NAME,
    MODULE_NAME,
    PLACEMENT_NAME,
    REGISTRATION_NAME,
    Campaign,
    Module,
    Placement,
    Registration,
)
from services.placement.tokens import Token

T = TypeVar("T")

# Pages


def create_module(
    tx: Transaction,
    parent: str,
    *,
    title: str,
    body: str,
    link_url: str,
    start: datetime,
    end: datetime,
    position: int,
) -> Module:
    """Put a module on the page for its flight."""
    model.check_flight(start, end, "module")
    model.check_link(link_url)
    name = MODULE_NAME.format(enterprise=_id(parent), module=new_id())
    module = Module(name, title, body, link_url, start, end, position, tx.now)
    store.insert_module(tx, module)
    return module


def get_module(tx: Transaction, name: str) -> Module:
    """A module. Raises NOT_FOUND."""
    return _found(store.get_module(tx, name), name)


def delete_module(tx: Transaction, name: str) -> Module:
    """Take a module off the page. Raises NOT_FOUND."""
    return _found(store.delete_module(tx, name), name)


@dataclass(frozen=True, slots=True)
class Page:
    """What an enterprise's page shows."""

    display_name: str
    modules: list[Module]
    events: list[tuple[Campaign, Placement]]


def page_of(tx: Transaction, enterprise: str) -> Page:
    """The page as it is now: modules within their flight, and the event cards of live campaigns. Raises NOT_FOUND."""
    display_name = _found(store.enterprise_name(tx, enterprise), f"pages/{_id(enterprise)}")
    live = [campaign for campaign in store.list_campaigns(tx, limit=100) if campaign.is_live(tx.now)]
    cards = [
        (campaign, placement)
        for campaign in live
        for placement in store.placements_of(tx, campaign.name)
        if placement.format == "EVENT_CARD"
    ]
    return Page(display_name, store.modules_shown(tx, tx.now), cards)


# Campaigns


def create_campaign(
    tx: Transaction, parent: str, *, display_name: str, start: datetime, end: datetime, capacity: int
) -> Campaign:
    """Store a DRAFT."""
    model.check_flight(start, end, "campaign")
    name = CAMPAIGN_NAME.format(enterprise=_id(parent), campaign=new_id())
    campaign = Campaign(name, display_name, start, end, capacity, tx.now)
    store.insert_campaign(tx, campaign)
    return campaign


def get_campaign(tx: Transaction, name: str) -> Campaign:
    """A campaign. Raises NOT_FOUND."""
    return _found(store.get_campaign(tx, name), name)


def start_campaign(tx: Transaction, name: str) -> Campaign:
    """Put a campaign live."""
    campaign = _found(store.lock_campaign(tx, name), name)
    live = model.start(campaign, len(store.placements_of(tx, name)))
    store.update_campaign(tx, live)
    tx.emit(events.CampaignStarted(campaign=name), subject=name)
    store.tell_engine(tx, "campaigns", [name])
    return live


def end_campaign(tx: Transaction, name: str) -> Campaign:
    """End a campaign at once."""
    ended = model.end(_found(store.lock_campaign(tx, name), name))
    store.update_campaign(tx, ended)
    tx.emit(events.CampaignEnded(campaign=name), subject=name)
    store.tell_engine(tx, "campaigns", [name])
    return ended


def create_placement(
    tx: Transaction,
    parent: str,
    *,
    touchpoint: str,
    look: str,
    audience: str,
    floor: float,
    cap: int,
    creative: Mapping[str, Any],
) -> Placement:
    """Add a placement to a campaign that is being prepared."""
    model.AUDIENCE_NAME.parse(audience, "placement.audience")
    campaign = _found(store.lock_campaign(tx, parent), parent)
    if campaign.state is not model.CampaignState.DRAFT:
        raise model.not_draft(campaign)
    if not store.audience_is_ready(tx, audience):
        raise model.audience_not_ready(audience)
    name = PLACEMENT_NAME.format(**CAMPAIGN_NAME.parse(parent, "parent"), placement=new_id())
    placement = Placement(name, parent, touchpoint, look, audience, floor, cap or 1, creative, tx.now)
    store.insert_placement(tx, placement)
    return placement


# What follows from decisions


def record_exposure(tx: Transaction, token: Token) -> datetime:
    """Record that a decision's placement was seen; returns when it was first. Raises CAP_REACHED beyond the cap."""
    cap = store.daily_cap(tx, token.placement)
    if cap is None:
        raise not_found(token.placement)
    seen = store.count_exposures(tx, token.placement, token.person)
    known = store.get_exposure(tx, token.decision)
    if known is not None:
        return known
    if seen >= cap:
        raise model.cap_reached(token.placement)
    store.insert_exposure(tx, token.decision, token.placement, token.person)
    exposure = events.ExposureRecorded(
        placement=token.placement,
        user=f"users/{token.person}",
        touchpoint=token.touchpoint,
        decision=token.decision,
        exposure_time=_stamp(tx.now),
    )
    tx.emit(exposure, subject=token.placement, ordering_key=f"{token.placement} {token.person}")
    return tx.now


def register(tx: Transaction, token: Token, display_name: str) -> Registration:
    """Sign a decision's person up, once for a campaign. Raises CAMPAIGN_NOT_LIVE, EVENT_FULL."""
    name = token.placement.partition("/placements/")[0]
    campaign = _found(store.lock_campaign(tx, name), name)
    known = store.get_registration(tx, name, token.person)
    if known is not None:
        return known
    store.update_campaign(tx, model.register(campaign, tx.now))
    # Made of campaign and person, so that it is the same name whenever it is made.
    identifier = deterministic_id(name, token.person)
    registration = Registration(
        REGISTRATION_NAME.format(**CAMPAIGN_NAME.parse(name), registration=identifier),
        name,
        token.person,
        display_name,
        token.placement,
        tx.now,
    )
    store.insert_registration(tx, registration)
    created = events.RegistrationCreated(
        registration=registration.name,
        placement=token.placement,
        user=f"users/{token.person}",
        create_time=_stamp(tx.now),
    )
    tx.emit(created, subject=registration.name)
    return registration


# What other services tell


def remember_enterprise(tx: Transaction, enterprise: str, display_name: str) -> None:
    """Learn the name that people see."""
    store.save_enterprise_name(tx, enterprise, display_name)


def keep_part(tx: Transaction, part: AudienceMembersListed) -> None:
    """Keep a part of an audience; with the last one its version becomes current."""
    store.save_part(tx, part.audience, part.version, part.part, part.SerializeToString())
    _promote(tx, part.audience, part.version)


def complete_audience(tx: Transaction, computed: AudienceComputed) -> None:
    """A version is told to be complete; it becomes current once all of its parts are here, in whatever order they came."""
    store.save_version(tx, computed.audience, computed.version, computed.parts)
    _promote(tx, computed.audience, computed.version)


def drop_audience(tx: Transaction, audience: str) -> None:
    """Use an audience no more."""
    store.archive_audience(tx, audience)
    store.tell_engine(tx, "audiences", [audience])


def withdraw(tx: Transaction, person: str) -> None:
    """Show a person nothing any more."""
    if store.withdraw(tx, person):
        store.tell_engine(tx, "withdrawn", [person])


def _promote(tx: Transaction, audience: str, version: int) -> None:
    if store.promote_version(tx, audience, version):
        store.tell_engine(tx, "audiences", [audience])


def _id(enterprise: str) -> str:
    return enterprise.removeprefix("enterprises/")


def _found(resource: T | None, name: str) -> T:
    if resource is None:
        raise not_found(name)
    return resource


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
