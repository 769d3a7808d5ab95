"""A receiver of OpenTelemetry data (OTLP over HTTP): keeps what processes export, for tests to look at."""

import gzip
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, slots=True)
class Span:
    """
    A span as it was exported.

    Attributes:
        service: the process, as `publishing-api`.
        kind: as `SERVER`.
        parent: the span id of its parent; empty for a root.
        attributes: its own and its events', values as text.
        start: nanoseconds since 1970.
    """

    trace: str
    id: str
    parent: str
    service: str
    name: str
    kind: str
    start: int
    attributes: dict[str, str]


@dataclass
class Receiver:
    """What was received so far. Safe for threads."""

    endpoint: str
    _spans: list[Span] = field(default_factory=list)
    _logs: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process export here, and soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_BLRP_SCHEDULE_DELAY": "200",
        }

    def spans(self) -> list[Span]:
        """All spans, in the order of their arrival."""
        with self._lock:
            return list(self._spans)

    def logs(self) -> list[str]:
        """All log records, each with its attributes, as text."""
        with self._lock:
            return list(self._logs)

    def take(self, path: str, body: bytes) -> None:
        """Keep an export. Metrics hold no text of anybody's and are passed over."""
        if path == "/v1/traces":
            spans = list(_spans_of(ExportTraceServiceRequest.FromString(body)))
            with self._lock:
                self._spans += spans
        elif path == "/v1/logs":
            request = ExportLogsServiceRequest.FromString(body)
            records = [
                str(record)
                for resource in request.resource_logs
                for scope in resource.scope_logs
                for record in scope.log_records
            ]
            with self._lock:
                self._logs += records


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port, for the time of a `with` block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class calls it so
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    service=service,
                    name=span.name,
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    start=span.start_time_unix_nano,
                    attributes={
                        **_attributes(span.attributes),
                        **{
                            f"{e.name}.{k}": v
                            for e in span.events
                            for k, v in _attributes(e.attributes).items()
                        },
                    },
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {pair.key: _text(pair) for pair in pairs}


def _text(pair: KeyValue) -> str:
    kind = pair.value.WhichOneof("value")
    return str(getattr(pair.value, kind)) if kind else ""
