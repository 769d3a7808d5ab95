"""What a use case does with the database, in one transaction."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString, TypeVar, cast

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from psycopg import Connection, Cursor, errors
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.chassis import events
from services.chassis.database.scope import Scope
from services.chassis.errors import Kind, ServiceError
from services.chassis.ids import new_id
from services.chassis.telemetry import capture_context

M = TypeVar("M", bound=Message)

KEPT = timedelta(hours=24)
"""How long the reply to a request is kept for its repetitions."""

PAGE_BYTES = 8 << 20
"""How much of a change log is read at once: what follows a log never holds much more of it in memory."""

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""Who makes the present call, so that two callers may choose the same request id. Set by the edge."""


@dataclass(frozen=True, slots=True)
class Change:
    """
    One entry of a change log.

    Attributes:
        sequence: grows with each commit to the log; has gaps.
        key: what changed.
        body: the dict or the bytes that were appended.
        enterprise: whose change it is; None when it is nobody's.

    """

    sequence: int
    key: str
    body: Any
    enterprise: str | None


@dataclass(frozen=True, slots=True)
class Telling:
    """One of many events; as the arguments of `Transaction.emit`."""

    message: Message
    subject: str
    enterprise: str | None = None
    ordering_key: str | None = None


class Transaction:
    """
    An open transaction. Made by `Database.transaction`; for one thread.

    Attributes:
        now: the time of the transaction; does not move.
        scope: whose rows it sees.
        schema: the service's schema.

    """

    def __init__(self, connection: Connection[DictRow], *, schema: str, scope: Scope, now: datetime) -> None:
        self._connection = connection
        self.schema = schema
        self.scope = scope
        self.now = now
        self._afterwards: list[Callable[[], None]] = []

    @property
    def enterprise(self) -> str | None:
        """The tenant of the transaction, as `enterprises/x`; None when its scope is no tenant."""
        return self.scope.enterprise

    def execute(self, sql: LiteralString, params: Sequence[Any] | Mapping[str, Any] = ()) -> Cursor[DictRow]:
        """Run one statement; the cursor gives rows as dicts."""
        return self._connection.execute(sql, params)

    def executemany(self, sql: LiteralString, rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """Run one statement for each of `rows`, in few round trips; returns how many rows it touched."""
        with self._connection.cursor() as cursor:
            cursor.executemany(sql, rows)
            return cursor.rowcount

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part that may fail: when it raises, only what it did is undone; the transaction can go on."""
        before = len(self._afterwards)
        try:
            with self._connection.transaction():
                yield
        except BaseException:
            del self._afterwards[before:]
            raise

    def after_commit(self, do: Callable[[], None]) -> None:
        """Call `do` when, and only when, this transaction has committed: for counting what then is so."""
        self._afterwards.append(do)

    def committed(self) -> None:
        """For `Database`: do what was to be done after the commit."""
        for do in self._afterwards:
            do()

    def emit(
        self,
        message: Message,
        *,
        subject: str,
        enterprise: str | None = None,
        ordering_key: str | None = None,
    ) -> str:
        """
        Tell an event when, and only when, this transaction commits. Call it after saving what it tells.

        Events of one ordering key are told in the order of their emission. Between two transactions on one
        aggregate it is the lock on the aggregate's row that makes this order the true one; hence save first,
        then emit.

        Args:
            message: has the option `(numerator.options.v1.event_type)`.
            subject: the resource that it is about.
            enterprise: whose event it is; the transaction's by default.
            ordering_key: within which order is kept; the subject by default.

        Returns:
            The event's id.

        """
        row = self._outbox_row(Telling(message, subject, enterprise, ordering_key))
        self.execute(
            """
            insert into outbox
              (id, type, subject, ordering_key, enterprise, content_type, body, time, traceparent)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (*row, self.now, capture_context()),
        )
        return cast("str", row[0])

    def emit_all(self, told: Iterable[Telling]) -> None:
        """Tell many events, in their order, in one statement; see `emit`."""
        rows = [self._outbox_row(each) for each in told]
        if not rows:
            return
        # The bodies go as bytes (%b): as text they would be twice as long, and escaped one by one.
        self.execute(
            """
            insert into outbox
              (id, type, subject, ordering_key, enterprise, content_type, body, time, traceparent)
            select id, type, subject, ordering_key, enterprise, content_type, body, %s, %s
            from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])
              with ordinality
              as told (id, type, subject, ordering_key, enterprise, content_type, body, place)
            order by place
            """,
            (self.now, capture_context(), *map(list, zip(*rows, strict=True))),
        )

    def _outbox_row(self, told: Telling) -> tuple[Any, ...]:
        content_type, body = events.encode(told.message)
        return (
            new_id(),
            events.event_type(type(told.message)),
            told.subject,
            told.ordering_key or told.subject,
            told.enterprise or self.enterprise,
            content_type,
            body,
        )

    def record_event(self, handler: str, event_id: str) -> bool:
        """
        Record that `handler` handles the event in this transaction. False: it has done so before; do nothing.

        While another transaction handles the same event, waits for its end.
        """
        inserted = self.execute(
            "insert into inbox (handler, event_id, received_time) values (%s, %s, %s) on conflict do nothing",
            (handler, event_id, self.now),
        )
        return inserted.rowcount == 1

    def append_change(
        self, log: str, key: str, body: Mapping[str, Any] | bytes, *, enterprise: str | None = None
    ) -> int:
        """
        Append to a change log, for `Follower` and `Database.watch`; returns the entry's sequence number.

        The numbers of a log grow in the order of the commits: other transactions that append to the log wait
        for this one, so append late and commit soon. The change is the transaction's enterprise's unless one
        is given.
        """
        data, raw = (None, body) if isinstance(body, bytes) else (Jsonb(body), None)
        appended = self.execute(
            "select chassis_append_change(%s, %s, %s, %s, %s, %s) as sequence",
            (log, key, enterprise or self.enterprise, data, raw, self.now),
        )
        return cast("int", appended.fetchall()[0]["sequence"])

    def last_change(self, log: str) -> int:
        """
        The sequence number of the log's newest change, the tenant's or all that the scope sees; 0 for none.

        To begin to follow from a state: read this first, then the state; what comes twice must not harm.
        """
        found = self.execute(
            """
            select coalesce(max(sequence), 0) as last from changes
            where log = %(log)s and (%(enterprise)s::text is null or enterprise = %(enterprise)s)
            """,
            {"log": log, "enterprise": self.enterprise},
        )
        return cast("int", found.fetchall()[0]["last"])

    def changes(self, log: str, *, after: int, limit: int = 1000) -> list[Change]:
        """
        The changes of a log after `after`, oldest first: the tenant's, or all that the scope sees.

        Not more than `limit`, and not more than the one with which their bodies reach `PAGE_BYTES`.
        """
        rows = self.execute(
            """
            select sequence, key, enterprise, data, bytes from (
              select *, sum(coalesce(octet_length(bytes), pg_column_size(data)))
                over (order by sequence rows between unbounded preceding and 1 preceding) as bytes_before
              from (
                select * from changes
                where log = %(log)s and sequence > %(after)s
                  and (%(enterprise)s::text is null or enterprise = %(enterprise)s)
                order by sequence limit %(limit)s
              ) as next_ones
            ) as measured
            where coalesce(bytes_before, 0) < %(most_bytes)s order by sequence
            """,
            {
                "log": log,
                "after": after,
                "limit": limit,
                "enterprise": self.enterprise,
                "most_bytes": PAGE_BYTES,
            },
        )
        return [
            Change(
                sequence=row["sequence"],
                key=row["key"],
                body=row["data"] if row["bytes"] is None else row["bytes"],
                enterprise=row["enterprise"],
            )
            for row in rows
        ]

    def once(self, request: Message, make: Callable[[], M], *, caller: str | None = None) -> M:
        """
        The reply to `request`, made by `make` only the first time.

        A request with a `request_id` that the same caller of the same tenant sent before gets the reply of
        then, for 24 hours. Effect and reply are kept in this one transaction: when `make` raises, neither is.
        While the first one runs, a repetition waits for it. The reply is kept as it is: do not use this where
        it holds a secret.

        Args:
            request: has a field `request_id`; when that is empty, `make` is simply called.
            make: does the work in this transaction and returns the reply.
            caller: who asks; by default the one whom the edge put into `CALLER`.

        Raises:
            ServiceError: FAILED_PRECONDITION `IDEMPOTENCY_KEY_REUSED` when the request id came with another
                request, ABORTED `REQUEST_RUNNING` when the first one does not end soon.

        """
        request_id: str = request.request_id  # type: ignore[attr-defined]  # checked by Python
        if not request_id:
            return make()
        method = request.DESCRIPTOR.full_name
        fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        key = {
            "tenant": self.enterprise or "",
            "caller": CALLER.get() if caller is None else caller,
            "method": method,
            "request_id": request_id,
        }
        if not self._claim(key, fingerprint):
            return cast("M", self._repeat(key, fingerprint))
        reply = make()
        packed = AnyMessage()
        packed.Pack(reply)
        self.execute(
            """
            update idempotency set response = %(response)s
            where (tenant, caller, method, request_id) = (%(tenant)s, %(caller)s, %(method)s, %(request_id)s)
            """,
            {**key, "response": packed.SerializeToString()},
        )
        return reply

    def _claim(self, key: Mapping[str, str], fingerprint: bytes) -> bool:
        """Whether the request is new, or so old that its reply is no longer kept. Waits for one that runs."""
        try:
            claimed = self.execute(
                """
                insert into idempotency as known
                  (tenant, caller, method, request_id, fingerprint, create_time)
                values (%(tenant)s, %(caller)s, %(method)s, %(request_id)s, %(fingerprint)s, %(now)s)
                on conflict (tenant, caller, method, request_id) do update
                  set fingerprint = excluded.fingerprint, create_time = excluded.create_time, response = null
                  where known.create_time <= %(expired)s
                """,
                {**key, "fingerprint": fingerprint, "now": self.now, "expired": self.now - KEPT},
            )
        except errors.LockNotAvailable:
            raise ServiceError(
                Kind.ABORTED,
                "REQUEST_RUNNING",
                "the request with this request_id still runs; repeat it a little later",
                metadata={"request_id": key["request_id"]},
                retry_after=timedelta(seconds=1),
                before_commit=True,
            ) from None
        return claimed.rowcount == 1

    def _repeat(self, key: Mapping[str, str], fingerprint: bytes) -> Message:
        """The reply of the first time."""
        known = self.execute(
            """
            select fingerprint, response from idempotency
            where (tenant, caller, method, request_id) = (%(tenant)s, %(caller)s, %(method)s, %(request_id)s)
            """,
            key,
        ).fetchall()[0]
        if known["fingerprint"] != fingerprint:
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "IDEMPOTENCY_KEY_REUSED",
                "request_id was used for a request with other values; take a new one for a new request",
                metadata={"request_id": key["request_id"]},
            )
        packed = AnyMessage.FromString(known["response"])
        kind = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        reply = message_factory.GetMessageClass(kind)()
        packed.Unpack(reply)
        return reply
