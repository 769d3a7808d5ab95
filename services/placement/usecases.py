"""What can be done with pages, campaigns and decisions: load, decide, save, tell; each in the transaction that it is given."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from numerator.events.v1 import placement_pb2 as events
from numerator.events.v1.targeting_pb2 import AudienceComputed, AudienceMembersListed

from services.chassis.database import Transaction, purge_changes
from services.chassis.errors import not_found
from services.chassis.ids import deterministic_id, new_id
from services.chassis.limits import check_stage_limit
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal
from services.chassis.timestamps import stamp
from services.placement import metrics, model, store
from services.placement.model import (
    AUDIENCE_NAME,
    CAMPAIGN_NAME,
    ENTERPRISE_NAME,
    MODULE_NAME,
    PLACEMENT_NAME,
    REGISTRATION_NAME,
    Campaign,
    CampaignState,
    Creative,
    Enterprise,
    Module,
    Placement,
    Registration,
)
from services.placement.tokens import Token

MOST_SHOWN = 100
"""The most modules, and the most events, that a page shows."""

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
    _check_own(tx, parent)
    model.check_flight(start, end, "module")
    model.check_link(link_url)
    name = MODULE_NAME.format(**ENTERPRISE_NAME.parse(parent, "parent"), module=new_id())
    module = Module(name, title, body, link_url, start, end, position, tx.now)
    store.insert_module(tx, module)
    return module


def get_module(tx: Transaction, name: str) -> Module:
    """A module. Raises NOT_FOUND."""
    return _found(store.get_module(tx, name), name)


def list_modules(
    tx: Transaction, parent: str, *, limit: int, after: tuple[int, str, str] | None
) -> list[Module]:
    """A page's modules in its order, after the one with this position, creation time and name. Raises NOT_FOUND."""
    _check_own(tx, parent)
    return store.list_modules(tx, parent, limit=limit, after=after)


def delete_module(tx: Transaction, name: str) -> Module:
    """Take a module off the page. Raises NOT_FOUND."""
    return _found(store.delete_module(tx, name), name)


@dataclass(frozen=True, slots=True)
class Page:
    """What an enterprise's page shows: modules within their flight, and the event cards of live campaigns."""

    enterprise: Enterprise
    modules: list[Module]
    events: list[tuple[Campaign, Placement]]


def page_of(tx: Transaction, enterprise: str) -> Page:
    """The page as it is now. Raises NOT_FOUND."""
    return Page(
        _found(store.get_enterprise(tx, enterprise), f"pages/{enterprise.removeprefix('enterprises/')}"),
        store.modules_shown(tx, enterprise, limit=MOST_SHOWN),
        store.events_shown(tx, enterprise, limit=MOST_SHOWN),
    )


# Campaigns


def create_campaign(
    tx: Transaction, parent: str, *, display_name: str, start: datetime, end: datetime, capacity: int
) -> Campaign:
    """Store a DRAFT."""
    _check_own(tx, parent)
    model.check_flight(start, end, "campaign")
    name = CAMPAIGN_NAME.format(**ENTERPRISE_NAME.parse(parent, "parent"), campaign=new_id())
    campaign = Campaign(name, display_name, start, end, capacity, tx.now)
    store.insert_campaign(tx, campaign)
    return campaign


def get_campaign(tx: Transaction, name: str) -> Campaign:
    """A campaign. Raises NOT_FOUND."""
    return _found(store.get_campaign(tx, name), name)


def list_campaigns(
    tx: Transaction, parent: str, *, limit: int, before: tuple[str, str] | None
) -> list[Campaign]:
    """An enterprise's campaigns, newest first, after the one with this creation time and name. Raises NOT_FOUND."""
    _check_own(tx, parent)
    return store.list_campaigns(tx, parent, limit=limit, before=before)


def start_campaign(tx: Transaction, caller: Principal, name: str) -> Campaign:
    """Put a campaign live. Raises NOT_FOUND, CAMPAIGN_NOT_DRAFT, CAMPAIGN_WITHOUT_PLACEMENT, StageLimitError."""
    campaign = _found(store.lock_campaign(tx, name), name)
    placements = len(store.placements_of(tx, name))
    live = model.start(campaign, placements)
    check_stage_limit(
        caller,
        "live_placements",
        lambda: store.lock_and_count_live_placements(tx, enterprise_of(name)),
        wanted=placements,
        remedy="end a campaign, start one with fewer placements",
    )
    store.update_campaign(tx, live)
    tx.emit(events.CampaignStarted(campaign=name), subject=name)
    store.tell_engine(tx, "campaigns", [name])
    return live


def end_campaign(tx: Transaction, name: str) -> Campaign:
    """End a campaign at once. Raises NOT_FOUND, CAMPAIGN_NOT_LIVE."""
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
    creative: Creative,
) -> Placement:
    """Add a placement to a campaign that is being prepared. Raises NOT_FOUND, CAMPAIGN_NOT_DRAFT, AUDIENCE_NOT_READY."""
    AUDIENCE_NAME.parse(audience, "placement.audience")
    campaign = _found(store.lock_campaign(tx, parent), parent)
    if campaign.state is not CampaignState.DRAFT:
        raise model.not_draft(campaign)
    if not store.audience_is_ready(tx, audience):
        raise model.audience_not_ready(audience)
    name = PLACEMENT_NAME.format(**CAMPAIGN_NAME.parse(parent, "parent"), placement=new_id())
    placement = Placement(name, parent, touchpoint, look, audience, floor, cap or 1, creative, tx.now)
    store.insert_placement(tx, placement)
    return placement


def list_placements(
    tx: Transaction, parent: str, *, limit: int, after: tuple[str, str] | None
) -> list[Placement]:
    """A campaign's placements, oldest first, after the one with this creation time and name. Raises NOT_FOUND."""
    get_campaign(tx, parent)
    return store.list_placements(tx, parent, limit=limit, after=after)


# What follows from decisions


def record_exposure(tx: Transaction, token: Token) -> datetime:
    """Record that a decision's placement was seen; returns when it was first. Raises NOT_FOUND, CAP_REACHED."""
    cap = _found(store.daily_cap(tx, token.placement), token.placement)
    store.lock_exposures(tx, token.placement, token.person)
    known = store.get_exposure(tx, token.placement, token.decision)
    if known is not None:
        return known
    if store.count_exposures(tx, token.placement, token.person) >= cap:
        raise model.cap_reached(token.placement)
    exposure = events.ExposureRecorded(
        placement=token.placement,
        user=f"users/{token.person}",
        touchpoint=token.touchpoint,
        decision=token.decision,
        exposure_time=stamp(tx.now),
    )
    tx.emit(exposure, subject=token.placement, ordering_key=f"{token.placement} {token.person}")
    store.insert_exposure(tx, token.decision, token.placement, token.person)
    metrics.exposed(tx, token.touchpoint)
    return tx.now


def register(tx: Transaction, token: Token, display_name: str) -> Registration:
    """Sign a decision's person up, once for a campaign. Raises NOT_FOUND, CAMPAIGN_NOT_LIVE, EVENT_FULL."""
    name = CAMPAIGN_NAME.format(**_without(PLACEMENT_NAME.parse(token.placement, "token"), "placement"))
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
        create_time=stamp(tx.now),
    )
    tx.emit(created, subject=registration.name)
    metrics.registered(tx, token.touchpoint)
    return registration


def list_registrations(
    tx: Transaction, parent: str, *, limit: int, before: tuple[str, str] | None
) -> list[Registration]:
    """A campaign's registrations, newest first, after the one with this time and name. Raises NOT_FOUND."""
    get_campaign(tx, parent)
    return store.list_registrations(tx, parent, limit=limit, before=before)


# What other services tell


def name_enterprise(tx: Transaction, enterprise: str, display_name: str) -> None:
    """Learn the name that people see. Campaigns that went live before it was known are shown from now on."""
    store.save_display_name(tx, enterprise, display_name)
    waiting = store.live_campaigns(tx, enterprise)
    if waiting:
        store.tell_engine(tx, "campaigns", waiting)


def verify_enterprise(tx: Transaction, enterprise: str, *, verified: bool, since: datetime) -> None:
    """Learn that an enterprise is verified, or no longer. What is older than what is known changes nothing."""
    store.save_verification(tx, enterprise, verified, since)


def keep_part(tx: Transaction, part: AudienceMembersListed) -> None:
    """Keep a part of an audience's version."""
    store.lock_audience(tx, part.audience)
    store.save_part(tx, part.audience, part.version, part.part, part.SerializeToString())
    _promote(tx, part.audience, part.version)


def complete_audience(tx: Transaction, computed: AudienceComputed) -> None:
    """Learn of how many parts a version consists."""
    store.lock_audience(tx, computed.audience)
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


def purge(tx: Transaction) -> int:
    """Remove some of the changes and exposures that have served their time; returns how many."""
    return purge_changes(tx, store.STATE, tx.now - model.CHANGES_KEPT) + store.purge_exposures(tx)


def _promote(tx: Transaction, audience: str, version: int) -> None:
    """With the last of a version's messages, whichever that is, the version becomes current."""
    if store.promote_version(tx, audience, version):
        store.tell_engine(tx, "audiences", [audience])


def _check_own(tx: Transaction, parent: str) -> None:
    if parent != tx.enterprise:
        raise not_found(parent)


def _found(resource: T | None, name: str) -> T:
    if resource is None:
        raise not_found(name)
    return resource


def _without(ids: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in ids.items() if key != name}
