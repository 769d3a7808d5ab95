"""Exchanges and queues, as the broker understands them."""

from datetime import timedelta

from numerator.events.v1.accounts_pb2 import AccountUnbound, EnterpriseVerified

from services.chassis.messaging import topology
from services.chassis.messaging.entrypoint import event_handler
from services.chassis.messaging.publisher import Outcome, Outgoing, Publisher
from services.chassis.testing.servers import ROOT
from services.chassis.tests.messaging.helpers import BOUND, UNBOUND, Broker, wire
from services.chassis.tests.messaging.sample import Worker


def test_subscriptions__of_a_worker_class() -> None:
    """Each handler has a queue of its own, bound to the type of its events."""
    assert topology.subscriptions(Worker) == [
        topology.Subscription(BOUND, "accounts.account.bound"),
        topology.Subscription(UNBOUND, "accounts.account.unbound"),
    ]


def test_declare__again(broker: Broker) -> None:
    """Declaring what is there changes nothing."""
    body, properties = wire(AccountUnbound(account="a"))
    broker.put(UNBOUND, body, **properties)
    topology.declare_topology(broker.url, Worker)
    assert broker.length(UNBOUND) == 1


def test_ensure__what_is_missing(broker: Broker) -> None:
    """A process that may declare makes a broker whole that has lost a queue."""
    channel = broker.channel()
    channel.queue_delete(UNBOUND)
    channel.queue_unbind(BOUND, topology.EVENTS, "accounts.account.bound")
    topology.ensure_topology(broker.url, Worker)
    channel.basic_publish(topology.EVENTS, "accounts.account.bound", b"body", mandatory=True)
    assert (broker.length(UNBOUND), broker.length(BOUND)) == (0, 1)
    channel.connection.close()


def test_worker_classes__of_all_services() -> None:
    """Who has a worker is found without being named anywhere."""
    found = {each.name for each in topology.worker_classes()}
    assert found == {path.parent.name for path in (ROOT / "services").glob("*/worker.py")}
    assert "publishing" in found


def test_delay__full_jitter() -> None:
    """A delay is anywhere between nothing and its level, and the levels double."""
    for attempt, level in enumerate(topology.DELAYS, start=1):
        delays = [topology.delay(attempt) for _ in range(200)]
        assert {exchange for exchange, _delay in delays} == {topology.delay_exchange(level)}
        seconds = [delay.total_seconds() for _exchange, delay in delays]
        assert 0 <= min(seconds) < level / 4
        assert level * 3 / 4 < max(seconds) <= level


def test_delay__scaled() -> None:
    """The unit scales the delay."""
    assert topology.delay(7, timedelta(milliseconds=1))[1] <= timedelta(milliseconds=64)


def test_topology__nobody_listens(broker: Broker) -> None:
    """An event that no queue wants is kept apart, not dropped."""
    body, _properties = wire(EnterpriseVerified())
    channel = broker.channel()
    channel.basic_publish(topology.EVENTS, "accounts.enterprise.verified", body)
    channel.connection.close()
    assert [each for _headers, each in broker.take(topology.UNROUTED)] == [body]


def test_topology__rejected(broker: Broker, eventually) -> None:
    """What a consumer rejects is a dead letter of its queue."""
    body, properties = wire(AccountUnbound(account="a"))
    broker.put(UNBOUND, body, **properties)
    broker.reject(UNBOUND)
    eventually(lambda: broker.length(topology.dead_queue(UNBOUND)) == 1)


def test_topology__delays_return_to_the_queue(broker: Broker, eventually) -> None:
    """A message waits at its level and comes back to the queue that its routing key names, headers and all."""
    publisher = Publisher(broker.url)
    publisher.start()
    outgoing = Outgoing(
        topology.delay_exchange(1), UNBOUND, b"body", "1", None, {"a": "b"}, timedelta(milliseconds=50)
    )
    assert publisher.publish([outgoing]) == [Outcome.CONFIRMED]
    publisher.stop()
    eventually(lambda: broker.length(UNBOUND) == 1)
    ((headers, body),) = broker.take(UNBOUND)
    assert (headers["a"], body) == ("b", b"body")


def test_subscriptions__of_a_method_with_several_classes() -> None:
    """One queue, and one dead letter queue, with a binding for each class."""

    class Several:
        name = "several"

        @event_handler(AccountUnbound, EnterpriseVerified)
        def on_both(self) -> None:
            """Nothing."""

    wanted = topology.subscriptions(Several)
    assert wanted == [
        topology.Subscription("several.on_both", "accounts.account.unbound"),
        topology.Subscription("several.on_both", "accounts.enterprise.verified"),
    ]
    needed, shared = topology.needed_for(wanted), topology.needed_for([])
    assert len(needed.queues) - len(shared.queues) == 2
    assert len(needed.bindings) - len(shared.bindings) == 3
