"""
The outbox relay: reads committed events, publishes them, and notes which the broker has confirmed.

At least once: an event whose confirm is not heard is told again, under the same id. In order per ordering
key, however many relays run: a relay holds a lock on a share of the keys from reading their rows to noting
them as sent. Only an event that the broker refuses or returns is overtaken, by those of its key in the same
window.
"""

import threading
import time
from collections.abc import Iterable
from random import SystemRandom
from typing import Any

import psycopg
from opentelemetry import trace

from services.chassis.database import PLATFORM, Database, Listener, Subscription, Transaction, purge
from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.chassis.messaging import instruments
from services.chassis.messaging.envelope import make_headers
from services.chassis.messaging.publisher import Outcome, Outgoing, Publisher
from services.chassis.messaging.topology import EVENTS
from services.chassis.metrics import gauge
from services.chassis.telemetry import capture_context, restore_context

BATCH = 500
"""How many events are in one window of confirms, and in one transaction."""

PUBLISH_SECONDS = 10.0
"""How long a window may take. Less than the database allows a transaction to be idle."""

_POLL_SECONDS = 1.0
_PURGE_SECONDS = 600.0
_SHARES = 64
_FIRST_REST, _LONGEST_REST = 1.0, 15.0
_MOST_RESTING = 10_000

_random = SystemRandom()
_log = get_logger(__name__)


class Relay:
    """
    Relays the outbox of one service's schema from a thread of its own.

    Events that the broker does not confirm stay unsent. Their ordering keys rest, longer each time, so that the
    others pass: one queue that is full or broken must not stop what is meant for the rest.
    """

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self._source = f"numerator/{database.schema}"
        self._listener = Listener(database.connect, f"{database.schema}_outbox")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._resting = _Resting()
        self._oldest: float | None = None
        gauge(
            "numerator.outbox.lag",
            "The age of the oldest event that is not sent.",
            lambda: [(self.lag, {"numerator.schema": database.schema})],
            unit="s",
        )

    @property
    def lag(self) -> float:
        """The age in seconds of the oldest event that was unsent when the relay last looked; 0 for none."""
        return 0.0 if self._oldest is None else max(0.0, time.time() - self._oldest)

    def start(self) -> None:
        """Begin to relay; the publisher must be started."""
        self._listener.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop after the window in hand."""
        self._stopping.set()
        self._listener.stop()
        self._thread.join(timeout=PUBLISH_SECONDS)

    def relay_once(self) -> int:
        """
        Publish one window of unsent events; returns how many the broker confirmed.

        Raises ServiceError when the database cannot be used; what was confirmed meanwhile is told again.
        """
        with self._database.transaction(PLATFORM) as tx:
            rows = self._claim(tx)
            if not rows:
                return 0
            spans = [self._span(row) for row in rows]
            outcomes = self._publisher.publish(
                [self._outgoing(row, span) for row, span in zip(rows, spans, strict=True)], PUBLISH_SECONDS
            )
            self._finish(zip(rows, spans, outcomes, strict=True))
            confirmed = [
                row["sequence"]
                for row, outcome in zip(rows, outcomes, strict=True)
                if outcome is Outcome.CONFIRMED
            ]
            tx.execute(
                "update outbox set sent_time = clock_timestamp() where sequence = any (%s)", (confirmed,)
            )
            return len(confirmed)

    def _run(self) -> None:
        next_purge = time.monotonic() + _PURGE_SECONDS * _random.random()
        with self._listener.subscribe() as subscription:
            while not self._stopping.is_set():
                try:
                    self._relay_all(subscription)
                    if time.monotonic() > next_purge:
                        next_purge = time.monotonic() + _PURGE_SECONDS
                        self._purge()
                except (ServiceError, psycopg.Error) as error:
                    _log.warning("relay.interrupted", error=repr(error))
                    self._stopping.wait(_POLL_SECONDS * (0.5 + _random.random()))

    def _relay_all(self, subscription: Subscription) -> None:
        """Relay until nothing more can be sent now, then wait for the next event."""
        if not self._publisher.ready(_POLL_SECONDS):
            self._look()
            return
        subscription.clear()
        while not self._stopping.is_set() and self.relay_once():
            pass
        self._look()
        subscription.wait(_POLL_SECONDS)

    def _claim(self, tx: Transaction) -> list[dict[str, Any]]:
        """
        The oldest unsent events of those keys that no other relay has in hand.

        A share of the keys is locked, not each key: PostgreSQL has room for few thousand locks. The second
        statement sees what another relay has committed before it gave the share away.
        """
        resting = self._resting.now()
        if len(resting) > _MOST_RESTING:
            return []
        shares = tx.execute(
            """
            with oldest as materialized (
              select ordering_key from outbox where sent_time is null and ordering_key <> all (%(resting)s)
              order by sequence limit %(batch)s
            ), shares as materialized (
              select distinct hashtext(ordering_key) & %(mask)s as share from oldest
            )
            select share from shares
            where pg_try_advisory_xact_lock(hashtext(current_schema() || ' outbox'), share)
            """,
            {"resting": resting, "batch": BATCH, "mask": _SHARES - 1},
        ).fetchall()
        if not shares:
            return []
        return tx.execute(
            """
            select sequence, id, type, subject, ordering_key, enterprise, time, content_type, body,
            traceparent from outbox
            where sent_time is null and ordering_key <> all (%(resting)s)
              and hashtext(ordering_key) & %(mask)s = any (%(shares)s)
            order by sequence limit %(batch)s
            """,
            {
                "resting": resting,
                "batch": BATCH,
                "mask": _SHARES - 1,
                "shares": [row["share"] for row in shares],
            },
        ).fetchall()

    def _span(self, row: dict[str, Any]) -> trace.Span:
        return instruments.tracer.start_span(
            f"send {row['type']}",
            context=restore_context(row["traceparent"]),
            kind=trace.SpanKind.PRODUCER,
            attributes={
                **instruments.SYSTEM,
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": EVENTS,
                "messaging.rabbitmq.destination.routing_key": row["type"],
                "messaging.message.id": row["id"],
                "numerator.event.subject": row["subject"],
            },
        )

    def _outgoing(self, row: dict[str, Any], span: trace.Span) -> Outgoing:
        with trace.use_span(span):
            traceparent = capture_context()
        return Outgoing(
            exchange=EVENTS,
            routing_key=row["type"],
            body=row["body"],
            message_id=row["id"],
            content_type=row["content_type"],
            headers=make_headers(
                event_id=row["id"],
                event_type=row["type"],
                source=self._source,
                subject=row["subject"],
                ordering_key=row["ordering_key"],
                time=row["time"],
                enterprise=row["enterprise"],
                traceparent=traceparent,
            ),
        )

    def _finish(self, results: Iterable[tuple[dict[str, Any], trace.Span, Outcome]]) -> None:
        """Count, end the spans, and let the keys rest whose events the broker did not take."""
        taken, failed = set(), set()
        for row, span, outcome in results:
            attributes = {**instruments.SYSTEM, "messaging.destination.name": EVENTS}
            if outcome is Outcome.CONFIRMED:
                taken.add(row["ordering_key"])
            else:
                failed.add(row["ordering_key"])
                attributes["error.type"] = outcome.value
                span.set_status(trace.StatusCode.ERROR)
            instruments.sent.add(1, attributes)
            span.end()
        self._resting.failed(failed)
        self._resting.taken(taken - failed)
        if failed:
            _log.warning("events.unconfirmed", keys=len(failed))

    def _look(self) -> None:
        with self._database.transaction(PLATFORM) as tx:
            row = tx.execute(
                "select time from outbox where sent_time is null order by sequence limit 1"
            ).fetchone()
        self._oldest = row["time"].timestamp() if row else None

    def _purge(self) -> None:
        purged = 1
        while purged and not self._stopping.is_set():
            with self._database.transaction(PLATFORM) as tx:
                purged = purge(tx, tx.now)


class _Resting:
    """The ordering keys that wait before their events are tried again: 1 s, then twice as long each time."""

    def __init__(self) -> None:
        self._rests: dict[str, tuple[float, float]] = {}

    def now(self) -> list[str]:
        """The keys that rest at this moment."""
        now = time.monotonic()
        return [key for key, (until, _length) in self._rests.items() if until > now]

    def failed(self, keys: Iterable[str]) -> None:
        for key in keys:
            _until, last = self._rests.get(key, (0.0, 0.0))
            length = min(_LONGEST_REST, 2 * last or _FIRST_REST)
            self._rests[key] = (time.monotonic() + length * (0.5 + _random.random()), length)

    def taken(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._rests.pop(key, None)
