"""Retention: what is old goes, what is needed stays."""

from datetime import timedelta

from services.chassis.database import PLATFORM, Tenant, purge, purge_changes, retell
from services.chassis.tests.database.samples import Note, NoteWritten, WriteNoteRequest

ACME = Tenant("enterprises/acme")


def rows(database, table):
    with database.transaction(PLATFORM) as tx:
        return tx.execute("select count(*) as n from " + table).fetchone()["n"]


def purge_at(database, clock):
    with database.transaction(PLATFORM) as tx:
        return purge(tx, clock.now())


def test_purge__removes_sent_events_after_seven_days_and_unsent_ones_never(database, clock):
    """Only what the broker has confirmed, and only after a week."""
    with database.transaction(ACME) as tx:
        tx.emit(NoteWritten(), subject="unsent")
        tx.emit(NoteWritten(), subject="sent")
        tx.execute("update outbox set sent_time = %s where subject = 'sent'", (tx.now,))

    clock.advance(timedelta(days=7))
    assert purge_at(database, clock) == 0
    clock.advance(timedelta(seconds=1))
    assert purge_at(database, clock) == 1
    clock.advance(timedelta(days=1000))
    assert purge_at(database, clock) == 0
    assert rows(database, "outbox") == 1


def test_purge__forgets_handled_events_after_thirty_days(database, clock):
    """A duplicate is known for 30 days."""
    with database.transaction(ACME) as tx:
        tx.record_event("h", "e")

    clock.advance(timedelta(days=30))
    assert purge_at(database, clock) == 0
    clock.advance(timedelta(seconds=1))
    assert purge_at(database, clock) == 1


def test_purge__forgets_replies_after_a_day(database, clock):
    """A reply is kept for 24 hours."""
    with database.transaction(ACME) as tx:
        tx.once(WriteNoteRequest(request_id="r"), Note)

    clock.advance(timedelta(hours=24))
    assert purge_at(database, clock) == 0
    clock.advance(timedelta(seconds=1))
    assert purge_at(database, clock) == 1


def test_purge__in_batches(database, clock, monkeypatch):
    """One call removes so many rows and no more; the caller repeats it until nothing is left."""
    monkeypatch.setattr("services.chassis.database.retention.BATCH", 3)
    with database.transaction(ACME) as tx:
        for number in range(7):
            tx.record_event("h", str(number))
    clock.advance(timedelta(days=31))

    assert [purge_at(database, clock) for _ in range(4)] == [3, 3, 1, 0]


def test_purge_changes__of_one_log(database, clock):
    """A log's old changes go; the other log's and the new ones stay."""
    with database.transaction(ACME) as tx:
        tx.append_change("a", "old", {})
        tx.append_change("b", "old", {})
    clock.advance(timedelta(days=1))
    with database.transaction(ACME) as tx:
        tx.append_change("a", "new", {})

    with database.transaction(PLATFORM) as tx:
        assert purge_changes(tx, "a", clock.now()) == 1
        assert [change.key for change in tx.changes("a", after=0)] == ["new"]
        assert len(tx.changes("b", after=0)) == 1


def test_retell__what_was_told_since(database, clock):
    """What was told since then is unsent again, under the same ids and in its order; what was told before stays."""
    with database.transaction(ACME) as tx:
        for number in range(4):
            tx.emit(NoteWritten(), subject=f"{number}")
        tx.execute("update outbox set sent_time = %s where subject = '0'", (tx.now,))
    clock.advance(timedelta(hours=1))
    with database.transaction(PLATFORM) as tx:
        tx.execute("update outbox set sent_time = %s where subject in ('1', '2')", (tx.now,))

    with database.transaction(PLATFORM) as tx:
        assert retell(tx, clock.now() - timedelta(minutes=30)) == 2
        unsent = tx.execute("select subject from outbox where sent_time is null order by sequence")
        assert [row["subject"] for row in unsent] == ["1", "2", "3"]
        assert retell(tx, clock.now() - timedelta(days=7)) == 1


def test_retell__again_and_again_is_known_to_handlers(database, clock):
    """However often an event is told anew, the handler that had it knows it for a week after the last time."""
    with database.transaction(ACME) as tx:
        event_id = tx.emit(NoteWritten(), subject="s")
        tx.record_event("h", event_id)
    retold = 0
    for _day in range(40):
        with database.transaction(PLATFORM) as tx:
            tx.execute("update outbox set sent_time = %s where sent_time is null", (tx.now,))
        clock.advance(timedelta(days=1))
        purge_at(database, clock)
        with database.transaction(PLATFORM) as tx:
            count = retell(tx, clock.now() - timedelta(days=30))
        if count:
            retold += count
            clock.advance(timedelta(days=7))
            purge_at(database, clock)
            assert rows(database, "inbox") == 1
            clock.advance(timedelta(days=-7))
    assert retold == 22
