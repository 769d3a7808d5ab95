"""
The exchanges and queues: their names, and how they are declared.

Everything is durable, and every queue is a quorum queue with a bounded length, so that a full queue refuses
(the publisher keeps the message) instead of dropping::

    numerator.events (topic) ──type──► <service>.<handler> ──rejected──► numerator.dead (direct)
          │ no queue wants it                ▲                                  │
          ▼                                  │ default exchange, when over      ▼
    numerator.unrouted             numerator.delay.<n>s ◄── retries   <service>.<handler>.dead

Declaring is idempotent. `migrate` does it before anything publishes (an event that is told before the queue
of its handler exists goes to `numerator.unrouted`), and each process does it again whenever it connects, so
that a broker that lost its disk is whole again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from random import SystemRandom
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from services.chassis.events import event_type

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
_UNROUTED_DAYS = 7

SUBSCRIPTION = "__numerator_message_class__"
"""The attribute in which `event_handler` notes the message class of a method."""

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class Subscription:
    """That a queue gets all events of a type."""

    queue: str
    routing_key: str


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
        Subscription(queue_name(name, method), event_type(getattr(function, SUBSCRIPTION)))
        for method, function in sorted(vars(service_class).items())
        if hasattr(function, SUBSCRIPTION)
    ]


def declare_topology(amqp_url: str, service_class: type) -> None:
    """
    Declare everything that a service's worker needs. Called by `migrate`.

    Raises pika.exceptions.AMQPError when the broker cannot be reached, or has a queue of the name with other
    arguments.
    """
    declare(amqp_url, subscriptions(service_class))


def declare(amqp_url: str, wanted: Iterable[Subscription] = ()) -> None:
    """Declare what all services share, and the queues of `wanted`. Raises as `declare_topology`."""
    connection = pika.BlockingConnection(parameters(amqp_url))
    try:
        channel = connection.channel()
        _declare_shared(channel)
        for subscription in wanted:
            _declare_handler(channel, subscription)
    finally:
        if connection.is_open:
            connection.close()


def parameters(amqp_url: str) -> pika.URLParameters:
    """How we connect by pika: nothing waits for ever, whatever the broker does."""
    parameters = pika.URLParameters(amqp_url)
    parameters.heartbeat = 20
    parameters.blocked_connection_timeout = 10
    parameters.socket_timeout = 5
    parameters.stack_timeout = 10
    parameters.connection_attempts = 1
    return parameters


def _declare_shared(channel: BlockingChannel) -> None:
    channel.exchange_declare(UNROUTED, "fanout", durable=True)
    # Events that nobody listens to are normal (the catalogue is larger than its use), so the oldest make
    # room.
    channel.queue_declare(
        UNROUTED,
        durable=True,
        arguments=_quorum(
            _MAX_PARKED,
            **{
                "x-overflow": "drop-head",
                "x-delivery-limit": _NEVER,
                "x-message-ttl": int(timedelta(days=_UNROUTED_DAYS).total_seconds() * 1000),
            },
        ),
    )
    channel.queue_bind(UNROUTED, UNROUTED)
    channel.exchange_declare(EVENTS, "topic", durable=True, arguments={"alternate-exchange": UNROUTED})
    channel.exchange_declare(DEAD, "direct", durable=True)
    for seconds in DELAYS:
        name = delay_exchange(seconds)
        channel.exchange_declare(name, "fanout", durable=True)
        # No routing key for what expires: it keeps its own, which is the queue that it came from.
        channel.queue_declare(
            name,
            durable=True,
            arguments=_quorum(
                _MAX_LENGTH, **{"x-dead-letter-exchange": "", "x-dead-letter-strategy": "at-least-once"}
            ),
        )
        channel.queue_bind(name, name)


def _declare_handler(channel: BlockingChannel, subscription: Subscription) -> None:
    queue, dead = subscription.queue, dead_queue(subscription.queue)
    channel.queue_declare(dead, durable=True, arguments=_quorum(_MAX_PARKED, **{"x-delivery-limit": _NEVER}))
    channel.queue_bind(dead, DEAD, queue)
    channel.queue_declare(
        queue,
        durable=True,
        arguments=_quorum(
            _MAX_LENGTH,
            **{
                "x-delivery-limit": DELIVERY_LIMIT,
                # Of several worker processes one gets the messages and the others stand by, or two of them would
                # handle the events of one aggregate at once, in any order.
                "x-single-active-consumer": True,
                "x-dead-letter-exchange": DEAD,
                "x-dead-letter-routing-key": queue,
                # The default drops a dead letter whose queue is missing or full; this one keeps and retries
                # it.
                "x-dead-letter-strategy": "at-least-once",
            },
        ),
    )
    channel.queue_bind(queue, EVENTS, subscription.routing_key)


def _quorum(max_length: int, **more: Any) -> dict[str, Any]:
    return {"x-queue-type": "quorum", "x-max-length": max_length, "x-overflow": "reject-publish", **more}
