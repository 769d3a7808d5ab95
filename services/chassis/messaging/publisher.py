"""
Publishing with a window of confirms: the one way by which this package sends messages.

Confirm-each is ten times slower, because pika's blocking connection waits for the broker after each message.
"""

import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import partial
from itertools import takewhile
from random import SystemRandom
from typing import Any

import pika
import pika.exceptions
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel

from services.chassis.logs import get_logger
from services.chassis.messaging.topology import parameters

_PERSISTENT = 2
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 5.0
_CLOSE_SECONDS = 2.0
_random = SystemRandom()
_log = get_logger(__name__)


class Outcome(Enum):
    """What the broker says about a message."""

    CONFIRMED = "confirmed"
    """It is on disk, in every queue that wants it."""
    RETURNED = "returned"
    """No queue wants it, so it is nowhere."""
    REFUSED = "refused"
    """A queue is full, or the message cannot be written on the wire."""
    UNKNOWN = "unknown"
    """Nobody knows: the connection broke, or the time was over. Publishing it again may double it."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. `expiration` is how long it lives in its queue."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    content_type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    expiration: timedelta | None = None


class Publisher:
    """
    A connection of its own, kept up by a thread of its own, for any number of callers.

    A pika connection breaks when two threads touch it, so only the thread of `_run` does; `publish` hands it
    the work. Under a patched standard library the thread is a green one.
    """

    def __init__(self, amqp_url: str, *, prepare: Callable[[], None] = lambda: None) -> None:
        """`prepare` is called before each connect; it may raise pika.exceptions.AMQPError."""
        self._parameters = parameters(amqp_url)
        self._prepare = prepare
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._session: _Session | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Connect, and reconnect whenever the connection is lost, until `stop`. Does not wait."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection. What is not confirmed by then is UNKNOWN."""
        self._stopping.set()
        with self._changed:
            if self._session:
                self._session.close_soon()
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def ready(self, timeout: float) -> bool:
        """Wait until the broker can be published to, for at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._session is not None or self._stopping.is_set(), timeout
            ) and (not self._stopping.is_set())

    def publish(self, messages: Sequence[Outgoing], timeout: float = 10.0) -> list[Outcome]:
        """
        Publish `messages` in their order and wait for the broker's word on each, for at most `timeout`
        seconds in all. Every message is persistent, and is returned rather than dropped when no queue wants
        it.
        """
        end = time.monotonic() + timeout
        window = _Window(messages)
        if not messages or not self.ready(timeout):
            return window.outcomes
        with self._changed:
            session = self._session
            if session is None:
                return window.outcomes
            session.send_soon(window)
        if not window.done.wait(max(0.0, end - time.monotonic())):
            _log.warning("publishing.timed_out", messages=len(messages), unknown=window.unknown)
            with self._changed:
                if self._session is session:
                    self._session = None
                    session.close_soon()
        return list(window.outcomes)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            session = None
            try:
                self._prepare()
                session = _Session(self._parameters, self._opened, self._stopping)
                session.run()
            except (pika.exceptions.AMQPError, OSError) as error:
                _log.warning("broker.unreachable", error=repr(error))
            except Exception:  # noqa: BLE001 -- pika's callbacks raise more; without this thread nothing is told any more
                _log.exception("publisher.failed")
            failures = 0 if session and session.was_open else failures + 1
            with self._changed:
                self._session = None
                if session:
                    session.discard()
            longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2**failures)
            self._stopping.wait(longest * _random.random())

    def _opened(self, session: "_Session") -> None:
        with self._changed:
            self._session = session
            self._changed.notify_all()


class _Window:
    """Messages that were handed over together, and what is known of each."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.messages = messages
        self.outcomes = [Outcome.UNKNOWN] * len(messages)
        self.unknown = len(messages)
        self.done = threading.Event()

    def settle(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self.unknown -= 1
        if not self.unknown:
            self.done.set()


class _Session:
    """One connection from its opening to its end. Only the thread in `run` uses it, but for `*_soon`."""

    def __init__(
        self, parameters: pika.URLParameters, opened: Callable[["_Session"], None], stopping: threading.Event
    ) -> None:
        self.was_open = False
        self._opened = opened
        self._stopping = stopping
        self._loop = IOLoop()
        self._channel: Channel | None = None
        self._last_tag = 0
        # Confirms come in any order and in groups, so what is open is kept by tag; a counter would lie.
        self._open: dict[int, tuple[_Window, int]] = {}
        self._returned: set[str] = set()
        self._connection = pika.SelectConnection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
            custom_ioloop=self._loop,
        )

    def run(self) -> None:
        """Work until the connection is closed or lost."""
        self._loop.start()

    def discard(self) -> None:
        """Wake who still waits, and free the sockets."""
        for window, _index in self._open.values():
            window.done.set()
        self._loop.close()

    def send_soon(self, window: _Window) -> None:
        self._loop.add_callback_threadsafe(partial(self._send, window))

    def close_soon(self) -> None:
        self._loop.add_callback_threadsafe(self._close)

    def _send(self, window: _Window) -> None:
        try:
            for index, message in enumerate(window.messages):
                if self._channel is None or not self._channel.is_open:
                    window.done.set()
                    return
                self._send_one(self._channel, window, index, message)
        except Exception:  # noqa: BLE001 -- a bug: nothing is known any more of what is under way, so begin anew
            _log.exception("publisher.failed")
            self._close()

    def _send_one(self, channel: Channel, window: _Window, index: int, message: Outgoing) -> None:
        expires = message.expiration
        properties = pika.BasicProperties(
            message_id=message.message_id,
            content_type=message.content_type,
            headers=dict(message.headers),
            delivery_mode=_PERSISTENT,
            expiration=None if expires is None else str(int(expires.total_seconds() * 1000)),
        )
        try:
            channel.basic_publish(
                message.exchange, message.routing_key, message.body, properties, mandatory=True
            )
        except (pika.exceptions.AMQPError, struct.error, ValueError) as error:
            # pika encodes before it writes: what it cannot encode never left, and took no tag.
            _log.warning("message.refused", error=type(error).__name__)
            window.settle(index, Outcome.REFUSED)
        else:
            self._last_tag += 1
            self._open[self._last_tag] = (window, index)

    def _on_open(self, connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda _channel, _reason: self._close())
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=self._on_ready)

    def _on_ready(self, _frame: object) -> None:
        if self._stopping.is_set():
            self._close()
            return
        self.was_open = True
        self._opened(self)

    def _on_return(
        self, _channel: Channel, _method: object, properties: pika.BasicProperties, _body: bytes
    ) -> None:
        # The broker returns a message before it confirms it, and a return carries no tag.
        self._returned.add(properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        # A dict keeps the order of insertion, and tags grow.
        tags = list(takewhile(lambda each: each <= tag, self._open)) if frame.method.multiple else [tag]
        accepted = isinstance(frame.method, pika.spec.Basic.Ack)
        for each in tags:
            window, index = self._open.pop(each)
            message_id = window.messages[index].message_id
            if message_id in self._returned:
                self._returned.discard(message_id)
                window.settle(index, Outcome.RETURNED)
            else:
                window.settle(index, Outcome.CONFIRMED if accepted else Outcome.REFUSED)

    def _close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
            # A broker that does not confirm may well not answer this either.
            self._loop.call_later(_CLOSE_SECONDS, self._leave)

    def _leave(self) -> None:
        if not self._connection.is_closed:
            self._connection._adapter_disconnect_stream()  # noqa: SLF001 -- pika has no public way to leave in silence

    def _on_end(self, _connection: pika.SelectConnection, reason: object) -> None:
        if not self._stopping.is_set():
            _log.warning("connection.lost", reason=repr(reason))
        self._loop.stop()
