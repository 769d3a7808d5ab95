"""Audiences as they arrive: parts and completions in any order, repeated, overtaken."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.database import PLATFORM, Tenant
from services.chassis.ids import new_id
from services.chassis.testing.databases import TemporaryDatabase
from services.placement import store, usecases
from services.placement.api import Memory
from services.placement.engine import Engine
from services.placement.tests.world import AUDIENCE, TIANSHAN, World, parts_of

VERSIONS = {
    1: {"ann": (0.5, ["one"]), "bo": (0.5, ["one"]), "cy": (0.5, ["one"])},
    2: {"ann": (0.75, ["two"]), "di": (0.75, ["two"])},
    3: {"ann": (1.0, ["three"]), "bo": (1.0, ["three"]), "ed": (1.0, ["three"])},
}
MESSAGES = [
    (version, message)
    for version, people in VERSIONS.items()
    for message in parts_of(AUDIENCE, people, version, size=1)
]


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase]) -> TemporaryDatabase:
    """One database for all examples of a property; each uses an audience of its own."""
    return make_database("placement")


def members(database: TemporaryDatabase, audience: str) -> dict[str, str]:
    """Whom decisions find in an audience, with the evidence."""
    engine = Engine()
    with database.transaction(PLATFORM) as tx:
        Memory(database, engine)._put_audience(tx, audience)
    return {person: fits[audience].evidence[0] for person, fits in engine._fits.items()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(len(MESSAGES))),
    repeated=st.lists(st.integers(0, len(MESSAGES) - 1), max_size=8),
    cut=st.integers(0, len(MESSAGES) + 8),
)
def test_versions__in_any_order(
    database: TemporaryDatabase, order: list[int], repeated: list[int], cut: int
) -> None:
    """
    After any prefix of any order with repetitions: the newest version of which everything is here, whole, and nothing else;
    and no part of an older one is kept.
    """
    audience = f"{TIANSHAN}/audiences/{new_id()}"
    arrived: dict[int, set[int]] = {version: set() for version in VERSIONS}
    for place in [*order, *repeated][:cut]:
        version, original = MESSAGES[place]
        message = type(original)()
        message.CopyFrom(original)
        message.audience = audience
        with database.transaction(Tenant(TIANSHAN)) as tx:
            if message.DESCRIPTOR.name == "AudienceComputed":
                usecases.complete_audience(tx, message)
            else:
                usecases.keep_part(tx, message)
        arrived[version].add(place)
    whole = [version for version, people in VERSIONS.items() if len(arrived[version]) == len(people) + 1]
    expected = (
        {person: evidence[0] for person, (_, evidence) in VERSIONS[max(whole)].items()} if whole else {}
    )
    assert members(database, audience) == expected
    with database.transaction(PLATFORM) as tx:
        kept = tx.execute("select version from audience_parts where audience = %s", (audience,)).fetchall()
    assert all(row["version"] >= max(whole, default=0) for row in kept)


def test_versions__at_once(world: World) -> None:
    """Every message in a thread of its own: whoever comes last makes the newest version current."""
    for round_ in range(10):
        audience = f"{TIANSHAN}/audiences/a{round_}"
        messages = [
            message
            for version, people in VERSIONS.items()
            for message in parts_of(audience, people, version, size=1)
        ]
        threads = [threading.Thread(target=world.hear, args=(message,)) for message in messages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert members(world.database, audience) == {"ann": "three", "bo": "three", "ed": "three"}


def test_archive__outranks_what_comes_later(world: World) -> None:
    """Also parts of a version that was on its way, and an archive that comes before anything else."""
    for audience, before in ((AUDIENCE, 4), (f"{TIANSHAN}/audiences/b", 0)):
        messages = parts_of(audience, VERSIONS[1], size=1)
        world.hear(*messages[:before])
        with world.database.transaction(Tenant(TIANSHAN)) as tx:
            usecases.drop_audience(tx, audience)
        world.hear(*messages[before:], *parts_of(audience, VERSIONS[2], 2))
        world.settle()
        assert members(world.database, audience) == {}
        assert audience not in world.engine._people
        with world.database.transaction(Tenant(TIANSHAN)) as tx:
            assert not store.audience_is_ready(tx, audience)
