"""The receiver takes what the SDK's own exporters send, shows it again, and cannot be filled."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from deploy.otel import receiver as module
from deploy.otel import store as store_module
from deploy.otel.exports import LogLine, Span, tree
from deploy.otel.receiver import Receiver, receiving
from deploy.otel.store import Journal, Store

PUBLISHING = Resource({"service.name": "publishing-api"})
PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def client(receiver: Receiver) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=receiver.endpoint) as client:
        yield client


def export_trace(receiver: Receiver) -> str:
    """A request with a call in it that fails, as the SDK exports it; the trace's id."""
    provider = TracerProvider(resource=PUBLISHING, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.endpoint}/v1/traces")))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span(
        "request", attributes={"numerator.attempt": 3, "x": ["é", "b"]}
    ) as root:
        with tracer.start_as_current_span("call", kind=trace.SpanKind.CLIENT) as span:
            span.add_event("exception", {"exception.type": "OSError"})
            span.set_status(trace.StatusCode.ERROR)
        found = f"{root.get_span_context().trace_id:032x}"
    provider.shutdown()
    return found


def test_traces__are_shown_as_they_were_exported(receiver: Receiver, client: httpx.Client) -> None:
    """Names, parents, attributes and states of spans come back, as JSON and as a tree of text."""
    trace_id = export_trace(receiver)

    request, call = client.get(f"/traces/{trace_id}").json()["spans"]
    assert (request["name"], request["service"], request["kind"]) == ("request", "publishing-api", "INTERNAL")
    assert request["attributes"] == {"numerator.attempt": "3", "x": '["é", "b"]'}
    assert (call["parent"], call["kind"], call["failed"]) == (request["id"], "CLIENT", True)
    assert call["attributes"] == {"exception.exception.type": "OSError"}
    assert 0 < call["duration"] < request["duration"]

    text = client.get(f"/traces/{trace_id}", headers={"accept": "text/plain"}).text.splitlines()
    assert text[0].endswith(" ms  publishing-api internal: request")
    assert text[1].endswith(" ms    publishing-api client: call FAILED")


def test_traces__are_listed_newest_first_by_service(receiver: Receiver, client: httpx.Client) -> None:
    """A service's list has its processes' traces; another's, also one with a longer name, has not."""
    older, newer = export_trace(receiver), export_trace(receiver)

    listed = client.get("/traces", params={"service": "publishing", "limit": 2}).json()["traces"]
    assert [each["trace"] for each in listed] == [newer, older]
    assert listed[0] | {"start": 0, "duration": 0} == {
        "trace": newer, "name": "request", "service": "publishing-api", "start": 0, "duration": 0,
        "spans": 2, "failed": 1, "services": ["publishing-api"],
    }  # fmt: skip
    assert client.get("/traces", params={"service": "publish"}).json()["traces"] == []


def test_logs__are_found_by_trace(receiver: Receiver, client: httpx.Client) -> None:
    """A log line has its event, level and values, and is found under the trace in which it was written."""
    provider = LoggerProvider(resource=PUBLISHING, shutdown_on_exit=False)
    provider.add_log_record_processor(
        SimpleLogRecordProcessor(OTLPLogExporter(f"{receiver.endpoint}/v1/logs"))
    )
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))
    provider.get_logger("test").emit(
        LogRecord(
            timestamp=5, context=trace.set_span_in_context(span), severity_number=SeverityNumber.WARN,
            severity_text="WARNING", body="delivery.attempted", attributes={"attempt": 2},
        )
    )  # fmt: skip
    provider.shutdown()

    (line,) = client.get("/logs", params={"trace_id": f"{0xABC:032x}"}).json()["logs"]
    assert line == {
        "time": 5, "service": "publishing-api", "severity": "WARNING", "event": "delivery.attempted",
        "trace": f"{0xABC:032x}", "span": f"{0xDEF:016x}", "attributes": {"attempt": "2"},
    }  # fmt: skip
    assert client.get("/logs", params={"trace_id": "f" * 32}).json()["logs"] == []


def test_metrics__are_taken(receiver: Receiver) -> None:
    """A process that pushes its metrics gets no error."""
    results = []

    class Noting(OTLPMetricExporter):
        def export(self, *args: object, **kwargs: object) -> MetricExportResult:
            results.append(super().export(*args, **kwargs))
            return results[-1]

    provider = MeterProvider(
        [PeriodicExportingMetricReader(Noting(f"{receiver.endpoint}/v1/metrics"))], PUBLISHING
    )
    provider.get_meter("test").create_counter("numerator.test").add(1)
    provider.shutdown()

    assert results == [MetricExportResult.SUCCESS]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"content-type": "application/json"}, 415),
        (b"x", PROTOBUF | {"content-encoding": "br"}, 415),
        (b"\xff", PROTOBUF, 400),
        (b"no gzip", PROTOBUF | {"content-encoding": "gzip"}, 400),
        (gzip.compress(b"cut off" * 100)[:-12], PROTOBUF | {"content-encoding": "gzip"}, 400),
        (b"x" * 1_001, PROTOBUF, 413),
        (gzip.compress(b"x" * 1_001), PROTOBUF | {"content-encoding": "gzip"}, 413),
    ],
    ids=["json", "brotli", "no protobuf", "no gzip", "half a gzip", "too long", "too long when unpacked"],
)
def test_exports__that_are_none_are_refused(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    """What is malformed, foreign or too long is refused with the status that says so, and nothing of it is kept."""
    monkeypatch.setattr(module, "LARGEST", 1_000)
    before = len(receiver.store.spans())

    answer = httpx.post(f"{receiver.endpoint}/v1/traces", content=body, headers=headers)

    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert len(receiver.store.spans()) == before


def test_exports__may_be_empty(client: httpx.Client) -> None:
    """An export without spans is taken, packed or not."""
    body = ExportTraceServiceRequest().SerializeToString()

    assert client.post("/v1/traces", content=body, headers=PROTOBUF).status_code == 200
    packed = gzip.compress(body)
    assert (
        client.post("/v1/traces", content=packed, headers=PROTOBUF | {"content-encoding": "gzip"}).status_code
        == 200
    )


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "²", "9" * 5_000])
def test_lists__take_sensible_limits_only(client: httpx.Client, limit: str) -> None:
    """A limit that is no number, or none that we would list, is refused."""
    assert client.get("/traces", params={"limit": limit}).status_code == 400


def test_traces__that_are_not_kept_are_not_found(client: httpx.Client) -> None:
    """An unknown trace is 404, and health is told."""
    assert client.get(f"/traces/{'0' * 32}").status_code == 404
    assert client.get("/healthz").text == "ok\n"


def span(trace_id: str, span_id: str = "1", start: int = 0) -> Span:
    return Span(trace_id, span_id, "", "x-api", "x", "SERVER", start)


def test_store__forgets_the_trace_that_is_quiet_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces, spans of a trace, and log lines are bounded."""
    monkeypatch.setattr(store_module, "SPANS_OF_A_TRACE", 2)
    store = Store(traces=2, logs=2)

    store.add_spans([span("a"), span("b"), span("a", "2"), span("c"), span("a", "3")])
    store.add_logs(LogLine(n, "x-api", "INFO", "x", "", "", {}) for n in range(5))

    assert [each.trace for each in store.spans()] == ["c", "a", "a"]
    assert store.dropped == 1
    assert [line.time for line in store.logs()] == [3, 4]
    assert [line.time for line in store.logs(limit=1)] == [4]


def test_journal__is_rotated(tmp_path: Path) -> None:
    """Everything is in the files too, as JSON Lines; old files go when new ones fill."""
    journal = Journal(tmp_path / "new", 1_000)
    store = Store(traces=1, logs=1, journal=journal)

    store.add_spans(span("t", str(number)) for number in range(100))
    store.add_logs([LogLine(1, "x-api", "INFO", "x", "", "", {"text": "中文"})])
    journal.close()

    files = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert files == ["logs.jsonl", "spans.jsonl", "spans.jsonl.1", "spans.jsonl.2", "spans.jsonl.3"]
    assert all(file.stat().st_size <= 1_000 for file in (tmp_path / "new").iterdir())
    last = json.loads((tmp_path / "new" / "spans.jsonl").read_text().splitlines()[-1])
    assert (last["trace"], last["id"]) == ("t", "99")
    assert "中文" in (tmp_path / "new" / "logs.jsonl").read_text()


def test_tree__shows_each_span_once() -> None:
    """Children stand below their parents by time; a span whose parent is missing is not lost."""
    spans = [
        Span("t", "c", "b", "s", "child", "SERVER", 3_000_000),
        Span("t", "b", "gone", "s", "orphan", "SERVER", 2_000_000, duration=1_500_000),
        Span("t", "a", "", "s", "root", "SERVER", 1_000_000),
    ]

    assert tree(spans) == (
        "      0.0       0.0 ms  s server: root\n"
        "      1.0       1.5 ms  s server: orphan\n"
        "      2.0       0.0 ms    s server: child"
    )
