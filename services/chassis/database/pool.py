"""Connections to a service's schema, and the transactions on them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from services.chassis.clock import Clock, SystemClock
from services.chassis.database import instruments
from services.chassis.database.errors import translate, unavailable
from services.chassis.database.follow import POLL_SECONDS, Listener
from services.chassis.database.scope import PUBLIC, Scope
from services.chassis.database.transaction import Change, Transaction
from services.chassis.deadline import current_deadline

T = TypeVar("T")

_CONNECT_SECONDS = 3
_LIFETIME_SECONDS = 30 * 60
_ACTIVE_SECONDS = 0.5  # how soon `watch` notices that nobody listens any more
_LOCK_TIMEOUT = timedelta(seconds=3)
_IDLE_TIMEOUT = timedelta(seconds=15)
# The server cancels a statement that takes too long; the client gives up a little later, for a server that is
# silent.
_SILENCE = timedelta(seconds=2)
# A peer that vanished without a word is noticed by the kernel within about ten seconds.
_KEEPALIVE = {
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Connection(psycopg.Connection[DictRow]):
    """A connection on which no wait is endless, even when the server has stopped without closing it."""

    patience = timedelta(seconds=10)
    opened = 0.0

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        limit = self.patience.total_seconds() if timeout is None else timeout
        try:
            return super().wait(gen, interval, limit)
        except errors._WaitTimeout:  # noqa: SLF001 what `wait` is documented to raise has no public name
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {limit} s") from None


class Database:
    """
    A service's schema, seen with the rights of its application role.

    One instance serves all threads of a process. A connection is made when it is first needed, so the
    database may come up later than the service, and go and come back: a broken connection never outlives the
    request that met it, and idle ones that broke meanwhile are passed over.

    Args:
        url: of the application role.
        schema: the service's schema.
        max_size: the most connections for transactions; further ones wait `max_wait`, then fail.
        max_wait: how long a transaction waits for a connection.
        statement_timeout: after which the server gives a statement up.
        clock: tells `Transaction.now`.

    """

    def __init__(
        self,
        url: str,
        *,
        schema: str,
        max_size: int = 8,
        max_wait: timedelta = timedelta(seconds=3),
        statement_timeout: timedelta = timedelta(seconds=5),
        clock: Clock | None = None,
    ) -> None:
        self.schema = schema
        self._clock = clock or SystemClock()
        self._max_wait = max_wait
        self._patience = statement_timeout + _SILENCE
        self._slots = threading.BoundedSemaphore(max_size)
        self._labels = {instruments.POOL: schema}
        self._used_labels = {**self._labels, "db.client.connection.state": "used"}
        instruments.most.add(max_size, self._labels)
        self._idle: deque[Connection] = deque()
        self._open = True
        self._lock = threading.Lock()
        self._changes: Listener | None = None
        settings = {
            "search_path": schema,
            "statement_timeout": _milliseconds(statement_timeout),
            "lock_timeout": _milliseconds(_LOCK_TIMEOUT),
            "idle_in_transaction_session_timeout": _milliseconds(_IDLE_TIMEOUT),
            "timezone": "UTC",
        }
        self._conninfo = make_conninfo(
            url,
            connect_timeout=_CONNECT_SECONDS,
            application_name=f"numerator-{schema}",
            options=" ".join(f"-c {name}={value}" for name, value in settings.items()),
            **_KEEPALIVE,
        )

    def open(self) -> None:
        """Make ready for transactions; only needed after `close`."""
        self._open = True

    def close(self) -> None:
        """Close the idle connections at once, the others when their transactions end, and stop to listen."""
        self._open = False
        with self._lock:
            listener, self._changes = self._changes, None
        if listener:
            listener.stop()
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def check(self) -> None:
        """Raise UNAVAILABLE when the database does not answer."""
        with self.transaction(PUBLIC):
            pass

    def connect(self) -> Connection:
        """A connection outside the pool, in autocommit; the caller closes it. Raises UNAVAILABLE."""
        try:
            connection = Connection.connect(self._conninfo, autocommit=True, row_factory=dict_row)
        except psycopg.OperationalError as error:
            raise unavailable() from error
        connection.patience = self._patience
        connection.opened = time.monotonic()
        return connection

    @contextmanager
    def transaction(self, scope: Scope) -> Iterator[Transaction]:
        """
        A transaction that sees the rows of `scope`: commits at the end, rolls back when the block raises.

        Raises:
            ServiceError: UNAVAILABLE `DATABASE_UNAVAILABLE` (`before_commit` False: the outcome is unknown)
                or `DATABASE_BUSY`, ABORTED `TRANSACTION_CONFLICT`, DEADLINE_EXCEEDED `DATABASE_TIMEOUT`.
            psycopg.Error: what else the database says, as a violated constraint that nobody caught.

        """
        work = current_deadline()
        wait = self._max_wait.total_seconds()
        asked = time.monotonic()
        if not self._slots.acquire(timeout=min(wait, work.remaining()) if work else wait):
            instruments.timeouts.add(1, self._labels)
            raise unavailable()
        instruments.wait.record(time.monotonic() - asked, self._labels)
        instruments.used.add(1, self._used_labels)
        try:
            # A caller who has gone gets no transaction, and of one that was begun for it nothing stays.
            if work:
                work.check()
            connection = self._begin(scope)
            try:
                tx = Transaction(connection, schema=self.schema, scope=scope, now=self._clock.now())
                yield tx
                if work:
                    work.check()
                self._commit(connection)
                tx.committed()
            except psycopg.Error as error:
                translated = translate(error, lost=connection.closed)
                if translated is None:
                    raise
                raise translated from error
            finally:
                self._give_back(connection)
        finally:
            self._slots.release()
            instruments.used.add(-1, self._used_labels)

    def watch(
        self, log: str, scope: Scope, *, after: int, timeout: float, active: Callable[[], bool] = lambda: True
    ) -> Iterator[Change]:
        """
        The changes of a log that follow `after`, as they come: the tenant's, or all that the scope sees.

        Holds no connection while it waits: all watchers of a process share one. Ends after `timeout` seconds,
        or soon after `active` turned false; raises UNAVAILABLE while the database is away. To go on without a
        gap, watch again after the last sequence number that was got.
        """
        deadline = time.monotonic() + timeout
        key = f"{log} {scope.enterprise}" if scope.enterprise else log
        with self.changes_listener().subscribe(key) as subscription:
            while active() and time.monotonic() < deadline:
                subscription.clear()
                with self.transaction(scope) as tx:
                    changes = tx.changes(log, after=after)
                for change in changes:
                    after = change.sequence
                    yield change
                look_again = min(deadline, time.monotonic() + POLL_SECONDS)
                while not changes and active() and (left := look_again - time.monotonic()) > 0:
                    if subscription.wait(min(left, _ACTIVE_SECONDS)):
                        break

    def changes_listener(self) -> Listener:
        """The process's one listener to the schema's change logs, begun when it is first needed."""
        with self._lock:
            if self._changes is None:
                self._changes = Listener(self.connect, f"{self.schema}_changes")
                self._changes.start()
            return self._changes

    def _begin(self, scope: Scope) -> Connection:
        """
        A connection on which a transaction has begun.

        The statement that begins it is also the check of an idle connection: when that fails nothing has
        happened yet, so the next one is tried, and at last a new one. Settings are local to the transaction:
        what is left of them for the next borrower is nothing.
        """
        begin = sql.SQL(
            "begin;"
            " select set_config('numerator.scope', {}, true), set_config('numerator.enterprise', {}, true)"
        ).format(scope.name, scope.enterprise or "")
        while True:
            try:
                connection, pooled = self._idle.pop(), True
            except IndexError:
                connection, pooled = self.connect(), False
            try:
                connection.execute(begin, prepare=False)
            except psycopg.Error as error:
                connection.close()
                if not pooled:
                    raise unavailable() from error
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    @staticmethod
    def _commit(connection: Connection) -> None:
        try:
            ended = connection.execute("commit", prepare=False).statusmessage
        except psycopg.Error as error:
            translated = translate(error, lost=connection.closed, committing=True)
            if translated is None:
                raise
            raise translated from error
        if ended != "COMMIT":
            # PostgreSQL answers COMMIT with ROLLBACK, and no error, after a statement failed.
            raise errors.InFailedSqlTransaction(
                "a statement failed and its error was swallowed: nothing was committed. "
                "Wrap a statement that may fail in tx.savepoint()"
            )

    def _give_back(self, connection: Connection) -> None:
        try:
            if connection.info.transaction_status is not TransactionStatus.IDLE:
                connection.execute("rollback", prepare=False)
        except psycopg.Error:
            connection.close()  # it is broken: whatever was open on it, the server has rolled back
        fresh = time.monotonic() - connection.opened < _LIFETIME_SECONDS
        if self._open and fresh and connection.info.transaction_status is TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            connection.close()


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
