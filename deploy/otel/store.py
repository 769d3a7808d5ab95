"""What the receiver keeps: the newest traces and log lines in bounded memory and, if wanted, on disk."""

import json
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import asdict
from logging.handlers import RotatingFileHandler
from pathlib import Path

from deploy.otel.exports import LogLine, Span

SPANS_OF_A_TRACE = 1_000
"""How many spans of one trace are kept; further ones are counted as dropped."""
_OLD_FILES = 3


class Store:
    """
    The newest traces and log lines. Safe for threads.

    Args:
        traces: how many traces to keep. The one whose last span came longest ago goes first.
        logs: how many log lines to keep.
        journal: where everything is written as well.

    Attributes:
        dropped: how many spans were not kept because their trace had too many.
    """

    def __init__(self, traces: int, logs: int, journal: "Journal | None" = None) -> None:
        self.dropped = 0
        self._most_traces = traces
        self._traces: OrderedDict[str, list[Span]] = OrderedDict()
        self._logs: deque[LogLine] = deque(maxlen=logs)
        self._journal = journal
        self._lock = threading.Lock()

    def add_spans(self, spans: Iterable[Span]) -> None:
        """Keep spans, which may belong to many traces."""
        with self._lock:
            for span in spans:
                kept = self._traces.setdefault(span.trace, [])
                self._traces.move_to_end(span.trace)
                if len(kept) < SPANS_OF_A_TRACE:
                    kept.append(span)
                else:
                    self.dropped += 1
                if len(self._traces) > self._most_traces:
                    self._traces.popitem(last=False)
                if self._journal:
                    self._journal.spans(asdict(span))

    def add_logs(self, lines: Iterable[LogLine]) -> None:
        """Keep log lines."""
        with self._lock:
            for line in lines:
                self._logs.append(line)
                if self._journal:
                    self._journal.logs(asdict(line))

    def spans(self) -> list[Span]:
        """All spans that are kept, trace by trace."""
        with self._lock:
            return [span for spans in self._traces.values() for span in spans]

    def trace(self, trace: str) -> list[Span]:
        """The spans of a trace by their begin; empty when it is not known."""
        with self._lock:
            return sorted(self._traces.get(trace, ()), key=lambda span: span.start)

    def traces(self, service: str, limit: int) -> list[list[Span]]:
        """The newest traces that `service`'s processes took part in (as `publishing` or `publishing-api`)."""
        with self._lock:
            found: list[list[Span]] = []
            for spans in reversed(self._traces.values()):
                if len(found) == limit:
                    break
                if not service or any(_of(span.service, service) for span in spans):
                    found.append(sorted(spans, key=lambda span: span.start))
            return found

    def logs(self, trace: str = "", limit: int | None = None) -> list[LogLine]:
        """The newest log lines, of one trace if it is given, in the order of their arrival."""
        with self._lock:
            found = [line for line in self._logs if not trace or line.trace == trace]
        return found if limit is None else found[-limit:]


class Journal:
    """
    Files `spans.jsonl` and `logs.jsonl` of a folder; a full one is renamed to `….1`, and so on up to `….3`.

    Raises OSError when the folder cannot be made.
    """

    def __init__(self, folder: Path, file_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files = {
            name: RotatingFileHandler(
                folder / f"{name}.jsonl", maxBytes=file_bytes, backupCount=_OLD_FILES, encoding="utf-8"
            )
            for name in ("spans", "logs")
        }

    def spans(self, span: dict[str, object]) -> None:
        """Write a span."""
        self._write("spans", span)

    def logs(self, line: dict[str, object]) -> None:
        """Write a log line."""
        self._write("logs", line)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _write(self, name: str, entry: dict[str, object]) -> None:
        text = json.dumps(entry, ensure_ascii=False)
        self._files[name].emit(logging.LogRecord(name, logging.INFO, "", 0, text, None, None))


def _of(process: str, service: str) -> bool:
    return process == service or process.startswith(f"{service}-")
