"""
The sender of webhooks: an asyncio process that leases endpoints for which something is due, and posts to them.

Any number may run. An endpoint is one sender's at a time, under a lease that ends by itself: after a kill -9 somebody else
sends what was not recorded, perhaps for the second time, with the same `webhook-id`.

Endpoints that fail have places of their own, and of each at most one request is under way; they cannot hold up others.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from random import SystemRandom

import psycopg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from yarl import URL

from services.accounts.model.webhooks import Attempt, Delivery, signature_headers
from services.accounts.settings import Settings
from services.accounts.store import webhooks as rows
from services.accounts.usecases import webhooks
from services.accounts.usecases.secrets import Vault
from services.accounts.usecases.webhooks import CHANGES, Assignment, Recorded
from services.chassis.clock import Clock, SystemClock
from services.chassis.database import PLATFORM, Database, Subscription, Tenant
from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.chassis.names import enterprise_of
from services.chassis.outgoing import OutgoingClient
from services.chassis.outgoing_rules import OutgoingError
from services.chassis.probes import Pulse
from services.chassis.readiness import Readiness
from services.chassis.telemetry import Telemetry

DRAIN = timedelta(seconds=22)
"""How long a stopping sender waits for what is under way. What is left is sent again when its lease has ended."""

HTTP_STATUS = "HTTP_STATUS"
"""The error of an attempt that was answered, but not with 2xx."""
SECRETS_SHREDDED = "SECRETS_SHREDDED"
"""The error of an attempt that could not be signed: the enterprise's secrets were shredded."""

_LONGEST_WAIT = 1.0
_AFTER_FAILURE = 0.5
_DATABASE_THREADS = 8
_MOST_LEASED = 100

_random = SystemRandom()
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """
    How a sender works.

    Attributes:
        concurrency: to how many endpoints it sends at once, of those that do not fail.
        failing_concurrency: the same, of those that do.
        batch: how many deliveries it takes on for an endpoint at once, and sends two by two.
        batch_time: after how long it takes up no more of them.
        lease: how long an endpoint is its own; longer than `batch_time` and one request.
    """

    concurrency: int = 400
    failing_concurrency: int = 50
    batch: int = 10
    batch_time: timedelta = timedelta(seconds=10)
    lease: timedelta = timedelta(seconds=45)


class Sender:
    """
    Sends until told to stop.

    Args:
        database: of accounts.
        vault: opens the secrets that sign.
        client: makes the requests.
        options: how it works.
        clock: tells the time of attempts.
    """

    def __init__(
        self, database: Database, vault: Vault, client: OutgoingClient, options: SenderOptions, clock: Clock
    ) -> None:
        self._database = database
        self._vault = vault
        self._client = client
        self._options = options
        self._clock = clock
        self._tracer = trace.get_tracer("numerator")

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until `stopping` is set, then finish what is under way."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve(stopping, failing=False, places=self._options.concurrency))
            group.create_task(self._serve(stopping, failing=True, places=self._options.failing_concurrency))

    async def _serve(self, stopping: asyncio.Event, *, failing: bool, places: int) -> None:
        under_way: set[asyncio.Task[bool]] = set()
        with self._database.changes_listener().subscribe(CHANGES) as wake:
            stop = asyncio.create_task(_wake_on(stopping, wake))
            while not stopping.is_set():
                wake.clear()
                room = min(places - len(under_way), _MOST_LEASED)
                assignments, wait = await self._lease(room, failing=failing) if room else ([], _LONGEST_WAIT)
                for assignment in assignments:
                    task = asyncio.create_task(self._work(assignment), name=assignment.lease.endpoint.name)
                    under_way.add(task)
                    task.add_done_callback(partial(_finish, under_way, places, wake))
                if len(assignments) < room or not room:
                    await asyncio.to_thread(wake.wait, wait)
            await stop
        if under_way:
            _log.info("webhooks.draining", endpoints=len(under_way))
            await asyncio.wait(under_way, timeout=DRAIN.total_seconds())

    async def _lease(self, limit: int, *, failing: bool) -> tuple[list[Assignment], float]:
        """What to send now, and how many seconds to wait before asking again if nothing changes."""

        def lease() -> tuple[list[Assignment], float]:
            with self._database.transaction(PLATFORM) as tx:
                assignments = webhooks.lease(
                    tx,
                    self._vault,
                    failing=failing,
                    until=tx.now + self._options.lease,
                    limit=limit,
                    most=1 if failing else self._options.batch,
                )
                due = rows.next_due(tx, failing=failing)
                wait = max((due - tx.now).total_seconds(), 0.0) if due else _LONGEST_WAIT
            return assignments, min(wait, _LONGEST_WAIT)

        try:
            return await asyncio.to_thread(lease)
        except (ServiceError, psycopg.Error) as error:
            _log.warning("lease.failed", error=repr(error))
            return [], _AFTER_FAILURE

    async def _work(self, assignment: Assignment) -> bool:
        """
        Send what is due for one endpoint, two at a time, until something fails or the time is over.

        Returns whether something more is due for it.
        """
        endpoint, left = assignment.lease.endpoint, list(reversed(assignment.deliveries))
        made: list[tuple[Delivery, Attempt]] = []
        end = self._clock.now() + self._options.batch_time

        async def send() -> None:
            while left and not any(attempt.error for _, attempt in made) and self._clock.now() < end:
                delivery = left.pop()
                made.append((delivery, await self._attempt(assignment, delivery)))

        await asyncio.gather(send(), send())

        def record() -> Recorded | None:
            with self._database.transaction(Tenant(enterprise_of(endpoint.name) or "")) as tx:
                return webhooks.record(tx, assignment.lease, made, _random.random)

        recorded = await self._record(endpoint.name, record, self._clock.now() + self._options.lease)
        if recorded is None:
            _log.warning("outcome.too_late", endpoint=endpoint.name, fence=assignment.lease.fence)
            return False
        if recorded.endpoint.disabled_by:
            _log.warning("endpoint.disabled", endpoint=endpoint.name, reason=recorded.endpoint.disabled_by)
        return recorded.due

    async def _attempt(self, assignment: Assignment, delivery: Delivery) -> Attempt:
        endpoint, began = assignment.lease.endpoint, self._clock.now()
        status, error, retry_after = 0, "", None
        with self._tracer.start_as_current_span(
            "post webhook",
            kind=SpanKind.CLIENT,
            attributes={
                "server.address": URL(endpoint.url).host or "",
                "numerator.enterprise": enterprise_of(endpoint.name) or "",
                "numerator.attempt": delivery.tries + 1,
            },
        ) as span:
            if not assignment.secrets:
                error = SECRETS_SHREDDED
            else:
                body = delivery.payload.encode()
                headers = signature_headers(assignment.secrets, delivery.webhook_id, began, body)
                try:
                    answer = await self._client.post(
                        endpoint.url, body, {**headers, "content-type": "application/json"}
                    )
                except OutgoingError as failed:
                    error = failed.failure
                else:
                    status = answer.status
                    if not 200 <= status < 300:  # noqa: PLR2004 -- the class of answers that take it
                        error, retry_after = HTTP_STATUS, _retry_after(answer.headers, began)
            if error:
                span.set_attribute("error.type", str(status or error))
                span.set_status(StatusCode.ERROR)
        duration = self._clock.now() - began
        _log.info(
            "delivery.attempted",
            delivery=delivery.name,
            event_type=delivery.event_type,
            attempt=delivery.tries + 1,
            status=status,
            error=error,
        )
        return Attempt(began, duration, status, error, retry_after)

    async def _record(
        self, endpoint: str, record: Callable[[], Recorded | None], until: datetime
    ) -> Recorded | None:
        """Record outcomes, again and again while the lease may last: else all is sent once more."""
        while True:
            try:
                return await asyncio.to_thread(record)
            except (ServiceError, psycopg.Error) as error:
                _log.warning("outcome.not_recorded", endpoint=endpoint, error=repr(error))
                if self._clock.now() >= until:
                    return None
                await asyncio.sleep(_AFTER_FAILURE)


def _retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """How long an answer asks us to wait: seconds, or a date (RFC 9110, 10.2.3); None for none, and for nonsense."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return timedelta(seconds=min(int(text[:9]), 1_000_000))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now, timedelta())


def _finish(
    under_way: set[asyncio.Task[bool]], places: int, wake: Subscription, task: asyncio.Task[bool]
) -> None:
    """One place is free again. What a bug raised ends the work on one endpoint; its lease ends by itself."""
    was_full = len(under_way) == places
    under_way.discard(task)
    if not task.cancelled() and (error := task.exception()):
        _log.error("work.left", resource=task.get_name(), exc_info=error)
    if was_full or (not task.cancelled() and not task.exception() and task.result()):
        wake.wake()


async def _wake_on(event: asyncio.Event, subscription: Subscription) -> None:
    await event.wait()
    subscription.wake()


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """The sender process, until SIGTERM or SIGINT; returns the exit code."""
    asyncio.run(_main(settings, telemetry))
    telemetry.shutdown()
    _log.info("webhooks.stopped")
    return 0


async def _main(settings: Settings, telemetry: Telemetry) -> None:
    loop = asyncio.get_running_loop()
    # One thread per connection, and two that wait for a wake-up.
    loop.set_default_executor(ThreadPoolExecutor(_DATABASE_THREADS + 2))
    # One connection more, for the check.
    database = Database(
        settings.database_url.get_secret_value(), schema="accounts", max_size=_DATABASE_THREADS + 3
    )
    readiness = Readiness({"database": database.check})
    telemetry.probes.alive_when(Pulse(loop).reason)
    telemetry.probes.ready_when(readiness.reason)
    readiness.start()
    stopping = asyncio.Event()

    def stop() -> None:
        readiness.stop()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with AsyncExitStack() as stack:
        stack.callback(database.close)
        client = await stack.enter_async_context(OutgoingClient(settings.webhook_rules))
        options = SenderOptions(concurrency=settings.webhook_concurrency)
        sender = Sender(database, Vault(settings.open_master_keys()), client, options, SystemClock())
        _log.info("webhooks.started", concurrency=options.concurrency)
        await sender.run(stopping)
