"""Publishing with a window of confirms."""

import signal
import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pika
import pytest

from services.chassis.messaging import topology
from services.chassis.messaging.publisher import Outcome, Outgoing, Publisher, _Session, _Window
from services.chassis.tests.messaging.helpers import UNBOUND, Broker, OwnBroker
from services.chassis.tests.messaging.sample import Worker


def to_queue(number: int, **changes: Any) -> Outgoing:
    """A message to the sample's queue."""
    values: dict[str, Any] = {
        "exchange": "",
        "routing_key": UNBOUND,
        "body": str(number).encode(),
        "message_id": f"m{number}",
    }
    return Outgoing(**values | changes)


@pytest.fixture
def publisher(broker: Broker):
    """A publisher that is connected."""
    publisher = Publisher(broker.url)
    publisher.start()
    assert publisher.ready(10)
    yield publisher
    publisher.stop()


def test_publish__in_order(publisher: Publisher, broker: Broker) -> None:
    """A window is confirmed as a whole, and its messages are in the queue in their order, persistent."""
    assert publisher.publish([to_queue(n) for n in range(1500)]) == [Outcome.CONFIRMED] * 1500
    assert [int(body) for _headers, body in broker.take(UNBOUND)] == list(range(1500))


def test_publish__persistent(publisher: Publisher, broker: Broker) -> None:
    """Every message is persistent, or it would die with the broker once it is a dead letter (RQ-3)."""
    publisher.publish([to_queue(1)])
    channel = broker.channel()
    _method, properties, _body = next(channel.consume(UNBOUND, auto_ack=True))
    channel.connection.close()
    assert properties.delivery_mode == 2


def test_publish__nothing(publisher: Publisher) -> None:
    """No messages, no outcomes."""
    assert publisher.publish([]) == []


def test_publish__unroutable(publisher: Publisher) -> None:
    """What no queue wants is told apart, though the broker confirms it (PK-3); its neighbours are not touched."""
    window = [to_queue(0), to_queue(1, routing_key="no.such.queue"), to_queue(2)]
    assert publisher.publish(window) == [Outcome.CONFIRMED, Outcome.RETURNED, Outcome.CONFIRMED]


@pytest.mark.parametrize(
    "changes",
    [{"headers": {"a": object()}}, {"message_id": "x" * 300}, {"headers": {"\ud800": 1}}],
)
def test_publish__unwritable(publisher: Publisher, changes: dict) -> None:
    """What cannot be written on the wire is refused, and the connection lives on."""
    assert publisher.publish([to_queue(0), to_queue(1, **changes), to_queue(2)]) == [
        Outcome.CONFIRMED,
        Outcome.REFUSED,
        Outcome.CONFIRMED,
    ]


def test_publish__bug(publisher: Publisher) -> None:
    """What nobody foresaw costs its window and the connection, never the thread."""
    assert publisher.publish([to_queue(1, body=7)], 0.5) == [Outcome.UNKNOWN]
    assert publisher.publish([to_queue(2)]) == [Outcome.CONFIRMED]


def test_publish__full_queue(publisher: Publisher, broker: Broker) -> None:
    """A full queue refuses."""
    channel = broker.channel()
    channel.queue_delete("full")
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", durable=True, arguments=arguments)
    channel.connection.close()
    outcomes = [publisher.publish([to_queue(n, routing_key="full")])[0] for n in range(4)]
    assert outcomes[0] is Outcome.CONFIRMED
    assert outcomes[-1] is Outcome.REFUSED


def test_publish__many_threads(publisher: Publisher, broker: Broker) -> None:
    """Any number of threads share a publisher (PK-1)."""
    outcomes: list[Outcome] = []

    def publish(thread: int) -> None:
        for n in range(50):
            outcomes.extend(
                publisher.publish([to_queue(thread * 1000 + n), to_queue(thread * 1000 + 500 + n)])
            )

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [Outcome.CONFIRMED] * 800
    assert broker.length(UNBOUND) == 800


def test_confirms__out_of_order_and_in_groups() -> None:
    """Confirms come in any order and in groups, also negative ones (PK-4)."""
    session = object.__new__(_Session)
    window = _Window([to_queue(n) for n in range(6)])
    session._open = {tag: (window, tag - 1) for tag in range(1, 7)}
    session._returned = {"m4"}

    def confirm(kind: Any, tag: int, *, multiple: bool = False) -> None:
        method = kind(delivery_tag=tag, multiple=multiple)
        session._on_confirm(SimpleNamespace(method=method))

    confirm(pika.spec.Basic.Ack, 5)
    confirm(pika.spec.Basic.Ack, 2)
    confirm(pika.spec.Basic.Nack, 3, multiple=True)
    assert not window.done.is_set()
    confirm(pika.spec.Basic.Ack, 6, multiple=True)
    assert window.done.is_set()
    c, n = Outcome.CONFIRMED, Outcome.REFUSED
    assert window.outcomes == [n, c, n, c, Outcome.RETURNED, c]


def test_publish__no_exchange(publisher: Publisher) -> None:
    """An exchange that is missing ends the channel: nothing is known of the window, and the next one is fine."""
    assert publisher.publish([to_queue(1, exchange="no.such.exchange")], 5) == [Outcome.UNKNOWN]
    assert publisher.publish([to_queue(2)]) == [Outcome.CONFIRMED]


def test_publish__expires(publisher: Publisher, broker: Broker, eventually) -> None:
    """A message lives as long as it is told to."""
    publisher.publish([to_queue(1, expiration=timedelta(milliseconds=20))])
    eventually(lambda: broker.length(UNBOUND) == 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_publish__broker_restarts(own_broker: OwnBroker, eventually) -> None:
    """A publisher waits for a broker that is not there, survives its death, and never calls a loss a success."""
    own_broker.prepare()
    own_broker.server.stop()
    prepared = []
    publisher = Publisher(
        own_broker.url,
        prepare=lambda: (topology.declare_topology(own_broker.url, Worker), prepared.append(1)),
    )
    publisher.start()
    assert publisher.publish([to_queue(1)], 0.2) == [Outcome.UNKNOWN]
    own_broker.start()
    assert publisher.ready(20)
    assert publisher.publish([to_queue(2)]) == [Outcome.CONFIRMED]
    own_broker.kill()
    assert publisher.publish([to_queue(3)], 1) == [Outcome.UNKNOWN]
    own_broker.start()
    # A quorum queue takes a while to find its leader again; what is published before is confirmed late or never.
    eventually(lambda: publisher.publish([to_queue(4)], 5) == [Outcome.CONFIRMED], 60)
    publisher.stop()
    assert len(prepared) >= 2
    assert {b"2", b"4"} <= {body for _headers, body in own_broker.take(UNBOUND)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_publish__silent_broker(own_broker: OwnBroker, eventually) -> None:
    """A broker that hangs costs the time-out, not for ever (PK-2); afterwards all is well."""
    own_broker.prepare()
    publisher = Publisher(own_broker.url)
    publisher.start()
    assert publisher.ready(10)
    process = own_broker.server.process()
    process.send_signal(signal.SIGSTOP)
    try:
        assert publisher.publish([to_queue(1)], 1) == [Outcome.UNKNOWN]
    finally:
        process.send_signal(signal.SIGCONT)
    eventually(lambda: publisher.publish([to_queue(2)], 5) == [Outcome.CONFIRMED], 60)
    publisher.stop()
