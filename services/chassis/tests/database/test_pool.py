"""Connections: a database that restarts, ends connections, freezes or comes up late (PG-1)."""
# ruff: noqa: PT012 -- what raises is the end of the block

import asyncio
import itertools
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest

from services.chassis.database import PLATFORM, Database, Tenant
from services.chassis.errors import Kind, ServiceError
from services.chassis.testing.servers import free_ports

ACME = Tenant("enterprises/acme")
SIZE = 8


def fill_pool(database):
    """Have the pool hold as many connections as it may."""
    together = threading.Barrier(SIZE)

    def borrow(_):
        with database.transaction(ACME):
            together.wait(timeout=10)

    with ThreadPoolExecutor(SIZE) as pool:
        list(pool.map(borrow, range(SIZE)))
    assert len(database._idle) == SIZE


def test_pool__passes_over_broken_idle_connections(database, admin):
    """After all idle connections were ended, not one request fails (without a check, one per connection does)."""
    fill_pool(database)
    ended = admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'sample'"
    )
    assert ended.rowcount == SIZE

    for _ in range(SIZE + 1):
        with database.transaction(ACME) as tx:
            tx.execute("select 1")


def test_pool__grows_no_larger_than_told(database):
    """Many threads share few connections."""
    together = threading.Semaphore(0)
    most = 0

    def borrow(_):
        nonlocal most
        with database.transaction(PLATFORM) as tx:
            used = tx.execute(
                "select count(*) as n from pg_stat_activity where usename = 'sample'"
            ).fetchone()["n"]
            most = max(most, used)
            together.release()

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(borrow, range(200)))

    assert 1 <= most <= SIZE


def test_pool__waits_for_a_database_that_comes_up_later(own_server, own_database):
    """A service may be started before its database: it says UNAVAILABLE, at once, and then works."""
    own_server.stop()
    started = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        own_database.check()
    assert caught.value.kind is Kind.UNAVAILABLE
    assert time.monotonic() - started < 1

    own_server.start()
    own_database.check()


def test_pool__silent_address():
    """An address that takes connections and never answers is UNAVAILABLE within the connection's timeout."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", *free_ports(1)))
        listener.listen()
        database = Database(f"postgresql://x:y@127.0.0.1:{listener.getsockname()[1]}/x", schema="x")
        started = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            database.check()

    assert caught.value.kind is Kind.UNAVAILABLE
    assert time.monotonic() - started < 5


def test_pool__frozen_server(own_server, own_database):
    """A server that stops without a word holds nobody for ever: the client's own patience ends."""
    own_database._patience = timedelta(milliseconds=500)
    with pytest.raises(ServiceError) as caught, own_database.transaction(ACME) as tx:
        pid = tx.execute("select pg_backend_pid() as pid").fetchone()["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            tx.execute("select 1")
        finally:
            os.kill(pid, signal.SIGCONT)

    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.before_commit
    own_database.check()


def test_pool__restart_under_load(own_server, own_database):
    """
    PostgreSQL killed under requests, three times: errors are UNAVAILABLE with a time to retry, it goes on within
    ten seconds, and the ledger agrees: all that was acknowledged is there, and all that is there was acknowledged or
    of unknown outcome.
    """
    stop = threading.Event()
    numbers = itertools.count()
    acknowledged, unknown, failures, successes = set(), set(), [], []

    def request():
        while not stop.is_set():
            name = str(next(numbers))
            try:
                with own_database.transaction(ACME) as tx:
                    tx.execute("insert into notes (enterprise, id) values (%s, %s)", (tx.enterprise, name))
            except ServiceError as error:
                failures.append(error)
                if not error.before_commit:
                    unknown.add(name)
                stop.wait(0.05)
            else:
                acknowledged.add(name)
                successes.append(time.monotonic())

    def wait_for_success(since, limit):
        deadline = time.monotonic() + limit
        while not any(at > since for at in successes[-50:]):
            assert time.monotonic() < deadline, "no success"
            time.sleep(0.01)

    with ThreadPoolExecutor(2 * SIZE) as pool:
        threads = [pool.submit(request) for _ in range(2 * SIZE)]
        recoveries = []
        for _ in range(3):
            wait_for_success(time.monotonic(), 10)
            own_server.crash()
            own_server.stop()
            restarted = time.monotonic()
            own_server.start()
            wait_for_success(time.monotonic(), 10)
            recoveries.append(time.monotonic() - restarted)
        stop.set()
        for thread in threads:
            thread.result(timeout=10)

    assert failures
    assert {(each.kind, each.retry_after) for each in failures} == {(Kind.UNAVAILABLE, timedelta(seconds=1))}
    assert max(recoveries) < 10
    with psycopg.connect(own_database.admin_url) as admin:
        stored = {row[0] for row in admin.execute("select id from sample.notes")}
    assert acknowledged <= stored
    assert stored <= acknowledged | unknown


async def test_pool__from_asyncio(database):
    """An asyncio process uses the same transactions, each in a thread."""

    def count(tx):
        return tx.execute("select count(*) as n from notes").fetchone()["n"]

    def add(number):
        with database.transaction(ACME) as tx:
            tx.execute("insert into notes (enterprise, id) values (%s, %s)", (tx.enterprise, str(number)))

    await asyncio.gather(*(asyncio.to_thread(add, number) for number in range(50)))

    with database.transaction(ACME) as tx:
        assert count(tx) == 50


def test_close__drops_connections(database, admin):
    """After close the server sees no connection of ours; a later transaction still works, and keeps none."""
    fill_pool(database)
    database.close()
    with database.transaction(ACME):
        pass

    def connections():
        return admin.execute("select count(*) from pg_stat_activity where usename = 'sample'").fetchone()[0]

    deadline = time.monotonic() + 5
    while connections():
        assert time.monotonic() < deadline
