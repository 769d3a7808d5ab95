"""Following a change log: what another process of the service commits is seen here within milliseconds."""

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

import psycopg
from psycopg import sql

from services.chassis.database.scope import PLATFORM
from services.chassis.database.transaction import Change
from services.chassis.errors import Kind, ServiceError
from services.chassis.logs import get_logger
from services.chassis.metrics import counter, gauge

if TYPE_CHECKING:
    from services.chassis.database.pool import Connection, Database

_logger = get_logger(__name__)

_STOP_SECONDS = 0.5  # how soon a stop is noticed
POLL_SECONDS = 5.0  # reads without a wake-up, in case one was lost where nobody can see it
_FIRST_BACKOFF, _LAST_BACKOFF = 0.1, 2.0
_BATCH = 1000
_applied = counter("numerator.follower.changes", "Changes that followers applied.")
_followers: WeakSet["Follower"] = WeakSet()
_TRANSIENT = frozenset({Kind.UNAVAILABLE, Kind.ABORTED, Kind.DEADLINE_EXCEEDED})


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1)  # noqa: S311 no secret


class Subscription:
    """Wakes one waiter. First `clear`, then look at the data, then `wait`: nothing in between is missed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def clear(self) -> None:
        """Forget the wake-ups so far."""
        self._event.clear()

    def wait(self, timeout: float) -> bool:
        """Wait for a wake-up, at most `timeout` seconds; whether there was one."""
        return self._event.wait(timeout)

    def wake(self) -> None:
        """End the present or next wait."""
        self._event.set()


class Listener:
    """
    One connection of a process that LISTENs to a channel and wakes all who wait on it, from a thread of its
    own.

    A subscription has a key: notifications wake it whose payload, or whose payload's first word, is the key;
    without a key, all do. Whenever the connection was lost and made again everybody is woken, for who knows
    what was said meanwhile.
    """

    def __init__(self, connect: "Callable[[], Connection]", channel: str) -> None:
        self._connect = connect
        self._channel = channel
        self._lock = threading.Lock()
        self._subscriptions: defaultdict[str | None, set[Subscription]] = defaultdict(set)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"listen-{channel}", daemon=True)

    def start(self) -> None:
        """Begin to listen; harmless when it has begun."""
        with self._lock:
            if not self._thread.is_alive() and not self._stopping.is_set():
                self._thread.start()

    def stop(self) -> None:
        """Stop to listen, for good."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._wake_all()

    @contextmanager
    def subscribe(
        self, key: str | None = None, subscription: Subscription | None = None
    ) -> Iterator[Subscription]:
        """A subscription (a new one unless given) for the length of the block."""
        subscription = subscription or Subscription()
        with self._lock:
            self._subscriptions[key].add(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions[key].discard(subscription)
                if not self._subscriptions[key]:
                    del self._subscriptions[key]

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        while not self._stopping.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
                    self._wake_all()
                    backoff = _FIRST_BACKOFF
                    self._listen(connection)
            except (psycopg.Error, ServiceError) as error:
                _logger.warning("listener.lost", channel=self._channel, error=type(error).__name__)
                self._wake_all()  # they look for themselves, and learn at once that the database is away
                self._stopping.wait(_jittered(backoff))
                backoff = min(2 * backoff, _LAST_BACKOFF)

    def _listen(self, connection: "Connection") -> None:
        while not self._stopping.is_set():
            for notification in connection.notifies(timeout=_STOP_SECONDS, stop_after=1):
                payload = notification.payload
                self._wake(None, payload, payload.partition(" ")[0])

    def _wake(self, *keys: str | None) -> None:
        with self._lock:
            woken = [each for key in keys for each in self._subscriptions.get(key, ())]
        for subscription in woken:
            subscription.wake()

    def _wake_all(self) -> None:
        with self._lock:
            keys = list(self._subscriptions)
        self._wake(*keys)


class Follower:
    """
    Gives all changes of a log to a function, in order, each once in the life of the follower.

    Args:
        database: of the service.
        log: which log; also an attribute.
        apply: takes the next changes, oldest first; runs in the follower's thread. When it raises a
            ServiceError that passes (UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED) it is called again with the
            same changes; when it raises anything else the follower stops and is not `healthy`.
        after: the sequence number from which to follow; see `Transaction.last_change`.
        load: instead of `after`: makes the state from which to follow, and returns its sequence number. Runs
            in the follower's thread too, and is called again after errors that pass.
    """

    def __init__(
        self,
        database: "Database",
        log: str,
        apply: Callable[[Sequence[Change]], None],
        after: int = 0,
        *,
        load: Callable[[], int] | None = None,
    ) -> None:
        self._database = database
        self.log = log
        self._apply = apply
        self._position = after
        self._load = load
        self._moved = threading.Condition()
        self._stopping = threading.Event()
        self._subscription = Subscription()
        self._reads = False
        self._behind_since: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"follow-{log}", daemon=True)
        _followers.add(self)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the batch in hand."""
        self._stopping.set()
        self._subscription.wake()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def healthy(self) -> bool:
        """Whether the follower runs and its last look at the log succeeded."""
        return self._reads and self._thread.is_alive()

    @property
    def lag(self) -> float:
        """For how many seconds the follower has not been at the end of its log; 0 while it is."""
        since = self._behind_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def position(self) -> int:
        """The sequence number up to which all changes are applied."""
        return self._position

    def caught_up(self, sequence: int, timeout: float) -> bool:
        """Wait until all changes up to `sequence` are applied; False after `timeout` seconds."""
        with self._moved:
            return self._moved.wait_for(lambda: self._position >= sequence, timeout)

    async def wait(self, sequence: int, timeout: float) -> bool:  # noqa: ASYNC109 the twin of caught_up
        """`caught_up`, for asyncio."""
        return await asyncio.to_thread(self.caught_up, sequence, timeout)

    def _run(self) -> None:
        try:
            with self._database.changes_listener().subscribe(self.log, self._subscription):
                self._follow()
        except Exception:  # whatever the service's function raises ends the follower, and shows in `healthy`
            self._reads = False
            self._behind_since = self._behind_since or time.monotonic()
            _logger.exception("follower.failed", log=self.log, position=self._position)

    def _follow(self) -> None:
        backoff = _FIRST_BACKOFF
        while not self._stopping.is_set():
            self._subscription.clear()
            try:
                changes = self._next()
            except ServiceError as error:
                if error.kind not in _TRANSIENT:
                    raise
                if self._reads:
                    _logger.warning("follower.held", log=self.log, reason=error.reason)
                self._reads = False
                self._behind_since = self._behind_since or time.monotonic()
                self._stopping.wait(_jittered(backoff))
                backoff = min(2 * backoff, _LAST_BACKOFF)
            else:
                self._reads = True
                backoff = _FIRST_BACKOFF
                if not changes and not self._stopping.is_set():
                    self._subscription.wait(POLL_SECONDS)

    def _next(self) -> bool:
        """Apply the next changes; whether there were any."""
        if self._load is not None:
            self._position, self._load = self._load(), None
        with self._database.transaction(PLATFORM) as tx:
            changes = tx.changes(self.log, after=self._position, limit=_BATCH)
        if not changes:
            self._behind_since = None
        else:
            self._behind_since = self._behind_since or time.monotonic()
            self._apply(changes)
            _applied.add(len(changes), {"log": self.log})
            with self._moved:
                self._position = changes[-1].sequence
                self._moved.notify_all()
        return bool(changes)


gauge(
    "numerator.follower.lag",
    "For how long a follower has not been at the end of its log.",
    lambda: [(each.lag, {"log": each.log}) for each in list(_followers)],
    unit="s",
)
