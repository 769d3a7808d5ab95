"""Following a change log: in the order of the commits, each once, nothing missed (PG-3)."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from psycopg import errors

from services.chassis.database import PLATFORM, PUBLIC, Change, Follower, Tenant, follow, transaction
from services.chassis.errors import Kind, ServiceError

ACME, OTHER = Tenant("enterprises/acme"), Tenant("enterprises/other")


@pytest.fixture
def follower(database):
    """Makes followers that are stopped at the end."""
    made = []

    def make(apply, log="log", after=0):
        made.append(Follower(database, log, apply, after))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()


def append(database, key, scope=ACME, log="log"):
    with database.transaction(scope) as tx:
        return tx.append_change(log, key, {"key": key})


def test_append_change__keeps_dicts_and_bytes(database):
    """A body comes back as it was given."""
    with database.transaction(ACME) as tx:
        first = tx.append_change("log", "a", {"n": [1, None, "越"]})
        second = tx.append_change("log", "b", b"\x00\xff")
        changes = tx.changes("log", after=0)

    assert changes == [
        Change(first, "a", {"n": [1, None, "越"]}, "enterprises/acme"),
        Change(second, "b", b"\x00\xff", "enterprises/acme"),
    ]


def test_append_change__numbers_in_the_order_of_commits(database):
    """
    A transaction that appends waits for the one that appended before it, so that nobody who has seen a number finds a
    smaller one later. (Without the lock the later one would commit first, and a follower would lose the earlier.)
    """
    seen_by_second = []
    with ThreadPoolExecutor(1) as pool:
        with database.transaction(ACME) as first:
            number = first.append_change("log", "first", {})

            def second():
                with database.transaction(ACME) as tx:
                    tx.append_change("log", "second", {})
                    seen_by_second.extend(change.sequence for change in tx.changes("log", after=0))

            later = pool.submit(second)
            with database.transaction(PLATFORM) as tx:
                waiting = "select count(*) as n from pg_locks where locktype = 'advisory' and not granted"
                deadline = time.monotonic() + 10
                while not tx.execute(waiting).fetchone()["n"]:
                    assert time.monotonic() < deadline
                assert tx.changes("log", after=0) == []
        later.result(timeout=10)

    assert len(seen_by_second) == 2
    assert min(seen_by_second) == number


def test_append_change__logs_do_not_wait_for_each_other(database):
    """The order is kept within a log; another log goes on."""
    with database.transaction(ACME) as first:
        first.append_change("log", "a", {})
        with database.transaction(ACME) as second:
            second.execute("set local lock_timeout = '100ms'")
            second.append_change("other", "b", {})


def test_changes__of_a_tenant(database):
    """A tenant reads its own changes, the platform all."""
    for scope in (ACME, OTHER, PUBLIC):
        append(database, scope.name, scope)

    def seen(scope):
        with database.transaction(scope) as tx:
            return [change.enterprise for change in tx.changes("log", after=0)]

    assert seen(ACME) == ["enterprises/acme"]
    assert seen(PLATFORM) == ["enterprises/acme", "enterprises/other", None]
    assert seen(PUBLIC) == [None]


def test_last_change__is_where_to_begin(database):
    """Following from the last change before the state was read misses nothing and repeats nothing here."""
    with database.transaction(PLATFORM) as tx:
        assert tx.last_change("log") == 0
    last = append(database, "a")
    with database.transaction(PLATFORM) as tx:
        assert tx.last_change("log") == last
        assert tx.changes("log", after=last) == []


def test_last_change__of_a_tenant(database):
    """A tenant's own newest change, however much others write after it."""
    own = append(database, "a")
    theirs = append(database, "b", OTHER)

    def last(scope):
        with database.transaction(scope) as tx:
            return tx.last_change("log")

    assert [last(ACME), last(PLATFORM), last(PUBLIC)] == [own, theirs, 0]


def test_changes__large_ones_come_a_few_at_a_time(database, monkeypatch):
    """So much at once as fits a page, and at least one, so that neither memory nor progress ends."""
    monkeypatch.setattr(transaction, "PAGE_BYTES", 1000)
    with database.transaction(ACME) as tx:
        for size in (400, 400, 400, 5000, 1):
            tx.append_change("log", str(size), b"x" * size)
        tx.append_change("log", "dict", {"text": "y" * 2000})

        pages, after = [], 0
        while page := tx.changes("log", after=after):
            pages.append([change.key for change in page])
            after = page[-1].sequence

    assert pages == [["400", "400", "400"], ["5000"], ["1", "dict"]]


def test_follower__applies_what_is_there_and_what_comes(database, follower):
    """It catches up first and is then woken, long before it would look by itself."""
    got = []
    append(database, "before")
    following = follower(got.extend)
    assert following.caught_up(1, 10)

    started = time.monotonic()
    last = append(database, "after")
    assert following.caught_up(last, 10)
    assert time.monotonic() - started < follow.POLL_SECONDS / 2

    assert [change.key for change in got] == ["before", "after"]
    assert following.healthy
    assert following.position == last


def test_follower__begins_after_a_number(database, follower):
    """What was read otherwise is not given again."""
    first, second = append(database, "a"), append(database, "b")
    got = []

    assert follower(got.extend, after=first).caught_up(second, 10)
    assert [change.key for change in got] == ["b"]


def test_follower__caught_up_gives_up(database, follower):
    """Waiting for a number that never comes ends."""
    assert not follower(list).caught_up(1, 0.1)


async def test_follower__waits_for_asyncio(database, follower):
    """An asyncio process waits without stopping its loop."""
    following = follower(list)
    waiting = asyncio.create_task(following.wait(1, 10))
    await asyncio.to_thread(append, database, "a")
    assert await waiting


def test_follower__is_unhealthy_after_a_failure(database, follower, eventually, caplog):
    """A function that fails is told of once, and not called again; the follower says that it is not well."""
    calls = []

    def fail(changes):
        calls.append(changes)
        raise KeyError("bug")

    following = follower(fail)
    append(database, "a")
    eventually(lambda: not following._thread.is_alive())
    append(database, "b")

    assert not following.healthy
    assert not following.caught_up(1, 0.1)
    assert len(calls) == 1


def test_follower__tries_again_what_passes(database, follower):
    """When applying fails because the database is away for a moment, the same changes are given again."""
    calls = []

    def apply(changes):
        calls.append([change.key for change in changes])
        if len(calls) < 3:
            raise ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away")

    append(database, "a")
    assert follower(apply).caught_up(1, 10)
    assert calls == [["a"]] * 3


def test_follower__is_unhealthy_while_the_database_is_away(own_server, own_database, eventually):
    """It tells that it cannot see, and goes on by itself when the database is back."""
    got = []
    following = Follower(own_database, "log", got.extend)
    following.start()
    eventually(lambda: following.healthy)
    own_server.crash()
    own_server.stop()
    eventually(lambda: not following.healthy, timeout=3)

    own_server.start()
    last = eventually(lambda: _append_if_up(own_database))
    assert following.caught_up(last, 10)
    assert following.healthy
    following.stop()


def _append_if_up(database):
    try:
        return append(database, "a")
    except ServiceError:
        return None


def end_all_connections(admin):
    return admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'sample' and datname = current_database()"
    ).rowcount


@pytest.mark.parametrize("ended", [True, False])
def test_follower__misses_nothing(database, admin, follower, ended):
    """
    2,000 changes by four writers, of which some roll back, while connections are ended again and again: the follower
    gets each committed one once, in order.
    """
    got, numbers = [], []
    following = follower(got.extend)
    done = threading.Event()

    def attempt(key, *, rolled_back):
        """The number under which the change was committed; None when it was not, or not yet known to be."""
        try:
            with database.transaction(ACME) as tx:
                known = tx.execute(
                    "select sequence from changes where log = 'log' and key = %s", (key,)
                ).fetchone()
                if known:  # an attempt of unknown outcome was committed after all
                    return known["sequence"]
                number = tx.append_change("log", key, {})
                if rolled_back:
                    tx.execute("select 1 / 0")
                return number
        except (errors.DivisionByZero, ServiceError):
            return None

    def write(writer):
        for i in range(500):
            key, number = f"{writer}-{i}", None
            if i % 10 == 0:
                attempt(key, rolled_back=True)
            while number is None:
                number = attempt(key, rolled_back=False)
            numbers.append(number)

    def end():
        count = at = 0
        while not done.wait(0.01):
            if len(numbers) >= at + 50:  # by progress, not by time, or a slow machine would never get through
                at = len(numbers)
                count += end_all_connections(admin)
        return count

    with ThreadPoolExecutor(5) as pool:
        ending = pool.submit(end) if ended else None
        writers = [pool.submit(write, writer) for writer in range(4)]
        try:
            for writer in writers:
                writer.result(timeout=60)
        finally:
            done.set()
        if ending:
            assert ending.result(timeout=10) > 10

    assert following.caught_up(max(numbers), 20)
    sequences = [change.sequence for change in got]
    assert sequences == sorted(numbers)
    assert len({change.key for change in got}) == 2000


def test_follower__sees_what_was_told_while_it_was_deaf(database, admin, follower, monkeypatch, eventually):
    """What is appended between two connections of the listener is seen as soon as it listens again."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 60)
    following = follower(list)
    assert following.caught_up(append(database, "a"), 10)
    listener, connect, may_connect = database.changes_listener(), database.connect, threading.Event()
    listener._connect = lambda: may_connect.wait(10) and connect()
    eventually(lambda: admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where query like 'listen%'"
    ).rowcount)  # fmt: skip

    last = append(database, "b")
    assert not following.caught_up(last, 0.5)
    may_connect.set()
    assert following.caught_up(last, 10)


def test_follower__polls_when_no_wake_up_comes(database, follower, monkeypatch, eventually):
    """Even with its listener deaf, a follower sees changes after a few seconds."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.2)
    following = follower(list)
    eventually(lambda: following.healthy)
    database.changes_listener().stop()

    assert following.caught_up(append(database, "a"), 5)


def test_watch__gives_changes_as_they_come(database):
    """A watcher gets what is there, then what comes, and ends at its time."""
    append(database, "a")
    got = []

    def watch():
        got.extend(
            (change.key, time.monotonic()) for change in database.watch("log", ACME, after=0, timeout=1.5)
        )

    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        watching = pool.submit(watch)
        append(database, "other tenant's", OTHER)
        append(database, "b")
        watching.result(timeout=10)

    assert [key for key, _ in got] == ["a", "b"]
    assert got[-1][1] - started < 1
    assert 1.4 < time.monotonic() - started < 3


def test_watch__ends_when_nobody_listens(database):
    """A watcher whose caller has gone ends soon."""
    started = time.monotonic()
    assert (
        list(
            database.watch("log", ACME, after=0, timeout=60, active=lambda: time.monotonic() < started + 0.2)
        )
        == []
    )
    assert time.monotonic() - started < 2


def test_watch__many_share_one_connection(database, admin):
    """Fifty watchers wait on one connection beside the pool's, and each gets its change at once."""
    together = threading.Barrier(51)

    def watch(number):
        watching = database.watch(f"log-{number}", ACME, after=0, timeout=20)
        together.wait(timeout=20)
        return next(watching).key

    with ThreadPoolExecutor(50) as pool:
        watchers = [pool.submit(watch, number) for number in range(50)]
        together.wait(timeout=20)
        started = time.monotonic()
        for number in range(50):
            append(database, f"key-{number}", log=f"log-{number}")
        keys = [watcher.result(timeout=10) for watcher in watchers]
        assert time.monotonic() - started < follow.POLL_SECONDS
        connections = admin.execute(
            "select count(*) from pg_stat_activity where usename = 'sample'"
        ).fetchone()[0]

    assert keys == [f"key-{number}" for number in range(50)]
    assert connections <= 8 + 1


def test_watch__goes_on_without_a_gap(database, admin):
    """A watcher whose stream broke goes on after the last number that it got, and misses nothing."""

    def write():
        for number in range(300):
            while _append_if_up(database) is None:
                pass
            if number % 50 == 0:
                end_all_connections(admin)

    got = []
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        deadline = time.monotonic() + 60
        while len(got) < 300 and time.monotonic() < deadline:
            with suppress(ServiceError):
                watching = database.watch("log", ACME, after=got[-1] if got else 0, timeout=0.5)
                got.extend(change.sequence for change in watching)
        writing.result(timeout=10)
    with database.transaction(ACME) as tx:
        assert got == [change.sequence for change in tx.changes("log", after=0)]


def test_watch__raises_while_the_database_is_away(own_server, own_database):
    """A watcher does not pretend that nothing happens: it ends with UNAVAILABLE."""
    own_server.stop()
    with pytest.raises(ServiceError) as caught:
        list(own_database.watch("log", ACME, after=0, timeout=10))
    assert caught.value.retry_after == timedelta(seconds=1)
