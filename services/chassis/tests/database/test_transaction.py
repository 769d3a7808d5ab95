"""Transactions: commit, rollback, errors, and what they write beside the service's own rows."""
# ruff: noqa: PT012 -- what raises is the end of the block

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from psycopg import errors

from services.chassis.database import PLATFORM, PUBLIC, Telling, Tenant
from services.chassis.errors import Kind, ServiceError
from services.chassis.tests.database.conftest import MIGRATIONS
from services.chassis.tests.database.samples import NoteSealed, NoteWritten

ACME = Tenant("enterprises/acme")


def add_note(tx, name="a"):
    tx.execute("insert into notes (enterprise, id) values ('enterprises/acme', %s)", (name,))


def notes(database):
    with database.transaction(PLATFORM) as tx:
        return [row["id"] for row in tx.execute("select id from notes order by id")]


def test_transaction__commits_at_the_end(database):
    """What a block wrote is there for the next transaction."""
    with database.transaction(ACME) as tx:
        add_note(tx)

    assert notes(database) == ["a"]


def test_transaction__rolls_back_when_the_block_raises(database):
    """Nothing of a block that raised is kept, and its error comes out as it is."""
    with pytest.raises(KeyError), database.transaction(ACME) as tx:
        add_note(tx)
        raise KeyError

    assert notes(database) == []


def test_transaction__refuses_to_commit_after_a_swallowed_error(database):
    """PostgreSQL would answer COMMIT with a silent ROLLBACK; the caller must not take that for success."""
    with pytest.raises(errors.InFailedSqlTransaction, match="savepoint"), database.transaction(ACME) as tx:
        add_note(tx)
        with suppress(errors.UniqueViolation):
            add_note(tx)

    assert notes(database) == []


def test_savepoint__undoes_its_own_part_only(database):
    """After a failure inside a savepoint the transaction goes on and commits."""
    with database.transaction(ACME) as tx:
        add_note(tx, "a")
        with pytest.raises(errors.UniqueViolation), tx.savepoint():
            add_note(tx, "b")
            add_note(tx, "a")
        add_note(tx, "c")

    assert notes(database) == ["a", "c"]


def test_transaction__leaves_its_connection_usable_after_an_error(database):
    """A constraint's violation comes out as psycopg's own error, and costs no connection."""
    for _ in range(20):
        with pytest.raises(errors.UniqueViolation), database.transaction(ACME) as tx:
            add_note(tx)
            add_note(tx)

    assert len(database._idle) == 1
    assert notes(database) == []


def test_executemany__counts_rows(database):
    """Many rows go in few round trips, and are counted."""
    with database.transaction(ACME) as tx:
        count = tx.executemany(
            "insert into notes (enterprise, id) values ('enterprises/acme', %s)",
            [(str(i),) for i in range(500)],
        )

    assert count == len(notes(database)) == 500


def test_now__is_the_clocks_and_stands_still(database, clock):
    """A transaction has one time, whatever the clock does meanwhile."""
    with database.transaction(ACME) as tx:
        before = clock.now()
        clock.advance(timedelta(hours=1))
        assert tx.now == before


def outbox(admin):
    admin.row_factory = psycopg.rows.dict_row
    return admin.execute("select * from outbox order by sequence").fetchall()


def test_emit__writes_the_outbox_row(database, admin, clock):
    """An event goes into the outbox with all that the relay needs."""
    with database.transaction(ACME) as tx:
        event_id = tx.emit(NoteWritten(note="notes/1", number=7), subject="notes/1")

    assert outbox(admin) == [
        {
            "sequence": 1,
            "id": event_id,
            "type": "sample.note.written",
            "subject": "notes/1",
            "ordering_key": "notes/1",
            "enterprise": "enterprises/acme",
            "time": clock.now(),
            "content_type": "application/json",
            "body": b'{"note":"notes/1","number":"7"}',
            "traceparent": "",
            "sent_time": None,
        }
    ]


def test_emit__takes_what_it_is_given(database, admin):
    """Enterprise and ordering key may be said; bulk is binary."""
    with database.transaction(PLATFORM) as tx:
        tx.emit(NoteSealed(seal=b"\x01"), subject="s", enterprise="enterprises/other", ordering_key="k")

    (row,) = outbox(admin)
    assert (row["enterprise"], row["ordering_key"], row["content_type"], row["body"]) == (
        "enterprises/other", "k", "application/protobuf", b"\x0a\x01\x01",
    )  # fmt: skip


def test_emit_all__is_as_emitting_one_after_the_other(database, admin):
    """The same rows in the same order, but for the ids."""
    told = [
        Telling(NoteWritten(note=f"notes/{n}", number=n), f"notes/{n}", ordering_key="k" if n % 2 else None)
        for n in range(100)
    ]
    told.append(Telling(NoteSealed(seal=b"\x01"), "s", "enterprises/other"))
    with database.transaction(PLATFORM) as tx:
        for each in told:
            tx.emit(
                each.message,
                subject=each.subject,
                enterprise=each.enterprise,
                ordering_key=each.ordering_key,
            )
        tx.emit_all(told)
        tx.emit_all([])

    rows = [{**row, "id": "", "sequence": 0} for row in outbox(admin)]
    assert rows[: len(told)] == rows[len(told) :]
    assert len({row["id"] for row in outbox(admin)}) == 2 * len(told)


@pytest.mark.parametrize("scope", [ACME, PLATFORM, PUBLIC])
def test_emit__of_nobodys_event(database, admin, scope):
    """An event need not be any enterprise's, unless the transaction is one's."""
    with database.transaction(scope) as tx:
        tx.emit(NoteWritten(), subject="s")

    assert [row["enterprise"] for row in outbox(admin)] == [scope.enterprise]


def test_emit__keeps_the_trace(database, admin):
    """The event carries on the trace in which it was emitted."""
    with (
        TracerProvider().get_tracer("test").start_as_current_span("call") as span,
        database.transaction(ACME) as tx,
    ):
        tx.emit(NoteWritten(), subject="s")

    assert trace.format_trace_id(span.get_span_context().trace_id) in outbox(admin)[0]["traceparent"]


def test_emit__tells_nothing_when_the_transaction_fails(database, admin):
    """No event of a transaction that was rolled back is ever told."""
    with pytest.raises(KeyError), database.transaction(ACME) as tx:
        tx.emit(NoteWritten(), subject="s")
        raise KeyError

    assert outbox(admin) == []


def test_emit__orders_events_of_one_row_by_its_lock(database, admin):
    """Transactions that save one row before they tell of it are told in the order in which they changed it."""
    with database.transaction(PLATFORM) as tx:
        tx.execute("insert into counters (name) values ('n')")

    def count(_):
        with database.transaction(PLATFORM) as tx:
            value = tx.execute("update counters set value = value + 1 returning value").fetchone()["value"]
            tx.emit(NoteWritten(number=value), subject="n")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(200)))

    told = [row["body"] for row in outbox(admin)]
    assert told == [b'{"number":"%d"}' % i for i in range(1, 201)]


def test_emit__notifies_the_relay(database):
    """A commit with events wakes whoever listens to `<schema>_outbox`; a rollback does not."""
    with database.connect() as listening:
        listening.execute("listen sample_outbox")
        with pytest.raises(KeyError), database.transaction(ACME) as tx:
            tx.emit(NoteWritten(), subject="s")
            raise KeyError
        assert list(listening.notifies(timeout=0.2)) == []

        with database.transaction(ACME) as tx:
            tx.emit(NoteWritten(), subject="s")
            tx.emit(NoteWritten(), subject="s")
        assert [each.channel for each in listening.notifies(timeout=10, stop_after=1)] == ["sample_outbox"]


def test_record_event__is_true_once_per_handler(database):
    """A handler records an event once; another handler of the same event is another matter."""
    with database.transaction(ACME) as tx:
        assert tx.record_event("on_note", "e1")
        assert not tx.record_event("on_note", "e1")
        assert tx.record_event("on_other", "e1")
    with database.transaction(ACME) as tx:
        assert not tx.record_event("on_note", "e1")


def test_record_event__is_forgotten_by_a_rollback(database):
    """An event whose handling failed is handled again."""
    with pytest.raises(KeyError), database.transaction(ACME) as tx:
        tx.record_event("on_note", "e1")
        raise KeyError
    with database.transaction(ACME) as tx:
        assert tx.record_event("on_note", "e1")


def test_record_event__duplicates_at_once_have_one_effect(database):
    """Of many deliveries of one event at the same time, one takes effect."""
    with database.transaction(PLATFORM) as tx:
        tx.execute("insert into counters (name) values ('n')")

    def handle(_):
        with database.transaction(ACME) as tx:
            if tx.record_event("on_note", "e1"):
                tx.execute("update counters set value = value + 1")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(handle, range(64)))

    with database.transaction(PLATFORM) as tx:
        assert tx.execute("select value from counters").fetchone()["value"] == 1


def test_error__lock_timeout(database):
    """Waiting too long for a lock is UNAVAILABLE, with nothing done and a time to try again."""
    with database.transaction(ACME) as holder:
        add_note(holder)
        with pytest.raises(ServiceError) as caught, database.transaction(ACME) as tx:
            tx.execute("set local lock_timeout = '100ms'")
            add_note(tx)

    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "DATABASE_BUSY")
    assert caught.value.before_commit
    assert caught.value.retry_after == timedelta(seconds=1)


def test_error__statement_timeout(make_database):
    """A statement that takes too long is DEADLINE_EXCEEDED."""
    database = make_database("sample", MIGRATIONS, statement_timeout=timedelta(milliseconds=100))

    with pytest.raises(ServiceError) as caught, database.transaction(ACME) as tx:
        tx.execute("select pg_sleep(10)")

    assert (caught.value.kind, caught.value.reason) == (Kind.DEADLINE_EXCEEDED, "DATABASE_TIMEOUT")
    assert caught.value.before_commit


def test_error__every_wait_has_a_limit(database):
    """Statement, lock and idle timeouts are set on every connection."""
    with database.transaction(ACME) as tx:
        limits = tx.execute(
            """
            select name, setting::int as milliseconds from pg_settings
            where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
            """
        ).fetchall()

    assert len(limits) == 3
    assert all(0 < limit["milliseconds"] <= 15_000 for limit in limits)


def test_error__deadlock(database):
    """Of two transactions that wait for each other, one is ABORTED and may be repeated."""
    with database.transaction(PLATFORM) as tx:
        tx.execute("insert into counters (name) values ('a'), ('b')")
    both = threading.Barrier(2)

    def update(names):
        try:
            with database.transaction(PLATFORM) as tx:
                tx.execute("update counters set value = 1 where name = %s", (names[0],))
                both.wait(timeout=10)
                tx.execute("update counters set value = 1 where name = %s", (names[1],))
        except ServiceError as error:
            return (error.kind, error.reason, error.before_commit)

    with ThreadPoolExecutor(2) as pool:
        outcomes = set(pool.map(update, ["ab", "ba"]))

    assert outcomes == {None, (Kind.ABORTED, "TRANSACTION_CONFLICT", True)}


def test_error__serialization_failure(database, admin):
    """A conflict that shows only at COMMIT is ABORTED, and it is certain that nothing was committed."""
    admin.execute("alter role sample set default_transaction_isolation = 'serializable'")
    try:
        with database.transaction(PLATFORM) as tx:
            tx.execute("insert into counters (name) values ('a'), ('b')")

        with pytest.raises(ServiceError) as caught, database.transaction(PLATFORM) as first:
            first.execute(
                "update counters set value = (select sum(value) + 1 from counters) where name = 'a'"
            )
            with database.transaction(PLATFORM) as second:
                second.execute(
                    "update counters set value = (select sum(value) + 1 from counters) where name = 'b'"
                )
    finally:
        admin.execute("alter role sample reset default_transaction_isolation")

    assert (caught.value.kind, caught.value.reason) == (Kind.ABORTED, "TRANSACTION_CONFLICT")
    assert caught.value.before_commit


def terminate(admin, statement):
    """End the connection that runs `statement`; whether there was one."""
    return admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and state = 'active' and query = %s",
        (statement,),
    ).rowcount


def test_error__connection_lost_before_commit(database, admin, eventually):
    """When the connection goes during a statement, nothing was committed and the error says so."""

    def run():
        with database.transaction(ACME) as tx:
            add_note(tx)
            tx.execute("select pg_sleep(4)")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        eventually(lambda: terminate(admin, "select pg_sleep(4)"))
        with pytest.raises(ServiceError) as caught:
            running.result(timeout=10)

    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert caught.value.before_commit
    assert caught.value.retry_after == timedelta(seconds=1)
    assert notes(database) == []


def test_error__connection_lost_during_commit(database, admin, eventually):
    """When the connection goes during COMMIT the outcome is unknown, and the error says so."""

    def run():
        with database.transaction(ACME) as tx:
            tx.execute("insert into slow_commits values (4)")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        eventually(lambda: terminate(admin, "commit"))
        with pytest.raises(ServiceError) as caught:
            running.result(timeout=10)

    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert not caught.value.before_commit


def test_error__no_connection_free(make_database):
    """When all connections are in use, a transaction waits a little and is then UNAVAILABLE."""
    database = make_database("sample", MIGRATIONS, max_size=1)
    database._max_wait = timedelta(milliseconds=100)

    with database.transaction(ACME):
        started = time.monotonic()
        with pytest.raises(ServiceError) as caught, database.transaction(ACME):
            pass

    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.before_commit
    assert time.monotonic() - started < 2
    database.check()
