"""Profiles and consent: taken in by gRPC, seen by the index."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from numerator.events.v1 import targeting_pb2 as events

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Follower
from services.chassis.testing.outcomes import told
from services.targeting import store
from services.targeting.api import People
from services.targeting.index import Index
from services.targeting.model import Person
from services.targeting.tests.world import CAMPERS, World, camper
from services.targeting.usecases import take_in
from services.targeting.worker import Worker


def test_ingest__takes_lines_and_tells_bad_ones_by_number(world: World) -> None:
    """However the file is cut into pieces: the good lines count, the bad ones are named, none stops the others."""
    file = "\n".join(
        [
            json.dumps(camper(1)),
            "not json",
            "",
            json.dumps({"user": "u2", "age": 200}),
            json.dumps({"age": 20}),
            "[]",
            json.dumps({"user": "u3", "city": "x" * 70_000}),
            json.dumps(camper(4, city="成都")),
        ]
    ).encode()
    for piece in (1, 7, 1_000_000):
        report = world.ingest(file, piece=piece)
        assert (report.accepted_count, report.rejected_count) == (2, 5)
        assert [(each.line, each.reason) for each in report.problems] == [
            (2, "MALFORMED_JSON"),
            (4, "BAD_VALUE"),
            (5, "MISSING_FIELD"),
            (6, "MALFORMED_JSON"),
            (7, "LINE_TOO_LONG"),
        ]
    assert {row["person"] for row in world.rows("profiles")} == {"u1", "u4"}


def test_ingest__tells_the_first_hundred_problems_and_counts_all(world: World) -> None:
    """A file of nothing but mistakes has a short answer."""
    report = world.ingest([{"age": 1}] * 2_500)
    assert (report.rejected_count, len(report.problems)) == (2_500, 100)
    assert world.ingest(b"").accepted_count == 0


def test_ingest__of_the_same_file_changes_nothing(world: World) -> None:
    """Neither the people nor their numbers; and the index is told only of what changed."""
    file = [camper(number) for number in range(2_500)]
    first = world.ingest(file)
    before, log = sorted(map(str, world.rows("profiles"))), len(world.rows("changes"))
    again = world.ingest(file)
    assert (first.accepted_count, first.unchanged_count) == (2_500, 0)
    assert (again.accepted_count, again.unchanged_count) == (2_500, 2_500)
    assert sorted(map(str, world.rows("profiles"))) == before
    assert len(world.rows("changes")) == log


def test_ingest__replaces_a_person_and_keeps_the_number(world: World) -> None:
    """The last word counts, also within a file, and what a person was before is not found any more."""
    world.ingest([camper(number) for number in range(20)])
    numbers = {row["person"]: row["number"] for row in world.rows("profiles")}
    assert world.estimate(CAMPERS).size == 20
    world.ingest([camper(1), {"user": "u1", "topics": ["tea"]}, *[{"user": f"u{n}"} for n in range(2, 11)]])
    assert {row["person"]: row["number"] for row in world.rows("profiles")} == numbers
    assert world.estimate(CAMPERS).size == 10


def test_ingest__of_two_files_at_once_loses_nothing(world: World) -> None:
    """The same people in opposite orders: no deadlock, everybody is there once, and the index agrees with the table."""
    for age in range(20, 25):
        ours = [camper(number, age=age) for number in range(1_000)]
        with ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(world.ingest, (ours, ours[::-1])))
        assert [each.accepted_count for each in reports] == [1_000, 1_000]
    assert len(world.rows("profiles")) == 1_000
    assert world.estimate({"demographics": {"min_age": 24, "max_age": 24}}).size == 1_000


def test_consent__withdrawn_outranks_every_profile(world: World) -> None:
    """Also one that comes later, and also for somebody nobody knew; told once; the time is that of the first time."""
    world.ingest([camper(number) for number in range(30)])
    first = world.withdraw(1)
    world.clock.advance(timedelta(hours=1))
    assert world.withdraw(1) == first
    world.withdraw(100)
    world.ingest([camper(1, age=31), camper(100)])
    estimate = world.estimate(CAMPERS)
    assert (estimate.population, estimate.size) == (29, 30)
    assert [each.user for each in told(world.database, events.ConsentWithdrawn)] == ["users/u1", "users/u100"]
    assert not first.promotions


def test_people__belong_to_no_tenant(world: World) -> None:
    """Whoever sends them: neither changes nor events carry an enterprise, so that every tenant's questions see them."""
    world.ingest([camper(1)])
    world.withdraw(1)
    assert [row["enterprise"] for table in ("changes", "outbox") for row in world.rows(table)] == [None] * 3


def test_index__after_a_restart_equals_the_one_before(world: World) -> None:
    """An index that loads the table finds what one found that followed every change."""
    world.ingest([camper(number, age=number % 90) for number in range(2_500)])
    world.ingest([{"user": f"u{number}", "topics": ["tea"]} for number in range(0, 2_500, 3)])
    world.withdraw(7)
    world.estimate(CAMPERS)
    index = Index()
    position = People(world.database, index).load()
    assert position == world.follower.position
    assert vars_of(index) == vars_of(world.index)


def vars_of(index: Index) -> dict[str, object]:
    """All that an index knows, without values that nobody has any more."""
    bitmaps = {
        (dimension, value): bitmap
        for dimension, values in index._bitmaps.items()
        for value, bitmap in values.items()
        if bitmap
    }
    return {
        "entries": index._entries,
        "everybody": index._everybody,
        "bitmaps": bitmaps,
        "cities": index._cities,
    }


def test_index__misses_nothing_that_comes_while_it_loads(world: World, eventually) -> None:
    """People who are taken in, changed and withdrawn between the pages of a load are all there in the end."""
    world.ingest([camper(number) for number in range(2_500)])
    index = Index()
    people = People(world.database, index)
    put, rounds = index.put, iter(range(100))

    def put_and_interfere(page: list[tuple[int, Person]]) -> None:
        put(page)
        number = next(rounds)
        with world.database.transaction(PLATFORM) as tx:
            take_in(tx, [Person("u0", age=number), Person(f"new{number}")])
            store.withdraw(tx, f"u{number + 1}")

    index.put = put_and_interfere  # type: ignore[method-assign]
    after = people.load()
    index.put = put  # type: ignore[method-assign]
    follower = Follower(world.database, store.PEOPLE, people.follow, after=after)
    follower.start()
    try:
        with world.database.transaction(PLATFORM) as tx:
            newest = store.last_change(tx)
        assert follower.caught_up(newest, 10)
        assert world.follower.caught_up(newest, 10)
    finally:
        follower.stop()
    assert vars_of(index) == vars_of(world.index)


def test_purge__keeps_a_day_of_the_log(world: World, clock: FixedClock) -> None:
    """Older changes go; the index needs only what came since it began."""
    world.ingest([camper(1)])
    clock.advance(timedelta(hours=23))
    world.ingest([camper(2)])
    clock.advance(timedelta(hours=2))
    Worker().purge_people_log(world.database)
    assert len(world.rows("changes")) == 1
    assert len(world.rows("profiles")) == 2


@pytest.mark.slow
def test_ingest__of_twenty_thousand_is_seen_at_once(world: World) -> None:
    """A question that is asked after a large file counts all of it."""
    world.ingest([camper(number, posts=[{"id": "p", "text": "周末自驾去露营"}]) for number in range(20_000)])
    assert world.estimate({"keywords": {"words": ["露营"]}}).size == 20_000
