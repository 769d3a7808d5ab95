"""From the outbox to the broker: all that is committed, nothing else, in order."""

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from numerator.events.v1.accounts_pb2 import AccountBound, AccountUnbound
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.chassis.database import PLATFORM, Tenant
from services.chassis.errors import ServiceError
from services.chassis.messaging import instruments, relay, topology
from services.chassis.messaging.envelope import decode
from services.chassis.messaging.publisher import Outcome, Publisher
from services.chassis.messaging.relay import Relay
from services.chassis.tests.messaging.helpers import BOUND, UNBOUND, Broker, OwnBroker, Sample


@pytest.fixture
def make_relay(database: Sample, broker: Broker) -> Iterator[Callable[[], Relay]]:
    """Makes relays, each with a publisher of its own."""
    publishers: list[Publisher] = []
    relays: list[Relay] = []

    def make() -> Relay:
        publishers.append(Publisher(broker.url))
        publishers[-1].start()
        assert publishers[-1].ready(10)
        relays.append(Relay(database, publishers[-1]))
        return relays[-1]

    yield make
    for each in relays:
        if each._thread.is_alive():
            each.stop()
    for each in publishers:
        each.stop()


def test_relay__what_a_consumer_gets(database: Sample, broker: Broker, make_relay) -> None:
    """An event arrives with its id, type, subject, tenant and time, in the body's own form."""
    with database.transaction(Tenant("enterprises/e")) as tx:
        event_id = tx.emit(AccountBound(handle="h", sealed_token=b"\xff"), subject="enterprises/e/accounts/a")
        now = tx.now
    assert make_relay().relay_once() == 1
    ((headers, body),) = broker.take(BOUND)
    event = decode(AccountBound, headers, "application/protobuf", body)
    assert (event.id, event.subject, event.enterprise) == (
        event_id,
        "enterprises/e/accounts/a",
        "enterprises/e",
    )
    assert (event.time, event.message.sealed_token) == (now, b"\xff")
    assert headers["source"] == "numerator/sample"


def test_relay__published_iff_committed(database: Sample, broker: Broker, make_relay) -> None:
    """No event of a transaction that was rolled back, every event of one that was committed (M1)."""
    dice, committed = random.Random(7), []
    for number in range(300):
        rolled_back = dice.random() < 0.1
        with suppress(ZeroDivisionError):
            with database.transaction(PLATFORM) as tx:
                event_id = tx.emit(AccountUnbound(account=str(number)), subject=f"s{number % 7}")
                number / (not rolled_back)
            committed.append(event_id)
    one = make_relay()
    while one.relay_once():
        pass
    assert sorted(headers["id"] for headers, _body in broker.take(UNBOUND)) == sorted(committed)
    assert len(committed) < 300
    assert database.unsent() == 0


def test_relay__wakes_up(database: Sample, broker: Broker, make_relay, eventually, monkeypatch) -> None:
    """A commit is told at once, not at the next poll."""
    monkeypatch.setattr(relay, "_POLL_SECONDS", 60.0)
    one = make_relay()
    one.start()
    for number in range(3):
        database.emit(f"s{number}")
        eventually(lambda: database.unsent() == 0, 5)
    monkeypatch.setattr(relay, "_POLL_SECONDS", 0.1)
    database.emit("last")


def test_relay__order_with_two_relays(
    database: Sample, broker: Broker, make_relay, eventually, monkeypatch
) -> None:
    """Two relays share the work, tell each event once, and keep the order within each key."""
    monkeypatch.setattr(relay, "BATCH", 20)
    relays = [make_relay(), make_relay()]
    for each in relays:
        each.start()

    def write(thread: int) -> None:
        for number in range(100):
            database.emit(f"{thread}", message=AccountUnbound(account=str(number)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: database.unsent() == 0, 30)
    told = defaultdict(list)
    for headers, body in broker.take(UNBOUND):
        event = decode(AccountUnbound, headers, "application/json", body)
        told[event.subject].append(int(event.message.account))
    assert told == {str(thread): list(range(100)) for thread in range(6)}


def test_relay__unroutable(database: Sample, broker: Broker, make_relay, eventually) -> None:
    """What the broker returns stays unsent and is told later; others pass it meanwhile (PK-3, NK-8)."""
    channel = broker.channel()
    channel.queue_unbind(BOUND, topology.EVENTS, "accounts.account.bound")
    channel.queue_unbind(topology.UNROUTED, topology.UNROUTED)
    one = make_relay()
    (stuck,) = database.emit("enterprises/e/accounts/1", message=AccountBound(handle="h"))
    database.emit("enterprises/e/accounts/2")
    assert one.relay_once() == 1
    assert database.query("select id from outbox where sent_time is null") == [stuck]
    assert one.relay_once() == 0
    assert one._resting.now() == ["enterprises/e/accounts/1"]
    channel.connection.close()
    broker.clean()
    eventually(lambda: one.relay_once() == 1)
    assert one._resting.now() == []
    assert [headers["id"] for headers, _body in broker.take(BOUND)] == [stuck]


def test_relay__unconfirmed(database: Sample, broker: Broker, make_relay, eventually, monkeypatch) -> None:
    """What the broker did not confirm is told again, under the same id."""
    one = make_relay()
    (event_id,) = database.emit("s")
    publish = one._publisher.publish
    monkeypatch.setattr(one._publisher, "publish", lambda *args: [Outcome.UNKNOWN for _ in publish(*args)])
    assert one.relay_once() == 0
    assert database.unsent() == 1
    monkeypatch.undo()
    eventually(lambda: one.relay_once() == 1)
    assert [headers["id"] for headers, _body in broker.take(UNBOUND)] == [event_id, event_id]


def test_relay__dies_before_it_notes(database: Sample, broker: Broker, make_relay, monkeypatch) -> None:
    """A relay that loses the database after the confirms tells the events again, and none is lost."""
    one, (event_id,) = make_relay(), database.emit("s")

    def kill_sessions(*arguments: object) -> None:
        monkeypatch.undo()
        import psycopg

        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'sample' and state <> 'idle'"
            )

    monkeypatch.setattr(one, "_finish", kill_sessions)
    with pytest.raises(ServiceError, match="database"):
        one.relay_once()
    assert one.relay_once() == 1
    assert [headers["id"] for headers, _body in broker.take(UNBOUND)] == [event_id, event_id]


def test_relay__rests_longer_each_time() -> None:
    """A key that fails again rests longer, up to a limit; a success forgets it."""
    resting = relay._Resting()
    lengths = []
    for _ in range(8):
        resting.failed(["k"])
        lengths.append(resting._rests["k"][1])
    assert lengths == [1, 2, 4, 8, 15, 15, 15, 15]
    assert resting.now() == ["k"]
    resting.taken(["k"])
    assert resting.now() == []


def test_relay__trace(database: Sample, broker: Broker, make_relay, monkeypatch) -> None:
    """The producer's span is a child of the span that emitted, and the header names the producer's."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(instruments, "tracer", provider.get_tracer("test"))
    with provider.get_tracer("test").start_as_current_span("request"):
        database.emit("s")
    make_relay().relay_once()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    send = spans["send accounts.account.unbound"]
    assert send.parent.span_id == spans["request"].context.span_id
    ((headers, _body),) = broker.take(UNBOUND)
    assert headers["traceparent"].split("-")[2] == f"{send.context.span_id:016x}"
    assert send.kind.name == "PRODUCER"


def test_relay__purges(database: Sample, broker: Broker, make_relay) -> None:
    """Sent events stay 7 days, so that a broker that lost its disk can be filled again; then they go."""
    one = make_relay()
    database.emit("old", "young")
    one.relay_once()
    with database.transaction(PLATFORM) as tx:
        tx.execute("update outbox set sent_time = now() - interval '8 days' where subject = 'old'")
    one._purge()
    assert database.query("select subject from outbox") == ["young"]


def test_relay__lag(database: Sample, broker: Broker, make_relay) -> None:
    """The lag is the age of the oldest unsent event."""
    one = make_relay()
    one._look()
    assert one.lag == 0
    database.emit("s")
    with database.transaction(PLATFORM) as tx:
        tx.execute("update outbox set time = now() - interval '1 minute'")
    one._look()
    assert 60 <= one.lag < 70
    one.relay_once()
    one._look()
    assert one.lag == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_relay__broker_without_memory(
    database: Sample, own_broker: OwnBroker, eventually, monkeypatch
) -> None:
    """A broker that blocks its publishers delays events, and stops no transaction for long (M11)."""
    own_broker.prepare()
    publisher = Publisher(own_broker.url)
    publisher.start()
    one = Relay(database, publisher)
    assert publisher.ready(10)
    own_broker.control("set_vm_memory_high_watermark", "0.000001")
    eventually(lambda: "memory" in own_broker.control("eval", "rabbit_alarm:get_alarms()."), 20, 0.5)
    monkeypatch.setattr(relay, "PUBLISH_SECONDS", 2.0)
    database.emit("s")
    one.start()
    eventually(lambda: one.lag > 5, 30)
    own_broker.control("set_vm_memory_high_watermark", "0.4")
    eventually(lambda: database.unsent() == 0, 60)
    one.stop()
    publisher.stop()
    assert own_broker.length(UNBOUND) >= 1
