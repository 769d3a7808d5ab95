"""What the definitions do on a real broker: rights, limits, drift."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker
from typer.testing import CliRunner, Result

from deploy.local.programs import SERVICES
from deploy.rabbitmq import __main__ as command
from deploy.rabbitmq.tests.helpers import Broker
from gateway.serving import NO_ADMISSIONS, Knowledge
from gateway.snapshots import ADMISSIONS_KEY, QUEUE_PREFIX, SNAPSHOT_KEY, Intake, Push
from gateway.tests.snapshots_made import Told, document, published, record
from services.chassis.clock import SystemClock
from services.chassis.messaging import topology
from services.chassis.messaging.publisher import Outcome, Outgoing, Publisher

EVENTS, DEAD, UNROUTED = topology.EVENTS, topology.DEAD, topology.UNROUTED
DELAY = topology.delay_exchange(1)
ACCESS_REFUSED = 403
QUEUE = "accounts.on_account_token_refused"
TYPE = "publishing.account.token_refused"


@contextmanager
def channel_of(broker: Broker, user: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(broker.url(user))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel


@contextmanager
def publisher_of(broker: Broker, user: str, **more: Any) -> Iterator[Callable[..., Outcome]]:
    """Publishes one message as a service does."""
    publisher = Publisher(broker.url(user), **more)
    publisher.start()

    def publish(exchange: str, key: str, expiration: timedelta | None = None) -> Outcome:
        (outcome,) = publisher.publish([Outgoing(exchange, key, b"x", "id", expiration=expiration)])
        return outcome

    try:
        yield publish
    finally:
        publisher.stop()


def worker_of(service: str) -> type:
    return {each.name: each for each in topology.worker_classes()}[service]


def queues_of(service: str) -> list[str]:
    return list(dict.fromkeys(each.queue for each in topology.subscriptions(worker_of(service))))


def refused(broker: Broker, user: str, act: Callable[[BlockingChannel], object]) -> bool:
    """Whether the broker refuses a user the right to do something."""
    with channel_of(broker, user) as channel:
        try:
            act(channel)
        except ChannelClosedByBroker as error:
            return bool(error.reply_code == ACCESS_REFUSED)
    return False


# --- rights


@pytest.mark.parametrize("service", SERVICES)
def test_rights__a_service_does_its_work(
    broker: Broker, admin: BlockingChannel, eventually, service: str
) -> None:
    """Finds its queues, tells its events, hears its own, delays them and buries them."""
    topology.ensure_topology(broker.url(service), worker_of(service))
    topology.declare_topology(broker.url(service), worker_of(service))
    with publisher_of(broker, service) as publish, channel_of(broker, service) as channel:
        assert publish(EVENTS, f"{service}.test.happened") is Outcome.CONFIRMED
        for queue in queues_of(service):
            assert publish(DELAY, queue, timedelta(milliseconds=1)) is Outcome.CONFIRMED
            assert publish(DEAD, queue) is Outcome.CONFIRMED
            method, _properties, _body = next(channel.consume(queue, inactivity_timeout=10))
            channel.basic_ack(method.delivery_tag)
            channel.cancel()
    dead = [topology.dead_queue(queue) for queue in queues_of(service)]
    assert [admin.queue_purge(each).method.message_count for each in dead] == [1] * len(dead)
    assert admin.queue_purge(UNROUTED).method.message_count == 1


@pytest.mark.parametrize("service", SERVICES)
def test_rights__a_service_does_nothing_else(broker: Broker, service: str) -> None:
    """It reads no queue but its own, writes to none, and changes nothing of what there is."""
    other = "rollout" if service == "accounts" else "accounts"
    foreign = queues_of(other)[0]
    own = (queues_of(service) or [f"{service}.new"])[0]
    acts: dict[str, Callable[[BlockingChannel], object]] = {
        "read another's queue": lambda it: it.basic_get(foreign),
        "consume another's queue": lambda it: next(it.consume(foreign, inactivity_timeout=1)),
        "read dead letters": lambda it: it.basic_get(topology.dead_queue(foreign)),
        "read what nobody wanted": lambda it: it.basic_get(UNROUTED),
        "read what waits": lambda it: it.basic_get(DELAY),
        "empty another's queue": lambda it: it.queue_purge(foreign),
        "write to a queue": lambda it: it.basic_publish("", foreign, b""),
        "write to another's queue by delay": lambda it: it.basic_publish(DELAY, foreign, b""),
        "write to another's dead letters": lambda it: it.basic_publish(DEAD, foreign, b""),
        "tell another's event": lambda it: it.basic_publish(EVENTS, f"{other}.thing.happened", b""),
        "tell an event of a like name": lambda it: it.basic_publish(
            EVENTS, f"{service}s.thing.happened", b""
        ),
        "write to unrouted": lambda it: it.basic_publish(UNROUTED, own, b""),
        "declare a queue": lambda it: it.queue_declare(f"{service}.new"),
        "declare a queue without a name": lambda it: it.queue_declare("", exclusive=True),
        "declare an exchange": lambda it: it.exchange_declare(f"{service}.new"),
        "delete its queue": lambda it: it.queue_delete(own if own in queues_of(service) else foreign),
        "delete another's queue": lambda it: it.queue_delete(foreign),
        "delete an exchange": lambda it: it.exchange_delete(EVENTS),
        "hear another event": lambda it: it.queue_bind(own, EVENTS, "accounts.account.bound"),
        "forget an event": lambda it: it.queue_unbind(foreign, EVENTS, "x"),
    }
    assert [what for what, act in acts.items() if not refused(broker, service, act)] == []


def test_rights__the_gateway(broker: Broker, eventually, tmp_path: Path) -> None:
    """It hears of snapshots and admissions, through queues of its own, and of nothing else; it tells nothing."""
    knowledge = Knowledge(SystemClock(), 60)
    knowledge.take_admissions(NO_ADMISSIONS, instead_of=None)
    push = Push(broker.url("gateway"), Intake(knowledge), lambda: None)
    push.start()
    assert push.connected.wait(10)
    told = {SNAPSHOT_KEY: published(document(3)), ADMISSIONS_KEY: Told().change(record("ACTIVE"))}
    with channel_of(broker, "rollout") as channel:
        for key, event in told.items():
            channel.basic_publish(EVENTS, key, event.SerializeToString(), mandatory=True)
    eventually(lambda: knowledge.snapshot is not None and knowledge.snapshot.version == 3)
    eventually(lambda: knowledge.admissions is not None and knowledge.admissions.version == 1)
    assert run("check", broker).exit_code == 0, "the queues of a connection are no drift"
    push.stop()

    def hear(key: str) -> Callable[[BlockingChannel], object]:
        def act(it: BlockingChannel) -> None:
            it.queue_declare(f"{QUEUE_PREFIX}x", exclusive=True)
            it.queue_bind(f"{QUEUE_PREFIX}x", EVENTS, key)

        return act

    assert not refused(broker, "gateway", hear(SNAPSHOT_KEY))
    assert not refused(broker, "gateway", hear(ADMISSIONS_KEY))
    for act in (
        hear("#"),
        hear("accounts.account.bound"),
        lambda it: it.queue_declare("gateway.other", exclusive=True),
        lambda it: it.queue_declare("", exclusive=True),
        lambda it: it.basic_get(QUEUE),
        lambda it: it.basic_publish(EVENTS, SNAPSHOT_KEY, b""),
        lambda it: it.basic_publish("", QUEUE, b""),
        lambda it: it.exchange_delete(EVENTS),
    ):
        assert refused(broker, "gateway", act)


def test_rights__what_is_missing_is_told_and_waited_for(
    broker: Broker, admin: BlockingChannel, eventually, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker whose queue is gone may not declare it: it says so, tries again, and goes on when it is there."""
    admin.queue_delete(QUEUE)
    prepare = partial(topology.ensure_topology, broker.url("accounts"), worker_of("accounts"))
    said = ""

    def told() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return said.count("topology.missing") > 1

    with publisher_of(broker, "accounts", prepare=prepare) as publish:
        eventually(told)
        assert QUEUE in said
        assert "python -m deploy.rabbitmq apply" in said
        assert run("apply", broker).exit_code == 0
        assert publish(EVENTS, "accounts.test.happened") is Outcome.CONFIRMED
    admin.queue_purge(UNROUTED)


# --- what must hold of messages


def test_limits__a_full_queue_refuses_and_keeps(broker: Broker, admin: BlockingChannel) -> None:
    """A limit that is changed in operation holds at once: what is too much is refused, what was taken is there."""
    limit = {"pattern": f"^{QUEUE}$", "definition": {"max-length": 3}, "apply-to": "queues", "priority": 9}
    api(broker, "PUT", "policies/%2F/small", limit)
    with publisher_of(broker, "publishing") as publish:
        outcomes = [publish(EVENTS, TYPE) for _ in range(20)]
        api(broker, "DELETE", "policies/%2F/small")
        assert publish(EVENTS, TYPE) is Outcome.CONFIRMED
    taken = outcomes.count(Outcome.CONFIRMED)
    assert set(outcomes) == {Outcome.CONFIRMED, Outcome.REFUSED}
    assert 3 <= taken <= 5  # a quorum queue hears of its limit a little late
    assert admin.queue_purge(QUEUE).method.message_count == taken + 1


def test_dead_letters__of_the_broker(broker: Broker, admin: BlockingChannel, eventually) -> None:
    """What a service rejects, and what is delivered too often, comes to the dead letters of its queue."""
    with channel_of(broker, "publishing") as channel:
        channel.basic_publish(EVENTS, TYPE, b"rejected", mandatory=True)
    with channel_of(broker, "accounts") as channel:
        method, _properties, _body = next(channel.consume(QUEUE, inactivity_timeout=10))
        channel.basic_reject(method.delivery_tag, requeue=False)
    eventually(lambda: length(admin, topology.dead_queue(QUEUE)) == 1)
    with channel_of(broker, "publishing") as channel:
        channel.basic_publish(EVENTS, TYPE, b"deadly", mandatory=True)
    with channel_of(broker, "accounts") as channel:
        deliveries = 0
        for method, _properties, _body in channel.consume(QUEUE, inactivity_timeout=2):
            if method is None:
                break
            deliveries += 1
            channel.basic_reject(method.delivery_tag, requeue=True)
    assert deliveries == topology.DELIVERY_LIMIT + 1
    eventually(lambda: length(admin, topology.dead_queue(QUEUE)) == 2)
    letters = [admin.basic_get(topology.dead_queue(QUEUE), auto_ack=True) for _ in range(2)]
    assert [(body, p.headers["x-death"][0]["reason"]) for _method, p, body in letters] == [
        (b"rejected", "rejected"),
        (b"deadly", "delivery_limit"),
    ]


def test_unrouted__is_kept(broker: Broker, admin: BlockingChannel) -> None:
    """What nobody listens to is taken, and kept apart."""
    with publisher_of(broker, "placement") as publish:
        assert publish(EVENTS, "placement.nobody.listens") is Outcome.CONFIRMED
    assert admin.basic_get(UNROUTED, auto_ack=True)[0].routing_key == "placement.nobody.listens"


# --- drift


def test_check__of_what_the_broker_loaded(broker: Broker) -> None:
    """A broker that has started with the definitions is as it should be, and there is nothing to apply."""
    assert run("check", broker).output == "The broker is as it should be.\n"
    assert run("apply", broker).output == "The broker is as it should be; nothing was changed.\n"


def test_apply__repairs(broker: Broker, admin: BlockingChannel) -> None:
    """Whatever was taken away or changed by hand is found, named and repaired; the second time nothing is left to do."""
    admin.queue_delete(f"{QUEUE}.dead")
    admin.queue_unbind(QUEUE, EVENTS, TYPE)
    admin.exchange_delete(DELAY)
    api(broker, "PUT", "policies/%2F/handlers", {"pattern": "^x", "definition": {"max-length": 1}})
    api(broker, "DELETE", "policies/%2F/unrouted")
    api(broker, "PUT", "permissions/%2F/placement", {"configure": ".*", "write": ".*", "read": ".*"})
    api(broker, "DELETE", "topic-permissions/%2F/targeting")
    api(broker, "PUT", "users/analytics", {"password": "guessed", "tags": ""})
    wrong = [
        ("different", "users", "analytics", "password"),
        ("different", "permissions", "placement", "'.*', should be '^$'"),
        ("missing", "topic_permissions", f"targeting {EVENTS}", ""),
        ("missing", "exchanges", DELAY, ""),
        ("missing", "queues", f"{QUEUE}.dead", ""),
        ("missing", "bindings", f"{DEAD} queue {QUEUE}.dead {QUEUE}", ""),
        ("missing", "bindings", f"{DELAY} queue {DELAY} #", ""),
        ("missing", "bindings", f"{EVENTS} queue {QUEUE} {TYPE}", ""),
        ("different", "policies", "handlers", "1000000"),
        ("missing", "policies", "unrouted", ""),
    ]

    found = run("check", broker)
    applied = run("apply", broker)

    assert (found.exit_code, applied.exit_code) == (1, 0)
    for done in (found, applied):
        assert len(rows(done)) == len(wrong)
        assert all(any(all(part in row for part in expected) for row in rows(done)) for expected in wrong), (
            done.output
        )
    assert run("check", broker).exit_code == 0


def test_apply__leaves_what_it_does_not_know(broker: Broker, admin: BlockingChannel) -> None:
    """What is there besides is told, and stays: nobody but a person can know whether it may go."""
    admin.queue_declare("accounts.on_something_old", durable=True)
    admin.queue_bind(QUEUE, EVENTS, "accounts.old")
    admin.exchange_declare("old")
    api(broker, "PUT", "users/guest", {"password": "guest", "tags": ""})
    api(broker, "PUT", "policies/%2F/old", {"pattern": "^old", "definition": {"max-length": 1}})
    override = {"vhost": "/", "name": "old", "pattern": "^old", "definition": {"max-length": 1}}
    api(broker, "PUT", "operator-policies/%2F/old", override)

    found, applied = run("check", broker), run("apply", broker)

    assert (found.exit_code, applied.exit_code) == (1, 0)
    assert all("unexpected" in row for row in rows(found))
    assert len(rows(found)) == len(rows(applied)) == 6
    admin.queue_delete("accounts.on_something_old")
    admin.queue_unbind(QUEUE, EVENTS, "accounts.old")
    admin.exchange_delete("old")
    for path in ("users/guest", "policies/%2F/old", "operator-policies/%2F/old"):
        api(broker, "DELETE", path)
    assert run("check", broker).exit_code == 0


def test_apply__cannot_change_a_queue(broker: Broker, admin: BlockingChannel) -> None:
    """A queue with other arguments stays as it is, with its messages; that is a failure, and says so."""
    admin.queue_delete(QUEUE)
    admin.queue_declare(QUEUE, durable=True)

    applied = run("apply", broker)

    assert applied.exit_code == 1
    assert "cannot be changed in place" in applied.output
    admin.queue_delete(QUEUE)
    assert run("apply", broker).exit_code == 0


def test_command__the_broker_refuses_or_is_away(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password and a broker that is not there are told in a line each."""
    right = broker.server.management_url
    for url, said in (
        (right.replace("numerator:", "accounts:"), "401"),
        ("http://a:b@127.0.0.1:1", "does not answer"),
    ):
        assert said in str(run("check", broker, url).exception)


def run(name: str, broker: Broker, management_url: str = "") -> Result:
    """Run a command on a broker."""
    environment = {
        "RABBITMQ_MANAGEMENT_URL": management_url or broker.server.management_url,
        "RABBITMQ_DEFINITIONS_FILE": str(broker.server.place / "definitions.json"),
        "COLUMNS": "300",
    }
    return CliRunner(env=environment).invoke(command.app, [name])


def rows(done: Result) -> list[str]:
    """The rows of the tables that a command has printed."""
    words = ("missing", "different", "unexpected")
    return [line for line in done.output.splitlines() if line.strip(" │").startswith(words)]


def api(broker: Broker, method: str, path: str, body: object = None) -> None:
    """Ask the management API for something that our own client cannot."""
    url = f"{broker.server.management_url}/api/{path}"
    httpx.request(method, url, json=body, timeout=10).raise_for_status()


def length(channel: BlockingChannel, queue: str) -> int:
    count: int = channel.queue_declare(queue, passive=True).method.message_count
    return count
