"""
The columnar store: ClickHouse SQL, embedded in the api process (chDB).

It holds nothing that is not in PostgreSQL's log of facts. It follows that log in order, and each insert carries the log's
sequence numbers, so that after a crash it goes on exactly where its own rows end: nothing twice, nothing missing.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chdb.session import Session  # untyped

from services.analytics.model import DIMENSIONS, METRICS, Question
from services.chassis.database import Change

_TABLE = """
create table if not exists facts (
    sequence UInt64, enterprise LowCardinality(String), id String, kind LowCardinality(String), time DateTime64(3, 'UTC'),
    post String, parent String, person String, publication LowCardinality(String), account LowCardinality(String),
    placement LowCardinality(String), campaign LowCardinality(String), value Float64
) engine = MergeTree order by (enterprise, kind, post, time) settings fsync_after_insert = 1
"""


class Columns:
    """
    All facts, by column. One process may have the directory open; one instance serves all its threads.

    A parts' insert is atomic and flushed before it counts, so `sequence()` never runs ahead of the rows.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._session = Session(str(path))
        self._lock = threading.Lock()
        self._run(_TABLE)
        self._sequence = int(self._rows("select max(sequence) from facts")[0][0])

    def close(self) -> None:
        """Let the directory go."""
        with self._lock:
            self._session.close()

    @property
    def sequence(self) -> int:
        """The newest change that is in the store."""
        return self._sequence

    def apply(self, changes: Sequence[Change]) -> None:
        """Take in changes of the log of facts, in order. Those that are in already are passed over."""
        fresh = [change for change in changes if change.sequence > self._sequence]
        rows = [json.dumps({"sequence": c.sequence, **row}) for c in fresh for row in json.loads(c.body)]
        if rows:
            self._run("insert into facts format JSONEachRow\n" + "\n".join(rows))
        if fresh:
            self._sequence = fresh[-1].sequence

    def ask(
        self, enterprise: str, question: Question, *, limit: int, offset: int
    ) -> list[tuple[list[str], list[float]]]:
        """The rows of the answer, ordered by their dimensions: the dimensions' values and the metrics' values."""
        dimensions = [DIMENSIONS[name] for name in question.dimensions]
        metrics = [f"toFloat64({METRICS[name].expression})" for name in question.metrics]
        conditions, parameters = ["enterprise = {enterprise:String}"], {"enterprise": _escaped(enterprise)}
        for number, (dimension, values) in enumerate(question.filters):
            names = [f"f{number}_{index}" for index in range(len(values))]
            conditions.append(
                f"{DIMENSIONS[dimension]} in ({', '.join(f'{{{name}:String}}' for name in names)})"
            )
            parameters |= {name: _escaped(value) for name, value in zip(names, values, strict=True)}
        for moment, comparison in ((question.start, ">="), (question.end, "<")):
            if moment is not None:
                conditions.append(
                    f"time {comparison} fromUnixTimestamp64Micro({int(moment.timestamp() * 1e6)}, 'UTC')"
                )
        count = len(dimensions)
        group = (
            f" group by {', '.join(dimensions)} order by {', '.join(str(n + 1) for n in range(count))}"
            if count
            else ""
        )
        sql = (
            f"select {', '.join([*dimensions, *metrics])} from facts where {' and '.join(conditions)}{group}"  # noqa: S608
            f" limit {limit:d} offset {offset:d}"
        )
        return [
            ([str(v) for v in row[:count]], [float(v) for v in row[count:]])
            for row in self._rows(sql, parameters)
        ]

    def _run(self, sql: str) -> None:
        with self._lock:
            self._session.query(sql)

    def _rows(self, sql: str, parameters: dict[str, str] | None = None) -> list[list[Any]]:
        with self._lock:
            answer = self._session.query(sql, "JSONCompact", params=parameters or {}).bytes()
        rows: list[list[Any]] = json.loads(answer)["data"]
        return rows


def _escaped(value: str) -> str:
    """A text as ClickHouse reads a parameter: in its tab-separated form."""
    return (
        value.replace("\\", "\\\\")
        .replace("\t", "\\t")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\0", "\\0")
    )
