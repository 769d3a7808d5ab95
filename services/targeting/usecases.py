"""What can be done with people and audiences: load, decide, save, tell; each in the transaction that it is given."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from numerator.events.v1 import targeting_pb2 as events
from numerator.targeting.v1 import targeting_pb2 as pb
from pyroaring import BitMap

from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.ids import new_id
from services.targeting import definitions, model, store
from services.targeting.index import Index, Share
from services.targeting.model import AUDIENCE_NAME, Audience, AudienceState, Member, Person, Rule

MEMBERS_IN_PART = 1_000
ROUNDING = 10
"""Sizes are told in tens, so that two answers cannot be subtracted to find one person."""


def take_in(tx: Transaction, people: Iterable[Person]) -> int:
    """Take in people, the last word on each; returns how many were new or changed."""
    changed = store.save_people(tx, {person.name: person for person in people})
    if changed:
        store.append_people(tx, changed)
    return len(changed)


def withdraw_consent(tx: Transaction, person: str) -> None:
    """Take a person out of every audience, now and later, here and in placement."""
    if store.withdraw(tx, person):
        name = f"users/{person}"
        tx.emit(events.ConsentWithdrawn(user=name), subject=name)


def create_audience(tx: Transaction, parent: str, display_name: str, definition: pb.Rule) -> Audience:
    """Store a DRAFT."""
    _members_of(tx, definitions.parse(definition, "audience.definition"))
    enterprise = parent.removeprefix("enterprises/")
    audience = Audience(
        AUDIENCE_NAME.format(enterprise=enterprise, audience=new_id()),
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


def archive_audience(tx: Transaction, name: str) -> Audience:
    """Take an audience out of use. Archiving it again changes nothing."""
    audience = store.lock_audience(tx, name)
    if audience is None:
        raise not_found(name)
    if audience.state is AudienceState.ARCHIVED:
        return audience
    gone = replace(audience, state=AudienceState.ARCHIVED)
    store.update_audience(tx, gone)
    tx.emit(events.AudienceArchived(audience=name), subject=name)
    return gone


@dataclass(frozen=True, slots=True)
class Estimate:
    """The size and make-up of an audience; None when it is too small to tell."""

    size: int | None
    population: int
    shares: list[Share]


def estimate(tx: Transaction, index: Index, definition: pb.Rule, minimum: int) -> Estimate:
    """How many people a definition finds, in tens, and what they are like. Small groups are not told."""
    rule = definitions.parse(definition)
    found = index.find(rule, _members_of(tx, rule))
    if len(found) < minimum:
        return Estimate(None, index.population, [])
    shares = [replace(s, size=_rounded(s.size)) for s in index.shares(found) if s.size >= minimum]
    return Estimate(_rounded(len(found)), index.population, shares)


def build_audience(tx: Transaction, index: Index, name: str, minimum: int) -> Audience:
    """Compute who is in an audience now, as a new version, and hand it to placement, part by part."""
    audience = store.lock_audience(tx, name)
    if audience is None:
        raise not_found(name)
    if audience.state is AudienceState.ARCHIVED:
        raise model.archived(name)
    rule = _rule_of(audience)
    audiences = _members_of(tx, rule)
    found = index.find(rule, audiences)
    if len(found) < minimum:
        raise model.too_small(name, minimum)
    built = replace(
        audience,
        state=AudienceState.READY,
        size=len(found),
        version=audience.version + 1,
        members=found.serialize(),
        build_time=tx.now,
    )
    store.update_audience(tx, built)
    _tell_members(tx, built, index.explain(found, rule, audiences))
    return built


def sample_audience(tx: Transaction, index: Index, name: str, count: int) -> list[Member]:
    """Some people of a built audience and why they are in it, spread over the whole of it, best first."""
    audience = get_audience(tx, name)
    if audience.members is None:
        raise model.not_built(name)
    members = BitMap.deserialize(audience.members)
    step = max(1, len(members) // count)
    some = BitMap(islice(members, 0, None, step))[:count]
    rule = _rule_of(audience)
    found = index.explain(BitMap(some), rule, _members_of(tx, rule))
    return sorted(found, key=lambda member: -member.relevance)


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


def _rule_of(audience: Audience) -> Rule:
    return definitions.parse(pb.Rule.FromString(audience.definition))


def _members_of(tx: Transaction, rule: Rule) -> Mapping[str, BitMap]:
    """The members of the audiences that a rule names. Raises NOT_FOUND, AUDIENCE_NOT_BUILT, AUDIENCE_ARCHIVED."""
    names = definitions.audiences_in(rule)
    found = store.audiences_named(tx, names) if names else {}
    members: dict[str, BitMap] = {}
    for name in sorted(names):
        if name not in found:
            raise not_found(name)
        if found[name].state is AudienceState.ARCHIVED:
            raise model.archived(name)
        raw = found[name].members
        if raw is None:
            raise model.not_built(name)
        members[name] = BitMap.deserialize(raw)
    return members


def _rounded(size: int) -> int:
    return round(size / ROUNDING) * ROUNDING
