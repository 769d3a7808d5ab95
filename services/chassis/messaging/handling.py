"""
What is done with a delivery: effect and acknowledgement, a later try, or a dead letter. Knows no nameko.

The rules:
- The event's id is recorded in the inbox in the transaction of the effect, which commits before the delivery
  is acknowledged. However often a delivery is repeated, the effect happens once.
- UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED and whatever is no ServiceError are tried again,
  after growing delays, 8 times in all. Meanwhile later events of the same aggregate may overtake: a handler
  that needs their order compares versions or times.
- Any other ServiceError, and what cannot be read, is a dead letter at once.
- While the database is away nothing is tried in vain: the delivery waits in the hand of its handler.
- A message leaves its queue only when the broker has confirmed its copy elsewhere. If it does not, the broker
  itself is told to make it a dead letter.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from random import SystemRandom
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from opentelemetry import trace
from structlog.contextvars import bound_contextvars

from services.chassis.database import PLATFORM, Database, Scope, Tenant, Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.events import event_type
from services.chassis.ids import new_id
from services.chassis.logs import get_logger
from services.chassis.messaging import instruments
from services.chassis.messaging.envelope import Event, PoisonError, decode
from services.chassis.messaging.publisher import Outcome, Outgoing, Publisher
from services.chassis.messaging.topology import DEAD, MAX_ATTEMPTS, delay
from services.chassis.telemetry import restore_context

ATTEMPTS = "numerator-attempts"
"""The header that says how many attempts were made."""
REASON = "numerator-reason"
"""The header that says why a message is a dead letter."""
DETAIL = "numerator-detail"
"""The header that says more, for people."""

BUDGET = timedelta(seconds=5)
"""How long a handler may take. Longer ones are logged, and may be cut off when the process stops."""

_AGAIN = frozenset({Kind.UNAVAILABLE, Kind.ABORTED, Kind.DEADLINE_EXCEEDED, Kind.RESOURCE_EXHAUSTED})
_WITHOUT_DATABASE = 0.5, 5.0  # seconds between looks, first and longest
_SCALARS = (str, bytes, bool, int, type(None))

M = TypeVar("M", bound=Message)

_random = SystemRandom()
_log = get_logger(__name__)


class Verdict(Enum):
    """What the broker is to be told."""

    ACK = "ack"
    REJECT = "reject"
    """Make it a dead letter."""
    REQUEUE = "requeue"
    """Deliver it again, to whomever."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came. Nothing in it can be relied on."""

    headers: Mapping[object, object]
    content_type: object
    message_id: object
    body: bytes

    @property
    def attempts(self) -> int:
        """How many attempts were made before this one."""
        value = self.headers.get(ATTEMPTS)
        return max(0, value) if isinstance(value, int) else 0


class Handling(Generic[M]):
    """
    Handles the deliveries of one queue. One instance serves all threads.

    Args:
        queue: the queue's name; also the handler's in the inbox.
        message_classes: what the handler takes.
        call: the handler.
        database: of the service.
        publisher: sends retries and dead letters.
        stopping: is set when the process is about to end.
        retry_unit: what the delays are multiples of.
        scope: of the transaction; by default that of the event's enterprise.

    """

    def __init__(
        self,
        queue: str,
        message_classes: Sequence[type[M]],
        call: Callable[[Transaction, Event[M]], object],
        *,
        database: Database,
        publisher: Publisher,
        stopping: threading.Event,
        retry_unit: timedelta = timedelta(seconds=1),
        scope: Scope | None = None,
    ) -> None:
        self._queue = queue
        self._message_classes = message_classes
        self._call = call
        self._database = database
        self._publisher = publisher
        self._stopping = stopping
        self._retry_unit = retry_unit
        self._scope = scope
        self._attributes = {
            **instruments.SYSTEM,
            "messaging.destination.name": queue,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }

    def handle(self, delivery: Delivery) -> Verdict:
        """Do what the rules of this module say; raises nothing."""
        begin = time.monotonic()
        instruments.consumed.add(1, self._attributes)
        with instruments.tracer.start_as_current_span(
            f"process {self._queue}",
            context=restore_context(str(delivery.headers.get("traceparent", ""))),
            kind=trace.SpanKind.CONSUMER,
            attributes={**self._attributes, "numerator.attempt": delivery.attempts + 1},
        ) as span:
            verdict = self._judge(delivery, span)
            seconds = time.monotonic() - begin
            instruments.process_duration.record(
                seconds, {**self._attributes, "numerator.verdict": verdict.value}
            )
        if seconds > BUDGET.total_seconds():
            _log.warning("handler.exceeded_budget", queue=self._queue, seconds=round(seconds, 1))
        return verdict

    def bury(self, delivery: Delivery, reason: str, detail: str) -> Verdict:
        """Make the delivery a dead letter of ours, with its reason; the broker's own if that fails."""
        _log.error("event.dead_lettered", queue=self._queue, reason=reason, detail=detail)
        instruments.dead_lettered.add(1, {**self._attributes, "numerator.reason": reason})
        sent = self._send(
            DEAD, delivery, {ATTEMPTS: delivery.attempts + 1, REASON: reason, DETAIL: detail[:1000]}
        )
        return Verdict.ACK if sent else Verdict.REJECT

    def _judge(self, delivery: Delivery, span: trace.Span) -> Verdict:
        try:
            event = decode(self._class_of(delivery), delivery.headers, delivery.content_type, delivery.body)
        except PoisonError as error:
            span.set_status(trace.StatusCode.ERROR)
            return self.bury(delivery, error.reason, error.detail)
        span.set_attribute("messaging.message.id", event.id)
        span.set_attribute("numerator.event.subject", event.subject)
        with ExitStack() as stack:
            stack.enter_context(bound_contextvars(event=event.id, **_known(enterprise=event.enterprise)))
            try:
                return self._apply(event)
            except ServiceError as error:
                span.set_status(trace.StatusCode.ERROR)
                if error.kind in _AGAIN:
                    return self._again(delivery, error.reason, error.message)
                return self.bury(delivery, error.reason, error.message)
            except Exception as error:  # noqa: BLE001 -- a handler's bug must not end the process
                span.set_status(trace.StatusCode.ERROR)
                _log.warning("handler.failed", queue=self._queue, exc_info=True)
                return self._again(delivery, "UNEXPECTED", type(error).__name__)

    def _class_of(self, delivery: Delivery) -> type[M]:
        """The one that the delivery says it is; any for what says nothing that we know, which then is the wrong one."""
        told = delivery.headers.get("type")
        return next(
            (each for each in self._message_classes if event_type(each) == told), self._message_classes[0]
        )

    def _apply(self, event: Event[M]) -> Verdict:
        """Effect and inbox in one transaction, waiting for a database that is away."""
        pause, longest = _WITHOUT_DATABASE
        while True:
            try:
                of_event = Tenant(event.enterprise) if event.enterprise else PLATFORM
                with self._database.transaction(self._scope or of_event) as tx:
                    new = tx.record_event(self._queue, event.id)
                    if new:
                        self._call(tx, event)
            except ServiceError as error:
                if error.reason != "DATABASE_UNAVAILABLE":
                    raise
                _log.warning("handler.waits_for_database", queue=self._queue)
                if self._stopping.wait(pause * (0.5 + _random.random())):
                    return Verdict.REQUEUE
                pause = min(2 * pause, longest)
            else:
                if not new:
                    instruments.duplicates.add(1, self._attributes)
                return Verdict.ACK

    def _again(self, delivery: Delivery, reason: str, detail: str) -> Verdict:
        attempts = delivery.attempts + 1
        if attempts >= MAX_ATTEMPTS:
            return self.bury(delivery, reason, detail)
        exchange, expiration = delay(attempts, self._retry_unit)
        _log.info("event.retried", queue=self._queue, reason=reason, attempt=attempts)
        instruments.retried.add(1, {**self._attributes, "numerator.reason": reason})
        if self._send(exchange, delivery, {ATTEMPTS: attempts}, expiration):
            return Verdict.ACK
        # The publisher waited for the broker already; this is no hot loop.
        return Verdict.REQUEUE

    def _send(
        self, exchange: str, delivery: Delivery, more: Mapping[str, Any], expiration: timedelta | None = None
    ) -> bool:
        message = Outgoing(
            exchange=exchange,
            routing_key=self._queue,
            body=delivery.body,
            message_id=delivery.message_id if isinstance(delivery.message_id, str) else new_id(),
            content_type=delivery.content_type if isinstance(delivery.content_type, str) else None,
            headers={**original(delivery.headers), **more},
            expiration=expiration,
        )
        return self._publisher.publish([message]) == [Outcome.CONFIRMED]


def original(headers: Mapping[Any, object]) -> dict[str, Any]:
    """The headers that the message came with: without ours, and without the broker's notes on its way."""
    return {
        name: _writable(value)
        for name, value in headers.items()
        if isinstance(name, str)
        and not name.startswith(("x-death", "x-first-death", "x-delivery-", "numerator-"))
    }


def _writable(value: object) -> Any:
    """`value` as pika can write it, which knows fewer types than py-amqp reads."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, Mapping):
        return {str(key): _writable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(each) for each in value]
    return str(value)


def _known(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
