"""
Looking at dead letters, and sending them on their way again: for operators, as functions and as a command.

    python -m services.chassis.messaging.dead_letters list
    python -m services.chassis.messaging.dead_letters show publishing.on_account_bound
    python -m services.chassis.messaging.dead_letters replay publishing.on_account_bound --id 06f…

Replaying is safe: a handler that had its effect before has none again. `numerator.unrouted`, where the events
lie that nobody listened to, can be shown and replayed in the same way.

Looking takes messages and gives them back, so two who look at the same time each see a part.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import pika
import pika.exceptions
import typer
from pika.adapters.blocking_connection import BlockingChannel
from rich.console import Console
from rich.table import Table

from services.chassis.messaging.handling import ATTEMPTS, DETAIL, REASON, original
from services.chassis.messaging.settings import BrokerSettings
from services.chassis.messaging.topology import (
    EVENTS,
    UNROUTED,
    dead_queue,
    parameters,
    subscriptions,
    worker_classes,
)

_PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """
    A message that was given up.

    Attributes:
        event_id: empty when the message had none.
        type: the event's type; empty when it had none.
        reason: of ours, or of the broker: REJECTED, DELIVERY_LIMIT.
        attempts: how often a handler was called for it, as far as we counted.
        headers: as it came, with all notes on its way.
        content_type: of the body.
        body: as it came.

    """

    event_id: str
    type: str
    reason: str
    detail: str
    attempts: int
    headers: dict[str, Any]
    content_type: str
    body: bytes


def count(amqp_url: str, queue: str) -> int:
    """How many dead letters of `queue` there are; 0 where the queue was never declared."""
    with _channel(amqp_url) as channel:
        try:
            return int(channel.queue_declare(_where(queue), passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker:
            return 0


def read(amqp_url: str, queue: str, limit: int = 100) -> list[DeadLetter]:
    """The oldest dead letters of `queue`; they stay where they are."""
    with _channel(amqp_url) as channel:
        return [letter for letter, _method, _properties in _take(channel, queue, limit)]


def replay(amqp_url: str, queue: str, *, ids: Collection[str] = (), limit: int = 10_000) -> int:
    """
    Send dead letters to their handler again, with their attempts at zero; returns how many.

    Each leaves its queue when the broker has confirmed its copy. Interrupted in between, it is in both.

    Raises pika.exceptions.UnroutableError or NackError when the broker does not take one; it stays where it is.

    Args:
        amqp_url: the broker.
        queue: the handler's queue, or `numerator.unrouted`, whose events are told anew to whoever listens
        now.
        ids: the events meant; none: all.
        limit: the most that are looked at.

    """
    replayed = 0
    with _channel(amqp_url) as channel:
        channel.confirm_delivery()
        for letter, method, properties in _take(channel, queue, limit):
            if ids and letter.event_id not in ids:
                continue
            properties.headers = original(letter.headers)
            properties.delivery_mode = _PERSISTENT
            properties.expiration = None
            exchange, key = (EVENTS, method.routing_key) if queue == UNROUTED else ("", queue)
            channel.basic_publish(exchange, key, letter.body, properties, mandatory=True)
            channel.basic_ack(method.delivery_tag)
            replayed += 1
    return replayed


def queues() -> list[str]:
    """The queues of all handlers of all services, and `numerator.unrouted`."""
    return [UNROUTED, *(each.queue for worker in worker_classes() for each in subscriptions(worker))]


def _where(queue: str) -> str:
    return queue if queue == UNROUTED else dead_queue(queue)


def _take(
    channel: BlockingChannel, queue: str, limit: int
) -> list[tuple[DeadLetter, pika.spec.Basic.GetOk, pika.BasicProperties]]:
    """Take messages in hand. They go back to their place when the channel closes."""
    taken: list[tuple[DeadLetter, pika.spec.Basic.GetOk, pika.BasicProperties]] = []
    while len(taken) < limit:
        method, properties, body = channel.basic_get(_where(queue))
        if method is None:
            break
        taken.append((_letter(properties, body), method, properties))
    return taken


def _letter(properties: pika.BasicProperties, body: bytes) -> DeadLetter:
    headers = dict(properties.headers or {})
    reason, detail = headers.get(REASON), headers.get(DETAIL, "")
    if reason is None:
        deaths = headers.get("x-death") or [{}]
        reason = str(deaths[0].get("reason", "")).upper()
    return DeadLetter(
        event_id=str(headers.get("id") or properties.message_id or ""),
        type=str(headers.get("type") or ""),
        reason=str(reason),
        detail=str(detail),
        attempts=int(headers.get(ATTEMPTS) or 0),
        headers=headers,
        content_type=str(properties.content_type or ""),
        body=body,
    )


@contextmanager
def _channel(amqp_url: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(parameters(amqp_url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


app = typer.Typer(help="Events that no handler could take.", no_args_is_help=True)
_console = Console()

Queue = Annotated[str, typer.Argument(help="The handler's queue, as publishing.on_account_bound.")]


@app.command("list")
def _list() -> None:
    """How many dead letters each handler has."""
    url = BrokerSettings.load().amqp_url.get_secret_value()
    table = Table("queue", "dead letters")
    for queue in queues():
        number = count(url, queue)
        table.add_row(queue, str(number), style="bold red" if number and queue != UNROUTED else None)
    _console.print(table)


@app.command("show")
def _show(queue: Queue, limit: int = 20, *, body: bool = False) -> None:
    """The oldest dead letters of a handler, with reasons; with --body also what they say."""
    url = BrokerSettings.load().amqp_url.get_secret_value()
    table = Table("event", "type", "reason", "attempts", "detail", *(["body"] if body else []))
    for letter in read(url, queue, limit):
        text = [letter.body[:500].decode(errors="replace")] if body else []
        table.add_row(letter.event_id, letter.type, letter.reason, str(letter.attempts), letter.detail, *text)
    _console.print(table)


@app.command("replay")
def _replay(
    queue: Queue,
    event: Annotated[list[str] | None, typer.Option("--id", help="Only this event; may be repeated.")] = None,
) -> None:
    """Send dead letters to their handler again. Safe to repeat: no event has its effect twice."""
    url = BrokerSettings.load().amqp_url.get_secret_value()
    _console.print(f"{replay(url, queue, ids=event or ())} replayed")


if __name__ == "__main__":
    app()
