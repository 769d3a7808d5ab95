"""Idempotent requests (M14): the same request id has one effect and one reply."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from services.chassis.database import CALLER, PLATFORM, PUBLIC, Tenant
from services.chassis.errors import Kind, ServiceError
from services.chassis.tests.database.samples import Note, NoteWritten, WriteNoteRequest

ACME, OTHER = Tenant("enterprises/acme"), Tenant("enterprises/other")


class Writer:
    """Writes notes by request and counts how often it truly did."""

    def __init__(self, database):
        self.database = database
        self.made = itertools.count(1)

    def __call__(self, *, text="t", request_id="r", scope=ACME, caller="c", fail=None, wait=None):
        with self.database.transaction(scope) as tx:

            def make():
                number = next(self.made)
                if wait:
                    wait()
                tx.emit(NoteWritten(number=number), subject="n")
                if fail:
                    raise fail
                return Note(name=text, number=number)

            return tx.once(WriteNoteRequest(text=text, request_id=request_id), make, caller=caller)

    def effects(self):
        with self.database.transaction(PLATFORM) as tx:
            return tx.execute("select count(*) as n from outbox").fetchone()["n"]


@pytest.fixture
def write(database):
    return Writer(database)


def test_once__gives_the_first_reply_again(write):
    """A repetition gets the stored reply, of the right type, and has no effect."""
    first = write()
    again = write()

    assert first == again == Note(name="t", number=1)
    assert type(again) is Note
    assert write.effects() == 1


def test_once__without_a_request_id_is_no_repetition(write):
    """A request without an id is done each time."""
    assert [write(request_id="").number for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("other", [{"scope": OTHER}, {"scope": PUBLIC}, {"caller": "d"}, {"request_id": "s"}])
def test_once__ids_are_the_callers_own(write, other):
    """Another tenant, caller or id is another request."""
    write()
    assert write(**other).number == 2


def test_once__takes_the_caller_of_the_call(write):
    """Without being told, the caller is the one whom the edge named."""
    write(caller="c")
    token = CALLER.set("c")
    try:
        assert write(caller=None).number == 1
    finally:
        CALLER.reset(token)
    assert write(caller=None).number == 2


def test_once__another_method_is_another_request(write):
    """The same id may come with a request of another type."""

    class Other(Writer):
        def __call__(self):
            with self.database.transaction(ACME) as tx:
                request = _other_request()
                return tx.once(request, lambda: Note(number=9), caller="c")

    write()
    assert Other(write.database)().number == 9


def _other_request():
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto(name="chassis/tests/other.proto", package="chassis.tests")
    message = file.message_type.add(name="OtherRequest")
    message.field.add(
        name="request_id",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("chassis.tests.OtherRequest"))(
        request_id="r"
    )


def test_once__refuses_an_id_with_another_body(write):
    """An id that was used for other values is a mistake of the caller, and has no effect."""
    write()
    with pytest.raises(ServiceError) as caught:
        write(text="other")

    assert (caught.value.kind, caught.value.reason) == (Kind.FAILED_PRECONDITION, "IDEMPOTENCY_KEY_REUSED")
    assert caught.value.metadata == {"request_id": "r"}
    assert write.effects() == 1


def test_once__keeps_nothing_of_a_failure(write):
    """A request that failed may be repeated, and is then done."""
    with pytest.raises(KeyError):
        write(fail=KeyError())
    assert write.effects() == 0

    assert write().number == 2
    assert write.effects() == 1


def test_once__forgets_after_24_hours(write, clock):
    """A reply is kept for 24 hours; after that the id is as good as new, with any body."""
    write()
    clock.advance(timedelta(hours=24) - timedelta(seconds=1))
    assert write().number == 1

    clock.advance(timedelta(seconds=1))
    assert write(text="other").number == 2
    assert write(text="other").number == 2
    assert write.effects() == 2


def test_once__a_hundred_copies_at_once_have_one_effect(write):
    """Copies in parallel wait for the first and get its reply."""
    with ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda _: write(), range(100)))

    assert {reply.number for reply in replies} == {1}
    assert write.effects() == 1


def test_once__many_keys_with_five_copies_each(write):
    """Effects equal keys."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: write(request_id=f"r{i % 60}"), range(300)))

    assert write.effects() == 60


def test_once__says_when_the_first_still_runs(write, monkeypatch):
    """A repetition of a request that takes too long is ABORTED: it runs."""
    monkeypatch.setattr("services.chassis.database.pool._LOCK_TIMEOUT", timedelta(milliseconds=100))
    write.database.__init__(
        write.database.url, write.database.admin_url, schema="sample", clock=None, max_size=4,
        statement_timeout=timedelta(seconds=5),
    )  # fmt: skip
    running, go_on = threading.Event(), threading.Event()

    def wait():
        running.set()
        go_on.wait(timeout=10)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(write, wait=wait)
        running.wait(timeout=10)
        with pytest.raises(ServiceError) as caught:
            write()
        go_on.set()
        reply = first.result(timeout=10)

    assert (caught.value.kind, caught.value.reason) == (Kind.ABORTED, "REQUEST_RUNNING")
    assert caught.value.before_commit
    assert write() == reply


def test_once__is_under_row_level_security(write, database):
    """Stored replies are seen by their own tenant only."""
    write()
    for scope, count in ((ACME, 1), (OTHER, 0), (PUBLIC, 0), (PLATFORM, 1)):
        with database.transaction(scope) as tx:
            assert tx.execute("select count(*) as n from idempotency").fetchone()["n"] == count
