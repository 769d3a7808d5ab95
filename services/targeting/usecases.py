"""What can be done with people and audiences: load, decide, save, tell; each in the transaction that it is given."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from numerator.events.v1 import targeting_pb2 as events
from numerator.targeting.v1 import targeting_pb2 as pb
from pyroaring import BitMap

from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.ids import new_id
from services.targeting import definitions, model, store
from services.targeting.index import Index, Share
from services.targeting.model import AUDIENCE_NAME, ENTERPRISE_NAME, Audience, AudienceState, Member, Person

MEMBERS_IN_PART = 1_000


def take_in(tx: Transaction, people: Iterable[Person]) -> int:
    """Take in people, the last word on each; returns how many were new or changed."""
    return store.save_people(tx, {person.name: person for person in people})


def withdraw_consent(tx: Transaction, person: str) -> datetime:
    """Take a person out of every audience, now and later, here and in placement; returns since when."""
    if store.withdraw(tx, person):
        name = f"users/{person}"
        tx.emit(events.ConsentWithdrawn(user=name), subject=name)
    return store.withdrawal_time(tx, person) or tx.now


def create_audience(tx: Transaction, parent: str, display_name: str, definition: pb.Rule) -> Audience:
    """Store a DRAFT. Raises NOT_FOUND for another tenant's parent, and what `_members_named` raises."""
    _check_own(tx, parent)
    _members_named(tx, definitions.parse(definition, "audience.definition"))
    audience = Audience(
        AUDIENCE_NAME.format(**ENTERPRISE_NAME.parse(parent, "parent"), audience=new_id()),
        display_name,
        definition.SerializeToString(deterministic=True),
        tx.now,
    )
    store.insert_audience(tx, audience)
    return audience


def get_audience(tx: Transaction, name: str) -> Audience:
    """An audience. Raises NOT_FOUND."""
    audience = store.get_audience(tx, name)
    if audience is None:
        raise not_found(name)
    return audience


def list_audiences(
    tx: Transaction, parent: str, *, limit: int, before: tuple[str, str] | None
) -> list[Audience]:
    """An enterprise's audiences, newest first, after the one with this creation time and name. Raises NOT_FOUND."""
    _check_own(tx, parent)
    return store.list_audiences(tx, parent, limit=limit, before=before)


def archive_audience(tx: Transaction, name: str) -> Audience:
    """Take an audience out of use. Archiving it again changes nothing. Raises NOT_FOUND."""
    audience = _locked(tx, name)
    if audience.state is AudienceState.ARCHIVED:
        return audience
    store.archive_audience(tx, name)
    tx.emit(events.AudienceArchived(audience=name), subject=name)
    return replace(audience, state=AudienceState.ARCHIVED)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The size and make-up of an audience as they are told; `size` None: too small to tell."""

    size: int | None
    population: int
    shares: list[Share]


def estimate(tx: Transaction, index: Index, parent: str, definition: pb.Rule, minimum: int) -> Estimate:
    """How many people a definition finds, in tens, and what they are like. Small groups are not told."""
    _check_own(tx, parent)
    rule = definitions.parse(definition)
    found = index.find(rule, _members_named(tx, rule))
    if len(found) < minimum:
        return Estimate(None, index.population, [])
    shares = [replace(s, size=model.rounded(s.size)) for s in index.shares(found) if s.size >= minimum]
    return Estimate(model.rounded(len(found)), index.population, shares)


def build_audience(tx: Transaction, index: Index, name: str, minimum: int) -> Audience:
    """
    Compute who is in an audience now, as a new version, and hand it to placement, part by part.

    Raises NOT_FOUND, AUDIENCE_ARCHIVED, AUDIENCE_TOO_SMALL, and what `_members_named` raises.
    """
    audience = _locked(tx, name)
    if audience.state is AudienceState.ARCHIVED:
        raise model.archived(name)
    rule = definitions.parse(pb.Rule.FromString(audience.definition))
    found = index.search(rule, _members_named(tx, rule))
    if len(found.entries) < minimum:
        raise model.too_small(name, minimum)
    built = replace(
        audience,
        state=AudienceState.READY,
        size=len(found.entries),
        version=audience.version + 1,
        build_time=tx.now,
    )
    store.save_build(tx, built, BitMap(found.entries))
    _tell_members(tx, built, found.explain())
    return built


def sample_audience(tx: Transaction, index: Index, name: str, count: int, minimum: int) -> list[Member]:
    """
    Some people of a built audience who still fit it, spread over the whole of it, best first.

    Raises NOT_FOUND, AUDIENCE_NOT_BUILT, AUDIENCE_ARCHIVED, AUDIENCE_TOO_SMALL.
    """
    audience = get_audience(tx, name)
    members = _usable_members(tx, {name: audience})[name]
    rule = definitions.parse(pb.Rule.FromString(audience.definition))
    found = index.search(rule, _members_named(tx, rule))
    numbers = [number for number in found.entries if number in members]
    if len(numbers) < minimum:
        raise model.too_small(name, minimum)
    some = [numbers[place * len(numbers) // count] for place in range(count)]
    return sorted(found.explain(dict.fromkeys(some)), key=lambda member: -member.relevance)


def _tell_members(tx: Transaction, audience: Audience, members: Iterable[Member]) -> None:
    iterator, parts = iter(members), 0
    while part := list(islice(iterator, MEMBERS_IN_PART)):
        listed = events.AudienceMembersListed(
            audience=audience.name,
            version=audience.version,
            part=parts,
            members=[
                events.AudienceMember(user=f"users/{m.person}", relevance=m.relevance, evidence=m.evidence)
                for m in part
            ],
        )
        tx.emit(listed, subject=audience.name)
        parts += 1
    computed = events.AudienceComputed(
        audience=audience.name, version=audience.version, size=audience.size, parts=parts
    )
    tx.emit(computed, subject=audience.name)


def _check_own(tx: Transaction, parent: str) -> None:
    if parent != tx.enterprise:
        raise not_found(parent)


def _locked(tx: Transaction, name: str) -> Audience:
    audience = store.lock_audience(tx, name)
    if audience is None:
        raise not_found(name)
    return audience


def _members_named(tx: Transaction, rule: model.Rule) -> Mapping[str, BitMap]:
    """The members of the audiences that a rule names. Raises NOT_FOUND, AUDIENCE_NOT_BUILT, AUDIENCE_ARCHIVED."""
    names = definitions.audiences_in(rule)
    found = store.audiences_named(tx, names) if names else {}
    for name in sorted(names - found.keys()):
        raise not_found(name)
    return _usable_members(tx, found)


def _usable_members(tx: Transaction, audiences: Mapping[str, Audience]) -> Mapping[str, BitMap]:
    for name, audience in sorted(audiences.items()):
        if audience.state is AudienceState.ARCHIVED:
            raise model.archived(name)
        if not audience.version:
            raise model.not_built(name)
    return store.members_of(tx, audiences) if audiences else {}
