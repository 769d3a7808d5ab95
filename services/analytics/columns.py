"""
The columnar store: ClickHouse SQL, embedded in the api process (chDB).

It holds nothing that is not in PostgreSQL's log of facts, and follows that log in order. Each row carries the sequence
number of its change, so after a crash the store goes on exactly where its own rows end: nothing twice, nothing missing.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from threading import Semaphore
from typing import Any

import chdb  # untyped; its errors are RuntimeErrors: it has two classes ChdbError, and raises the one that it does not export

from services.analytics.model import DIMENSIONS, METRICS, Question
from services.chassis.database import Change
from services.chassis.errors import Kind, ServiceError
from services.chassis.logs import get_logger

_COLUMNS = """
    sequence UInt64, enterprise LowCardinality(String), id String, kind LowCardinality(String), time DateTime64(6, 'UTC'),
    post String, parent String, person String, publication LowCardinality(String), account LowCardinality(String),
    placement LowCardinality(String), campaign LowCardinality(String), value Float64
"""
# A part counts when it is on the disk, and a merged part replaces its sources only when it is there too.
_ENGINE = """
    MergeTree order by (enterprise, kind, post, time)
    settings fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
"""
# One statement makes one block, one part: it is in as a whole or not at all. A page of the log is far under the block's limit.
_INSERT = "settings input_format_parallel_parsing = 0, date_time_input_format = 'best_effort' format JSONCompactEachRow"

_SIDE_BY_SIDE = 4
_MOST_BYTES = 1 << 30
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(2200, 1, 1, tzinfo=UTC)
_TIMEOUT, _MEMORY = 159, 241  # ClickHouse's TIMEOUT_EXCEEDED and MEMORY_LIMIT_EXCEEDED

_log = get_logger(__name__)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Columns:
    """
    All facts, by column. One process may have the folder open; one instance serves all its threads.

    Questions are answered side by side, a few at a time, and beside the one thread that takes facts in.
    """

    def __init__(self, path: Path) -> None:
        """Open the folder. Raises RuntimeError when another process has it."""
        path.mkdir(parents=True, exist_ok=True)
        self._path = str(path)
        self._holder = chdb.connect(self._path)
        self._places = Semaphore(_SIDE_BY_SIDE)
        self._newest: int | None = None
        self.rows = 0
        """How many facts are in."""
        self._opened = False

    def close(self) -> None:
        """Let the folder go, when the questions in hand are answered."""
        self._opened = False
        for _ in range(_SIDE_BY_SIDE):
            self._places.acquire()
        self._holder.close()

    def open(self, log: str, newest: int) -> int:
        """
        Make ready to follow a log, and return the sequence number of the newest change that is in the store.

        What was filled from another log, from a later state of it (its database was restored), or by a version of ours with
        other columns, is thrown away.
        """
        made_of = f"{log} {hashlib.sha256((_COLUMNS + _ENGINE).encode()).hexdigest()[:8]}"
        with self._writer() as writer:
            found = _rows(
                writer, "select comment from system.tables where database = 'default' and name = 'facts'"
            )
            if found != [[made_of]] or _newest(writer) > newest:
                writer.query("drop table if exists facts sync")
                writer.query(f"create table facts ({_COLUMNS}) engine = {_ENGINE} comment '{made_of}'")
            self._newest = sequence = _newest(writer)
            self.rows = _count(writer)
        self._opened = True
        return sequence

    def apply(self, changes: Sequence[Change]) -> None:
        """
        Take in changes of the log of facts, in order. Those that are in already are passed over.

        Raises UNAVAILABLE `FACTS_UNAVAILABLE` when the store cannot write, as on a full disk; try the same changes again.
        """
        with self._writer() as writer:
            newest = _newest(writer) if self._newest is None else self._newest
            self._newest = None  # until all is in: what a failure leaves behind, the store itself must say
            fresh = [(change, json.loads(change.body)) for change in changes if change.sequence > newest]
            for columns, group in groupby(fresh, key=lambda each: each[1]["columns"]):
                rows = [
                    (change.sequence, change.enterprise, *row)
                    for change, body in group
                    for row in body["rows"]
                ]
                names = ", ".join(("sequence", "enterprise", *columns))
                if rows:
                    writer.query(f"insert into facts ({names}) {_INSERT}\n{_encode(rows)[1:-1]}")
            self._newest = max(newest, changes[-1].sequence)
            self.rows = _count(writer)

    def ask(
        self, enterprise: str, question: Question, *, until: int, limit: int, offset: int, timeout: float
    ) -> list[tuple[list[str], list[float]]]:
        """
        The rows of the answer, ordered by their dimensions: the dimensions' values and the metrics' values.

        Args:
            enterprise: whose numbers.
            question: what is asked.
            until: the newest change that counts. With the same one all pages are of one moment.
            limit: the most rows.
            offset: how many rows come before them.
            timeout: how long the answer may take, in seconds.

        Raises:
            ServiceError: DEADLINE_EXCEEDED `QUESTION_TOO_LARGE`, for time and for memory; UNAVAILABLE `FACTS_UNAVAILABLE`.

        """
        dimensions = [DIMENSIONS[name] for name in question.dimensions]
        metrics = [f"toFloat64({METRICS[name].expression})" for name in question.metrics]
        conditions = ["enterprise = {enterprise:String}", f"sequence <= {until:d}"]
        parameters = {"enterprise": enterprise}  # a name: nothing in it needs escaping
        for number, (dimension, values) in enumerate(question.filters):
            conditions.append(f"{DIMENSIONS[dimension]} in {{filter{number}:Array(String)}}")
            parameters[f"filter{number}"] = _array(values)
        for moment, comparison in ((question.start, ">="), (question.end, "<")):
            if moment is not None:
                conditions.append(f"time {comparison} fromUnixTimestamp64Micro({_micros(moment):d}, 'UTC')")
        places = ", ".join(str(place) for place in range(1, len(dimensions) + 1))
        grouped = f"group by {places} order by {places}" if dimensions else ""
        sql = f"""
            select {", ".join([*dimensions, *metrics])} from facts where {" and ".join(conditions)} {grouped}
            limit {limit:d} offset {offset:d}
            settings max_execution_time = {max(timeout, 0.001):f}, max_memory_usage = {_MOST_BYTES:d}
        """  # noqa: S608 -- made of our own expressions; what callers write are parameters
        count = len(dimensions)
        with self._reader(timeout) as reader:
            rows = _rows(reader, sql, parameters)
        return [(row[:count], [float(value) for value in row[count:]]) for row in rows]

    @contextmanager
    def _reader(self, timeout: float) -> Iterator[Any]:
        """A connection for one question."""
        if not self._opened:
            raise _unavailable("the numbers are being put together")
        if not self._places.acquire(timeout=timeout):
            raise _unavailable("too many questions at once")
        try:
            with self._connected() as reader:
                yield reader
        except RuntimeError as error:
            if _code(error) in {_TIMEOUT, _MEMORY}:
                raise ServiceError(
                    Kind.DEADLINE_EXCEEDED,
                    "QUESTION_TOO_LARGE",
                    "the answer takes too much time or memory; ask for a shorter time, or by fewer dimensions",
                ) from error
            raise
        finally:
            self._places.release()

    @contextmanager
    def _writer(self) -> Iterator[Any]:
        """
        The connection that writes.

        Whatever ails the store while it is written ails all later writes: it is to be tried again, not passed over.
        """
        try:
            with self._connected() as writer:
                yield writer
        except RuntimeError as error:
            # The text may hold rows, and they people: the code says enough.
            _log.error("facts.not_written", code=_code(error))
            raise _unavailable("the columnar store cannot be written") from error

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """
        A connection of its own for each use; it costs nothing.

        After an error a connection keeps what the failed question had answered so far, and puts it before its next answer.
        """
        connection = chdb.connect(self._path)
        try:
            yield connection
        finally:
            connection.close()


def _newest(connection: Any) -> int:
    """The newest change that is in the store."""
    return int(_rows(connection, "select max(sequence) from facts")[0][0])


def _count(connection: Any) -> int:
    """How many facts are in the store; it need not read them for that."""
    return int(_rows(connection, "select count() from facts")[0][0])


def _rows(connection: Any, sql: str, parameters: Mapping[str, str] | None = None) -> list[list[Any]]:
    answer = connection.query(sql, "JSONCompact", params=parameters or {}).bytes()
    rows: list[list[Any]] = json.loads(answer)["data"]
    return rows


def _unavailable(why: str) -> ServiceError:
    return ServiceError(
        Kind.UNAVAILABLE,
        "FACTS_UNAVAILABLE",
        f"{why}; try again",
        retry_after=timedelta(seconds=1),
        before_commit=True,
    )


def _code(error: RuntimeError) -> int:
    """ClickHouse's number of the error; 0 when it has none."""
    found = re.search(r"Code: (\d+)", str(error))
    return int(found[1]) if found else 0


def _micros(moment: datetime) -> int:
    """Microseconds since 1970, within what the column can hold."""
    return (min(max(moment, _EPOCH), _END) - _EPOCH) // timedelta(microseconds=1)


def _array(values: Sequence[str]) -> str:
    """Texts as ClickHouse reads an array of them in a parameter."""
    quoted = (value.replace("\\", "\\\\").replace("'", "\\'") for value in values)
    return "[" + ",".join(f"'{value}'" for value in quoted) + "]"
