"""Operators look at dead letters and send them on their way again."""

import pika
import pytest
from numerator.events.v1.accounts_pb2 import AccountUnbound, EnterpriseVerified
from rich.console import Console
from typer.testing import CliRunner

from services.chassis.messaging import dead_letters, topology
from services.chassis.messaging.publisher import Publisher
from services.chassis.messaging.relay import Relay
from services.chassis.testing.servers import ROOT
from services.chassis.tests.messaging.helpers import UNBOUND, Broker, Sample, wire

DEAD = topology.dead_queue(UNBOUND)


@pytest.fixture
def letter(broker: Broker) -> str:
    """A dead letter; its event's id."""
    body, properties = wire(
        AccountUnbound(account="a"),
        subject="s",
        **{"numerator-reason": "DOWN", "numerator-detail": "down", "numerator-attempts": 8},
    )
    broker.put(DEAD, body, **properties)
    return properties["message_id"]


def test_read__leaves_them(broker: Broker, letter: str) -> None:
    """Looking shows reason and attempts, and changes nothing, however often."""
    for _ in range(3):
        (shown,) = dead_letters.read(broker.url, UNBOUND)
    assert (shown.event_id, shown.type, shown.reason) == (letter, "accounts.account.unbound", "DOWN")
    assert (shown.detail, shown.attempts, shown.body) == ("down", 8, b'{"account":"a"}')
    assert dead_letters.count(broker.url, UNBOUND) == 1


def test_read__of_the_broker(broker: Broker, eventually) -> None:
    """A dead letter that the broker made tells the broker's reason."""
    broker.put(UNBOUND, b"x")
    broker.reject(UNBOUND)
    eventually(lambda: broker.length(DEAD) == 1)
    assert [each.reason for each in dead_letters.read(broker.url, UNBOUND)] == ["REJECTED"]


def test_count__no_such_queue(broker: Broker) -> None:
    """A queue that was never declared has no dead letters."""
    assert dead_letters.count(broker.url, "no.such") == 0


def test_replay__has_one_effect(
    database: Sample, broker: Broker, letter: str, start_worker, eventually
) -> None:
    """Replayed as often as one likes, an event has its effect once, and its attempts begin at zero."""
    start_worker()
    copies = broker.channel()
    method, properties, body = copies.basic_get(DEAD)
    for _ in range(3):
        copies.basic_publish("", DEAD, body, properties)
    copies.basic_ack(method.delivery_tag)
    copies.connection.close()
    assert dead_letters.replay(broker.url, UNBOUND) == 3
    assert dead_letters.count(broker.url, UNBOUND) == 0
    eventually(lambda: database.effects() == [letter])
    (second,) = database.emit("s")
    eventually(lambda: database.effects() == [letter, second])


def test_replay__without_our_notes(broker: Broker, letter: str) -> None:
    """A replayed message is what it was before its first attempt, and persistent."""
    assert dead_letters.replay(broker.url, UNBOUND) == 1
    channel = broker.channel()
    _method, properties, body = next(channel.consume(UNBOUND, auto_ack=True))
    channel.connection.close()
    expected_body, expected = wire(AccountUnbound(account="a"), subject="s", event_id=letter)
    properties.headers.pop("x-delivery-count", None)  # the broker's, of this delivery
    assert (properties.headers, body) == (expected["headers"], expected_body)
    assert (properties.message_id, properties.delivery_mode) == (letter, 2)


def test_replay__only_some(broker: Broker, letter: str) -> None:
    """By id; the others stay."""
    broker.put(DEAD, b"other", headers={"id": "other"})
    assert dead_letters.replay(broker.url, UNBOUND, ids=[letter]) == 1
    assert [each.event_id for each in dead_letters.read(broker.url, UNBOUND)] == ["other"]


def test_replay__nowhere_to_go(broker: Broker, letter: str) -> None:
    """What cannot be delivered stays a dead letter."""
    broker.clean()
    channel = broker.channel()
    channel.queue_declare("gone.dead", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", "gone.dead", b"x", pika.BasicProperties(delivery_mode=2))
    with pytest.raises(pika.exceptions.UnroutableError):
        dead_letters.replay(broker.url, "gone")
    assert broker.length("gone.dead") == 1
    channel.queue_delete("gone.dead")
    channel.connection.close()


def test_replay__unrouted(database: Sample, broker: Broker) -> None:
    """An event that came before its listener is told anew by its type."""
    database.emit("s", message=EnterpriseVerified(enterprise="e"))
    publisher = Publisher(broker.url)
    publisher.start()
    assert publisher.ready(10)
    assert Relay(database, publisher).relay_once() == 1
    publisher.stop()
    channel = broker.channel()
    channel.queue_declare("late", exclusive=True)
    channel.queue_bind("late", topology.EVENTS, "accounts.enterprise.verified")
    assert dead_letters.replay(broker.url, topology.UNROUTED) == 1
    assert channel.basic_get("late", auto_ack=True)[2] == b'{"enterprise":"e"}'
    channel.connection.close()


def test_command(broker: Broker, letter: str, monkeypatch) -> None:
    """list, show and replay from the command line."""
    monkeypatch.setenv("AMQP_URL", broker.url)
    monkeypatch.setattr(dead_letters, "_console", Console(width=200))
    monkeypatch.setattr(dead_letters, "queues", lambda: [UNBOUND])
    run = CliRunner().invoke
    listed = run(dead_letters.app, ["list"])
    assert UNBOUND in listed.output
    assert " 1 " in listed.output
    shown = run(dead_letters.app, ["show", UNBOUND, "--body"])
    assert letter in shown.output
    assert "DOWN" in shown.output
    assert '{"account":"a"}' in shown.output
    replayed = run(dead_letters.app, ["replay", UNBOUND, "--id", letter])
    assert replayed.output == "1 replayed\n"
    assert dead_letters.count(broker.url, UNBOUND) == 0


def test_queues__of_the_services() -> None:
    """All services that have a worker are found."""
    workers = {path.parent.name for path in (ROOT / "services").glob("*/worker.py")}
    assert {queue.partition(".")[0] for queue in dead_letters.queues()} <= workers | {"numerator"}
    assert "publishing.on_account_bound" in dead_letters.queues()
