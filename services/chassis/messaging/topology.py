"""
The exchanges, queues and bindings: what there is, as data, and how it comes to the broker.

Everything is durable, and every queue is a quorum queue that refuses when it is full (the publisher keeps the
message) instead of dropping::

    numerator.events (topic) ──type──► <service>.<handler> ──rejected──► numerator.dead (topic)
          │ no queue wants it                ▲                                  │
          ▼                                  │ default exchange, when over      ▼
    numerator.unrouted             numerator.delay.<n>s ◄── retries   <service>.<handler>.dead

All routing keys begin with a service's name, `<service>.`, be they types of events or names of queues, and all
exchanges that services publish to are topic exchanges: so the broker can hold each service to its own keys.

What correctness rests on is in the arguments of the queues, which are for ever. How much they hold is in policies,
which an operator may change at any time; AMQP cannot set them, `deploy.rabbitmq` does.

`migrate` declares all this before anything publishes (an event that is told before the queue of its handler exists
goes to `numerator.unrouted`). Each process looks whenever it connects, and declares what a broker has lost, if it
may: in production the broker's own definitions do it, and services have no right to.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from services.chassis.events import event_type
from services.chassis.logs import get_logger

EVENTS = "numerator.events"
UNROUTED = "numerator.unrouted"
DEAD = "numerator.dead"

MAX_ATTEMPTS = 8
"""How often a handler is called for an event before it becomes a dead letter."""
DELAYS = (1, 2, 4, 8, 16, 32, 64)
"""The longest delay, in seconds, before the 2nd, 3rd, … attempt."""

DELIVERY_LIMIT = 20
"""
How often the broker delivers a message before it takes the process that never answers for the cause. All
messages that a dying process holds are counted, the innocent ones too, so it must not be small.
"""
_NEVER = 1_000_000
"""
A delivery limit for queues that people look into: looking counts as a delivery (unlimited is not sayable on
3.10).
"""
_MAX_LENGTH = 1_000_000
_MAX_PARKED = 100_000
_UNROUTED_KEPT = timedelta(days=7)
_NOT_FOUND, _ACCESS_REFUSED = 404, 403

SUBSCRIPTION = "__numerator_message_classes__"
"""The attribute in which `event_handler` notes the message classes of a method."""

_SERVICES = Path(__file__).resolve().parents[2]

_random = SystemRandom()
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """That a queue gets all events of a type. A queue may have several."""

    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Binding:
    """That a queue gets what comes to an exchange with a routing key."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Policy:
    """
    Limits that apply to all queues with a name like `pattern`; of several policies the one with the highest priority.

    They can be changed while the queues are in use.
    """

    name: str
    pattern: str
    priority: int
    limits: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Topology:
    """Exchanges, queues and bindings, each after what it refers to."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


POLICIES = (
    Policy("handlers", r"^[a-z_]+\.[a-z0-9_]+$", 0, {"max-length": _MAX_LENGTH}),
    Policy("delays", r"^numerator\.delay\.", 1, {"max-length": _MAX_LENGTH}),
    Policy("dead-letters", r"\.dead$", 1, {"max-length": _MAX_PARKED}),
    Policy(
        "unrouted",
        r"^numerator\.unrouted$",
        1,
        {"max-length": _MAX_PARKED, "message-ttl": _UNROUTED_KEPT // timedelta(milliseconds=1)},
    ),
)
"""How much the queues hold."""


def queue_name(service: str, handler: str) -> str:
    """The queue of a service's handler method."""
    return f"{service}.{handler}"


def dead_queue(queue: str) -> str:
    """Where the dead letters of `queue` are."""
    return f"{queue}.dead"


def delay_exchange(seconds: int) -> str:
    """Publish here with a queue's name as routing key: the message goes to that queue when it expires."""
    return f"numerator.delay.{seconds}s"


def delay(attempt: int, unit: timedelta = timedelta(seconds=1)) -> tuple[str, timedelta]:
    """
    Where a message waits after its `attempt`-th failure (from 1), and for how long: anything up to 1, 2, 4, …
    64 units (full jitter, so that what failed together does not come back together).

    A message waits behind those that came to the same level before it, so at most as long as the level's
    longest.
    """
    level = DELAYS[min(attempt, len(DELAYS)) - 1]
    return delay_exchange(level), unit * (level * _random.random())


def subscriptions(service_class: type) -> list[Subscription]:
    """What the handlers of a worker class listen to."""
    name: str = getattr(service_class, "name")  # noqa: B009 -- a class attribute that `type` does not declare
    return [
        Subscription(queue_name(name, method), event_type(message_class))
        for method, function in sorted(vars(service_class).items())
        for message_class in getattr(function, SUBSCRIPTION, ())
    ]


def worker_classes() -> list[type]:
    """The worker classes of all services: `Worker` in each `services/<service>/worker.py`."""
    return [
        importlib.import_module(f"services.{path.parent.name}.worker").Worker
        for path in sorted(_SERVICES.glob("*/worker.py"))
    ]


def needed_for(wanted: Iterable[Subscription]) -> Topology:
    """What all services share, and the queues of `wanted`."""
    subscribed = list(wanted)
    queues = list(dict.fromkeys(each.queue for each in subscribed))
    delays = [delay_exchange(seconds) for seconds in DELAYS]
    return Topology(
        exchanges=(
            Exchange(UNROUTED, "fanout"),
            Exchange(EVENTS, "topic", {"alternate-exchange": UNROUTED}),
            Exchange(DEAD, "topic"),
            *(Exchange(name, "topic") for name in delays),
        ),
        queues=(
            _UNROUTED_QUEUE,
            *(Queue(name, _DELAY_ARGUMENTS) for name in delays),
            *(queue for name in queues for queue in (_dead_queue(name), _handler_queue(name))),
        ),
        bindings=(
            Binding(UNROUTED, UNROUTED, UNROUTED),
            *(Binding(name, name, "#") for name in delays),
            *(Binding(DEAD, dead_queue(name), name) for name in queues),
            *(Binding(EVENTS, each.queue, each.routing_key) for each in subscribed),
        ),
    )


def _quorum(**more: Any) -> dict[str, Any]:
    return {"x-queue-type": "quorum", "x-overflow": "reject-publish", **more}


# Events that nobody listens to are normal (the catalogue is larger than its use), so the oldest make room.
_UNROUTED_QUEUE = Queue(UNROUTED, _quorum(**{"x-overflow": "drop-head", "x-delivery-limit": _NEVER}))

# No routing key for what expires: it keeps its own, which is the queue that it came from.
_DELAY_ARGUMENTS = _quorum(**{"x-dead-letter-exchange": "", "x-dead-letter-strategy": "at-least-once"})


def _dead_queue(name: str) -> Queue:
    return Queue(dead_queue(name), _quorum(**{"x-delivery-limit": _NEVER}))


def _handler_queue(name: str) -> Queue:
    return Queue(
        name,
        _quorum(
            **{
                "x-delivery-limit": DELIVERY_LIMIT,
                # Of several worker processes one gets the messages and the others stand by, or two of them would
                # handle the events of one aggregate at once, in any order.
                "x-single-active-consumer": True,
                "x-dead-letter-exchange": DEAD,
                "x-dead-letter-routing-key": name,
                # The default drops a dead letter whose queue is missing or full; this one keeps and retries it. It
                # needs reject-publish.
                "x-dead-letter-strategy": "at-least-once",
            },
        ),
    )


def publishes_to(wanted: Iterable[Subscription]) -> list[str]:
    """The exchanges to which a worker with these subscriptions publishes: retries and dead letters come of handlers."""
    return [EVENTS, *([DEAD, *map(delay_exchange, DELAYS)] if list(wanted) else [])]


def declare_topology(amqp_url: str, service_class: type) -> None:
    """
    Declare everything that a service's worker needs; what is there already stays. Called by `migrate`.

    A user who has no right to declare must find it there.

    Raises pika.exceptions.AMQPError when the broker cannot be reached, has something of the name with other
    arguments, or lacks what we may not declare; the log then names it.
    """
    wanted = subscriptions(service_class)
    try:
        declare(amqp_url, wanted)
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != _ACCESS_REFUSED:
            raise
        if missing := _first_missing(amqp_url, wanted):
            _log.error(
                "topology.missing",
                missing=missing,
                hint="we may not declare it: python -m deploy.rabbitmq apply",
            )
            raise


def ensure_topology(amqp_url: str, service_class: type) -> None:
    """
    Look whether what a service's worker uses is there, which needs no right to declare; if not, declare everything.

    Raises as `declare_topology`.
    """
    if _first_missing(amqp_url, subscriptions(service_class)):
        declare_topology(amqp_url, service_class)


def declare(amqp_url: str, wanted: Iterable[Subscription] = ()) -> None:
    """Declare what all services share, and the queues of `wanted`. Raises pika.exceptions.AMQPError."""
    needed = needed_for(wanted)
    with _connection(amqp_url) as connection:
        channel = connection.channel()
        for exchange in needed.exchanges:
            channel.exchange_declare(
                exchange.name, exchange.type, durable=True, arguments=dict(exchange.arguments)
            )
        for queue in needed.queues:
            channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
        for binding in needed.bindings:
            channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)


def parameters(amqp_url: str) -> pika.URLParameters:
    """How we connect by pika: nothing waits for ever, whatever the broker does."""
    parameters = pika.URLParameters(amqp_url)
    parameters.heartbeat = 20
    parameters.blocked_connection_timeout = 10
    parameters.socket_timeout = 5
    parameters.stack_timeout = 10
    parameters.connection_attempts = 1
    return parameters


@contextmanager
def _connection(amqp_url: str) -> Iterator[pika.BlockingConnection]:
    connection = pika.BlockingConnection(parameters(amqp_url))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def _first_missing(amqp_url: str, wanted: Iterable[Subscription]) -> str | None:
    """
    The first exchange or queue that a worker with these subscriptions uses and that is not there.

    Some brokers (4.2.6, 4.3.0) let only those look who may declare; what we may not see counts as there.
    """
    subscribed = list(wanted)
    used = [
        *((name, BlockingChannel.exchange_declare) for name in publishes_to(subscribed)),
        *((name, BlockingChannel.queue_declare) for name in dict.fromkeys(each.queue for each in subscribed)),
    ]
    with _connection(amqp_url) as connection:
        channel = connection.channel()
        for name, look in used:
            try:
                look(channel, name, passive=True)
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code == _NOT_FOUND:
                    return name
                if error.reply_code != _ACCESS_REFUSED:
                    raise
                channel = connection.channel()
    return None
