"""
nameko's side of messaging: the decorators of a worker's methods, and the consumer behind them.

nameko's own consumer acknowledges what failed, drops what it cannot decode, and closes the connection under
handlers that still run. So of nameko only the container and the life cycle of its extensions are used.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import SystemRandom
from typing import Any, TypeVar

import amqp.exceptions
import amqp.serialization
import pika.exceptions
from amqp import spec
from eventlet.event import Event
from eventlet.semaphore import Semaphore
from google.protobuf.message import Message
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.message import Message as KombuMessage
from kombu.mixins import ConsumerMixin
from nameko.extensions import Entrypoint, SharedExtension, register_entrypoint

from services.chassis import events
from services.chassis.database import Database, Scope
from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.chassis.messaging import topology
from services.chassis.messaging.envelope import ORDERING_KEY
from services.chassis.messaging.handling import Delivery, Handling, Verdict
from services.chassis.messaging.publisher import Publisher

Method = TypeVar("Method", bound=Callable[..., object])

RUNTIME = "numerator"
"""The key of the `Runtime` in nameko's configuration."""

_UNREADABLE = "numerator-unreadable"
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 5.0
_SETTLE_SECONDS = 10.0

_random = SystemRandom()
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """
    What the entrypoints of a process share.

    Attributes:
        worker: the instance whose methods handle events.
        amqp_url: the broker.
        declare: declares exchanges and queues; raises pika.exceptions.AMQPError.
        database, publisher: of the process.
        stopping: is set when the process drains.
        concurrency: how many handlers run at once.
        heartbeat: seconds. RabbitMQ: 5 to 20 is best; less gives false alarms.
        retry_unit: what the delays of retries are multiples of.
        consuming: is set while the consumer is connected.
        progress: is called whenever the consumer has evidence that it is not stuck.

    """

    worker: object
    amqp_url: str
    declare: Callable[[], None]
    database: Database
    publisher: Publisher
    stopping: threading.Event
    concurrency: int
    heartbeat: int
    retry_unit: timedelta
    consuming: threading.Event
    progress: Callable[[], None]


def event_handler(*message_classes: type[Message], scope: Scope | None = None) -> Callable[[Method], Method]:
    """
    The method is called with each event of a class, or of any of several: `(self, tx: Transaction, event: Event[C])`.

    The transaction has the given scope, by default that of the event's enterprise, or PLATFORM for an event
    without one. It commits when the method returns; what it raises decides what becomes of the event (see
    `handling`). Effects once, however often the event is delivered.

    The queue is `<service>.<method>`: renaming the method makes a new queue, and leaves the old one. A class that is
    taken away leaves its binding: see deploy/rabbitmq.

    The method has 5 seconds, and must not compute for long: all green threads of the process wait for it.
    It is called for the events of one ordering key (by default their subject) in the order in which they were
    emitted, one after the other; but one that is tried again is overtaken, and there is no order between the
    events of two methods. Where that matters, compare versions or times.
    """
    for message_class in message_classes:
        events.event_type(message_class)  # a class that is no event is found at import

    def register(method: Method) -> Method:
        setattr(method, topology.SUBSCRIPTION, message_classes)
        register_entrypoint(method, EventHandler(message_classes, scope))
        return method

    return register


def every(seconds: float) -> Callable[[Method], Method]:
    """
    The method is called as `(self, database: Database)` soon after the start, and then each `seconds`, in
    each worker process of the service. Never twice at once in a process; what it raises is logged, and the
    next call is made in its time.
    """

    def register(method: Method) -> Method:
        register_entrypoint(method, Periodic(seconds))
        return method

    return register


class EventConsumer(SharedExtension, ConsumerMixin):  # type: ignore[misc]  # untyped libraries
    """One connection with one consumer per handler, kept up until the container stops."""

    def __init__(self) -> None:
        self._handlers: list[EventHandler] = []
        self._consumers: list[Any] = []
        self._in_hand = 0
        self._last: dict[tuple[str, str], Event] = {}
        self._received = -1
        self._thread: Any = None
        super().__init__()

    def register(self, handler: "EventHandler") -> None:
        self._handlers.append(handler)

    def setup(self) -> None:
        self._runtime: Runtime = self.container.config[RUNTIME]
        self._free = Semaphore(self._runtime.concurrency)
        self._writing = Semaphore(1)
        self.connection = Connection(  # type: ignore[no-untyped-call]
            self._runtime.amqp_url, heartbeat=self._runtime.heartbeat, connect_timeout=5
        )

    def start(self) -> None:
        """Does not wait for the broker: it may come later."""
        if self._handlers and self._thread is None:
            self._thread = self.container.spawn_managed_thread(self._keep_consuming)

    def stop(self) -> None:
        """Wait until no more is consumed and everything in hand is answered."""
        if self._thread is not None:
            self._thread.wait()

    def kill(self) -> None:
        self.should_stop = True

    def _keep_consuming(self) -> None:
        lost = (
            *self.connection.connection_errors,
            *self.connection.channel_errors,
            pika.exceptions.AMQPError,
        )
        failures = 0
        while not self.should_stop:
            self._runtime.progress()
            self._received = -1
            try:
                for _ in self.consume(limit=None):  # type: ignore[no-untyped-call]
                    failures = 0
            except lost as error:
                failures += 1
                _log.warning("consumer.lost_connection", error=repr(error))
            self._runtime.consuming.clear()
            # Nothing can be answered without a connection: what is in hand is delivered again.
            if self._runtime.stopping.is_set():
                return
            longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2**failures)
            self._runtime.stopping.wait(longest * _random.random())

    @contextmanager
    def establish_connection(self) -> Iterator[Connection]:
        self._runtime.declare()
        with self.connection.clone() as connection:  # type: ignore[no-untyped-call]
            connection.connect()
            yield connection

    def get_consumers(self, consumer_class: Callable[..., Any], channel: Any) -> list[Any]:
        channel.auto_decode = False
        channel.Message = _RawMessage
        self._consumers = []
        for handler in self._handlers:
            consumer = consumer_class(
                queues=[Queue(handler.queue, no_declare=True)],  # type: ignore[no-untyped-call]
                on_message=partial(self._take, handler),
            )
            consumer.qos(prefetch_count=self._runtime.concurrency)
            self._consumers.append(consumer)
        return self._consumers

    def on_consume_ready(self, connection: Any, *_arguments: Any, **_options: Any) -> None:
        self._connection = connection.connection
        self._runtime.consuming.set()
        _log.info("consumer.connected", queues=[each.queue for each in self._handlers])

    def on_iteration(self) -> None:
        if self._connection.bytes_recv != self._received:
            self._received = self._connection.bytes_recv
            self._runtime.progress()
        if self._runtime.stopping.is_set():
            while self._consumers:
                self._consumers.pop().cancel()
            # The connection stays until the last handler has answered; nameko's would close under it.
            self.should_stop = self._in_hand == 0

    def _take(self, handler: "EventHandler", message: Any) -> None:
        """Handle a delivery in a green thread of its own, after the one before it of the same ordering key."""
        self._in_hand += 1
        key, done = (handler.queue, str(message.headers.get(ORDERING_KEY) or message.delivery_tag)), Event()
        before = self._last.get(key)
        self._last[key] = done

        def handle() -> None:
            if before:
                before.wait()
            try:
                self._handle(handler, message)
            finally:
                if self._last[key] is done:
                    del self._last[key]
                done.send()
                self._in_hand -= 1

        self.container.spawn_managed_thread(handle, identifier=handler.queue)

    def _handle(self, handler: "EventHandler", message: Any) -> None:
        with self._free:
            verdict = Verdict.REQUEUE if self._runtime.stopping.is_set() else handler.handle(message)
        self._answer(message, verdict)

    def _answer(self, message: Any, verdict: Verdict) -> None:
        answer = {Verdict.ACK: message.ack, Verdict.REJECT: message.reject, Verdict.REQUEUE: message.requeue}
        # One at a time: py-amqp writes every frame through the same buffer.
        with self._writing:
            if message.channel.connection is None:
                return  # the broker has taken the message back, and delivers it again
            try:
                answer[verdict]()
            except (amqp.exceptions.AMQPError, OSError) as error:
                _log.warning("answer.lost", error=repr(error))


class EventHandler(Entrypoint):  # type: ignore[misc]  # nameko is untyped
    """The entrypoint behind `event_handler`."""

    consumer = EventConsumer()

    def __init__(
        self, message_classes: Sequence[type[Message]], scope: Scope | None = None, **options: Any
    ) -> None:
        self.message_classes = message_classes
        self._scope = scope
        super().__init__(**options)

    def setup(self) -> None:
        runtime: Runtime = self.container.config[RUNTIME]
        self.queue = topology.queue_name(self.container.service_name, self.method_name)
        self._handling = Handling(
            self.queue,
            self.message_classes,
            getattr(runtime.worker, self.method_name),
            database=runtime.database,
            publisher=runtime.publisher,
            stopping=runtime.stopping,
            retry_unit=runtime.retry_unit,
            scope=self._scope,
        )
        self.consumer.register(self)

    def handle(self, message: Any) -> Verdict:
        delivery = Delivery(
            headers=message.headers,
            content_type=message.content_type,
            message_id=message.properties.get("message_id"),
            body=bytes(message.body or b""),
        )
        if _UNREADABLE in message.headers:
            return self._handling.bury(delivery, "UNREADABLE_PROPERTIES", str(message.headers[_UNREADABLE]))
        return self._handling.handle(delivery)


class Periodic(Entrypoint):  # type: ignore[misc]  # nameko is untyped
    """The entrypoint behind `every`."""

    def __init__(self, seconds: float, **options: Any) -> None:
        self._seconds = seconds
        self._thread: Any = None
        super().__init__(**options)

    def start(self) -> None:
        self._thread = self.container.spawn_managed_thread(self._run)

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.wait()

    def _run(self) -> None:
        runtime: Runtime = self.container.config[RUNTIME]
        job = getattr(runtime.worker, self.method_name)
        # Not all jobs of all processes at the same moment.
        pause = min(self._seconds, _SETTLE_SECONDS) * _random.random()
        while not runtime.stopping.wait(pause):
            pause = self._seconds
            try:
                job(runtime.database)
            except ServiceError as error:
                _log.warning("job.failed", job=self.method_name, reason=error.reason)
            except Exception:  # noqa: BLE001 -- a job's bug must not end the process, which handles events too
                _log.exception("job.failed", job=self.method_name)


class _RawMessage(KombuMessage):
    """
    A delivery exactly as it came. kombu's own would unpack whatever has a header `compression`, and raise
    when it cannot.
    """

    def __init__(self, message: Any, channel: Any = None) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            body=message.body,
            channel=channel,
            delivery_tag=message.delivery_tag,
            content_type=message.properties.get("content_type"),
            delivery_info=message.delivery_info,
            properties=message.properties,
        )
        self.headers = message.properties.get("application_headers") or {}


def _read_properties(buffer: bytes, offset: int) -> tuple[dict[str, Any], int]:
    """
    py-amqp's reading of a message's properties, for properties of any kind. What it raises would end the
    consumer, again at each delivery of the same message.
    """
    try:
        return amqp.serialization.decode_properties_basic(buffer, offset)  # type: ignore[no-any-return]
    except Exception as error:  # noqa: BLE001 -- any bytes can be in there
        return {"application_headers": {_UNREADABLE: repr(error)}}, offset


amqp.serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID] = _read_properties
