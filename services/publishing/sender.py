"""
The sender: an asyncio process that leases due deliveries, sends them, and finds out about those in doubt.

Any number of senders may run. All that keeps them from sending twice is in the database: a delivery is SENDING
on record before its first byte, under a lease with a number that no late outcome can pass.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import psycopg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from services.chassis.clock import Clock, SystemClock
from services.chassis.database import PLATFORM, Database, Subscription, Tenant
from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.chassis.probes import Pulse
from services.chassis.readiness import Readiness
from services.chassis.sealing import SealBrokenError, load_private_key, open_sealed
from services.chassis.telemetry import Telemetry, restore_context
from services.publishing import metrics, store, usecases
from services.publishing.failpoints import FailPoints
from services.publishing.model.accounts import Account
from services.publishing.model.deliveries import (
    REAUTH_REQUIRED,
    Delivery,
    NotRead,
    Policy,
    Postponed,
    SendOutcome,
    Step,
    Timeline,
)
from services.publishing.networks import Credentials, Network, Post
from services.publishing.networks.mastodon import Mastodon
from services.publishing.settings import Settings
from services.publishing.usecases import Assignment

DRAIN = timedelta(seconds=22)
"""How long a stopping sender waits for what is under way. What is left is found by its expired lease."""

_LONGEST_WAIT = 1.0
_AFTER_FAILURE = 0.5
_DATABASE_THREADS = 8

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """
    How a sender works.

    Attributes:
        policy: the times and bounds of sending.
        concurrency: how many deliveries it works on at once.
        interactions_interval: how often each account's notifications are read.

    """

    policy: Policy
    concurrency: int
    interactions_interval: timedelta


class Sender:
    """
    Sends until told to stop.

    Args:
        database: of publishing.
        networks: by their kind, as `mastodon`.
        open_token: opens an account's sealed token; raises SealBrokenError.
        options: how it works.
        clock: tells when something is due.
        fail_points: for tests.

    """

    def __init__(
        self,
        database: Database,
        networks: Mapping[str, Network],
        open_token: Callable[[Account], str],
        options: SenderOptions,
        *,
        clock: Clock,
        fail_points: FailPoints,
    ) -> None:
        self._database = database
        self._networks = networks
        self._open_token = open_token
        self._options = options
        self._clock = clock
        self._fail_points = fail_points
        self._tracer = trace.get_tracer("numerator")

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until `stopping` is set, then finish what is under way."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(stopping))
            group.create_task(self._listen(stopping))

    # Deliveries

    async def _deliver(self, stopping: asyncio.Event) -> None:
        under_way: set[asyncio.Task[None]] = set()
        changes = self._database.changes_listener()
        with changes.subscribe(usecases.DELIVERIES) as wake, changes.subscribe(usecases.FREEZES, wake):
            stop = asyncio.create_task(_wake_on(stopping, wake))
            while not stopping.is_set():
                wake.clear()
                room = self._options.concurrency - len(under_way)
                assignments, wait = await self._lease(room) if room else ([], _LONGEST_WAIT)
                for assignment in assignments:
                    task = asyncio.create_task(self._work(assignment), name=assignment.delivery.name)
                    under_way.add(task)
                    task.add_done_callback(partial(_finish, under_way, wake))
                if len(assignments) < room or not room:
                    await asyncio.to_thread(wake.wait, wait)
            await stop
        if under_way:
            _log.info("sender.draining", deliveries=len(under_way))
            await asyncio.wait(under_way, timeout=DRAIN.total_seconds())

    async def _lease(self, limit: int) -> tuple[list[Assignment], float]:
        """What to work on now, and how many seconds to wait before asking again if nothing changes."""

        def lease() -> tuple[list[Assignment], float]:
            with self._database.transaction(PLATFORM) as tx:
                assignments = usecases.lease(tx, self._options.policy, limit)
                due = store.next_due(tx)
                wait = (due - tx.now).total_seconds() if due else _LONGEST_WAIT
            return assignments, min(wait, _LONGEST_WAIT)

        try:
            leased = await asyncio.to_thread(lease)
        except (ServiceError, psycopg.Error) as error:
            _log.warning("lease.failed", error=repr(error))
            return [], _AFTER_FAILURE
        if leased[0]:
            self._fail_points.reach("sending_committed")
        return leased

    async def _work(self, assignment: Assignment) -> None:
        delivery, account = assignment.delivery, assignment.account
        send = assignment.step is Step.SEND
        with self._tracer.start_as_current_span(
            f"{'publish' if send else 'look up'} {account.network}",
            context=restore_context(delivery.traceparent),
            kind=SpanKind.CLIENT,
            attributes={
                "server.address": account.server.partition("://")[2],
                "numerator.enterprise": delivery.enterprise,
                "numerator.attempt": delivery.attempts,
            },
        ) as span:
            after = await (self._send(assignment) if send else self._look_up(assignment))
            if after is None:
                _log.warning("outcome.too_late", delivery=delivery.name, fence=delivery.fence)
                return
            if after.reason:
                span.set_attribute("numerator.reason", after.reason)
                span.set_status(StatusCode.ERROR)
            metrics.outcomes.add(1, {"step": assignment.step, "state": after.state, "reason": after.reason})
            if delivery.attempts == 1 and send and delivery.attempt_time:
                metrics.lateness.record((delivery.attempt_time - delivery.due_time).total_seconds())
            _log.info(
                "delivery.attempted",
                delivery=delivery.name,
                step=assignment.step,
                attempt=delivery.attempts,
                state=after.state,
                reason=after.reason,
            )

    async def _send(self, assignment: Assignment) -> Delivery | None:
        delivery, policy = assignment.delivery, self._options.policy
        outcome: SendOutcome
        try:
            credentials = self._credentials(assignment.account)
            network = self._networks[assignment.account.network]
        except SealBrokenError:
            outcome = Postponed("TOKEN_UNREADABLE")
        except KeyError:
            outcome = Postponed("NETWORK_UNSUPPORTED")
        else:
            post = Post(delivery.text, delivery.key, delivery.in_reply_to)
            time_left = self._time_left(delivery)
            if time_left > timedelta():
                outcome = await network.publish(
                    credentials, post, time_left, lambda: self._may_send(delivery)
                )
            else:
                outcome = Postponed("LEASE_LOST")
            self._fail_points.reach("reply_read")

        def record() -> Delivery | None:
            with self._database.transaction(Tenant(delivery.enterprise)) as tx:
                after = usecases.record_attempt(tx, assignment, outcome, policy)
                self._fail_points.reach("before_outcome_commit")
            self._fail_points.reach("after_outcome_commit")
            return after

        return await self._record(delivery, record)

    def _time_left(self, delivery: Delivery) -> timedelta:
        """Until when a byte of the attempt may leave. Whoever finds us dead believes that none left later."""
        began = delivery.attempt_time or self._clock.now()
        return began + self._options.policy.request_timeout - self._clock.now()

    def _may_send(self, delivery: Delivery) -> bool:
        """The last look before the first byte: a process that was stopped and wakes up late sends nothing."""
        self._fail_points.reach("before_request")
        return self._time_left(delivery) > timedelta()

    async def _look_up(self, assignment: Assignment) -> Delivery | None:
        delivery, policy = assignment.delivery, self._options.policy
        began = self._clock.now()
        read: Timeline | NotRead
        try:
            credentials = self._credentials(assignment.account)
            network = self._networks[assignment.account.network]
        except SealBrokenError:
            read = NotRead("TOKEN_UNREADABLE")
        except KeyError:
            read = NotRead("NETWORK_UNSUPPORTED")
        else:
            since = delivery.doubt.since if delivery.doubt else delivery.due_time
            try:
                async with asyncio.timeout(policy.request_timeout.total_seconds()):
                    read = await network.timeline(credentials, since - policy.clock_skew)
            except TimeoutError:
                read = NotRead("UNREACHABLE")

        def record() -> Delivery | None:
            with self._database.transaction(Tenant(delivery.enterprise)) as tx:
                return usecases.record_lookup(tx, assignment, read, began, policy)

        return await self._record(delivery, record)

    async def _record(self, delivery: Delivery, record: Callable[[], Delivery | None]) -> Delivery | None:
        """
        Record an outcome, again and again while the lease lasts: knowing it is worth more than looking it up.

        Recording twice does no harm, so a commit whose end is unknown is simply made again.
        """
        while True:
            try:
                return await asyncio.to_thread(record)
            except (ServiceError, psycopg.Error) as error:
                _log.warning("outcome.not_recorded", delivery=delivery.name, error=repr(error))
                if delivery.lease_until is None or self._clock.now() >= delivery.lease_until:
                    return None
                await asyncio.sleep(_AFTER_FAILURE)

    def _credentials(self, account: Account) -> Credentials:
        return Credentials(account.server, account.network_account_id, self._open_token(account))

    # Interactions

    async def _listen(self, stopping: asyncio.Event) -> None:
        """Read notifications. A server that does not answer holds up its own accounts only."""
        interval = self._options.interactions_interval
        reading: dict[str, asyncio.Task[None]] = {}
        while not stopping.is_set():
            reading = {name: task for name, task in reading.items() if not task.done()}
            room = self._options.concurrency - len(reading)
            try:
                due = await asyncio.to_thread(self._lease_polls, interval, room) if room else []
            except (ServiceError, psycopg.Error) as error:
                _log.warning("polls.not_leased", error=repr(error))
                due = []
            for account, cursor in due:
                if account.name not in reading:
                    task = asyncio.create_task(self._poll(account, cursor), name=account.name)
                    task.add_done_callback(_report)
                    reading[account.name] = task
            await _sleep(stopping, min(interval.total_seconds(), _LONGEST_WAIT))
        if reading:
            await asyncio.wait(reading.values(), timeout=DRAIN.total_seconds())

    def _lease_polls(self, interval: timedelta, limit: int) -> list[tuple[Account, str]]:
        with self._database.transaction(PLATFORM) as tx:
            return usecases.lease_polls(tx, self._networks.keys(), interval, limit)

    async def _poll(self, account: Account, cursor: str) -> None:
        try:
            credentials = self._credentials(account)
            network = self._networks[account.network]
        except (SealBrokenError, KeyError) as error:
            _log.warning("account.not_read", account=account.name, error=type(error).__name__)
            return
        told = await network.notifications(credentials, cursor, account.bind_time)

        def record() -> int:
            with self._database.transaction(Tenant(account.enterprise)) as tx:
                if isinstance(told, NotRead):
                    if told.reason == REAUTH_REQUIRED:
                        usecases.suspend_account(tx, account)
                    return 0
                return usecases.record_notifications(tx, account, told.notifications, cursor, told.cursor)

        if isinstance(told, NotRead):
            _log.warning("account.not_read", account=account.name, reason=told.reason)
            if told.reason != REAUTH_REQUIRED:
                return
        elif not told.notifications and told.cursor == cursor:
            return
        try:
            new = await asyncio.to_thread(record)
        except (ServiceError, psycopg.Error) as error:
            # The cursor has not moved: what was read is read again.
            _log.warning("interactions.not_recorded", account=account.name, error=repr(error))
            return
        if new:
            metrics.interactions.add(new)
            _log.info("interactions.received", account=account.name, count=new)


def _finish(under_way: set[asyncio.Task[None]], wake: Subscription, task: asyncio.Task[None]) -> None:
    """One place is free again. What a bug raised ends the work on one delivery; its lease runs out."""
    under_way.discard(task)
    wake.wake()
    _report(task)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("work.left", resource=task.get_name(), exc_info=error)


async def _wake_on(event: asyncio.Event, subscription: Subscription) -> None:
    await event.wait()
    subscription.wake()


async def _sleep(stopping: asyncio.Event, seconds: float) -> None:
    """Sleep, or wake early when the process stops."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """The sender process, until SIGTERM or SIGINT; returns the exit code."""
    if settings.private_key is None:
        raise SystemExit("PUBLISHING_PRIVATE_KEY_FILE is missing: the sender cannot open tokens without it")
    key = load_private_key(settings.private_key.get_secret_value())

    def open_token(account: Account) -> str:
        return open_sealed(key, account.sealed_token, account.name).decode()

    asyncio.run(_main(settings, telemetry, open_token))
    telemetry.shutdown()
    _log.info("sender.stopped")
    return 0


async def _main(settings: Settings, telemetry: Telemetry, open_token: Callable[[Account], str]) -> None:
    loop = asyncio.get_running_loop()
    # One thread per connection, one that waits for a wake-up, one for the loop of interactions.
    loop.set_default_executor(ThreadPoolExecutor(_DATABASE_THREADS + 2))
    clock = SystemClock()
    # One connection more, for the check.
    database = Database(
        settings.database_url.get_secret_value(), schema="publishing", max_size=_DATABASE_THREADS + 3
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
    options = SenderOptions(
        policy=settings.policy,
        concurrency=settings.concurrency,
        interactions_interval=timedelta(seconds=settings.interactions_interval),
    )
    async with AsyncExitStack() as stack:
        stack.callback(database.close)
        mastodon = await stack.enter_async_context(
            Mastodon(
                clock,
                read_timeout=timedelta(seconds=settings.request_timeout),
                connections=2 * settings.concurrency,
            )
        )
        sender = Sender(
            database,
            {"mastodon": mastodon},
            open_token,
            options,
            clock=clock,
            fail_points=FailPoints(settings.fail_point),
        )
        _log.info("sender.started", concurrency=settings.concurrency)
        await sender.run(stopping)
