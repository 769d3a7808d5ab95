"""What the use of a database tells of itself, and what is done after a commit and only then."""

import threading

import pytest

from services.chassis.database import PUBLIC, Database, Follower
from services.chassis.errors import ServiceError
from services.chassis.testing.measures import counted, measured

POOL = {"db_client_connection_pool_name": "sample"}


def test_after_commit__is_done_when_and_only_when_it_commits(database):
    """Not while the transaction is open, not when it fails, and not of a part that was undone."""
    done = []

    def fail(tx):
        tx.after_commit(lambda: done.append("undone"))
        raise ZeroDivisionError

    with database.transaction(PUBLIC) as tx:
        tx.after_commit(lambda: done.append("kept"))
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            fail(tx)
        with tx.savepoint():
            tx.after_commit(lambda: done.append("kept too"))
        during = list(done)
    with pytest.raises(ZeroDivisionError), database.transaction(PUBLIC) as tx:
        fail(tx)

    assert during == []
    assert done == ["kept", "kept too"]


def test_pool__tells_its_use_and_who_waits(database, eventually):
    """Connections in use, transactions that waited for one, and those that got none."""
    small = Database(database.url, schema="sample", max_size=1, max_wait=database._max_wait / 10)
    held, release = threading.Event(), threading.Event()

    def hold():
        with small.transaction(PUBLIC):
            held.set()
            release.wait(10)

    before = measured("db_client_connection_count", db_client_connection_state="used", **POOL)
    with (
        counted(1, "db_client_connection_wait_time_seconds_count", **POOL),
        counted(1, "db_client_connection_timeouts_total", **POOL),
    ):
        holding = threading.Thread(target=hold)
        holding.start()
        assert held.wait(5)
        with pytest.raises(ServiceError):
            small.check()
        during = measured("db_client_connection_count", db_client_connection_state="used", **POOL)
    release.set()
    holding.join()
    small.close()

    assert during == before + 1
    assert measured("db_client_connection_count", db_client_connection_state="used", **POOL) == before
    assert measured("db_client_connection_max", **POOL) > 1


def test_follower__tells_its_lag(database, eventually):
    """It grows while a change cannot be applied, and is nothing when it has been; changes are counted."""
    going = threading.Event()
    follower = Follower(database, "lagging", lambda changes: going.wait(10))

    def lag():
        return measured("numerator_follower_lag_seconds", log="lagging")

    with counted(2, "numerator_follower_changes_total", log="lagging"):
        follower.start()
        eventually(lambda: lag() == 0)
        with database.transaction(PUBLIC) as tx:
            tx.append_change("lagging", "k", {})
            tx.append_change("lagging", "k", {})
        eventually(lambda: lag() > 0.2)
        going.set()
        eventually(lambda: lag() == 0)
    follower.stop()
