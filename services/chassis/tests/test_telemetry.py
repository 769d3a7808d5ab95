"""Telemetry: what leaves the process, and that nothing waits for it."""

import ast
import logging
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.metrics import Meter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from services.chassis import metrics
from services.chassis.metrics import QUICK, Reading
from services.chassis.telemetry import (
    ATTRIBUTES,
    EXPORT_SECONDS,
    SHUTDOWN_SECONDS,
    AllowListed,
    capture_context,
    restore_context,
    start_telemetry,
)
from services.chassis.testing.measures import measured
from services.chassis.testing.probing import probe
from services.chassis.testing.rpc import telemetry as shared

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs/telemetry.md").read_text()
NAMES = set(re.findall(r"^\| `([a-z0-9_.]+)` \|", DOCUMENT, re.MULTILINE))
INSTRUMENTS = {"counter", "running", "duration", "gauge", "Reading"}
"""What makes them, in services/chassis/metrics.py."""


@pytest.fixture(autouse=True, scope="module")
def the_process_s_own():
    """Let the providers of this process be those that the tests of other files look at, and not ours, which are shut down."""
    shared()


def _durations(telemetry):
    """An instrument of this telemetry alone; `metrics.py` makes those of the process."""
    meter = telemetry.meter_provider.get_meter("test")
    return meter.create_histogram(
        "numerator.test.duration", unit="s", explicit_bucket_boundaries_advisory=QUICK
    )


@pytest.fixture
def black_hole():
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_metrics__are_served_for_prometheus():
    """`/metrics` shows what was counted, with durations in buckets of seconds, and stops with the process."""
    telemetry = start_telemetry("publishing", "api", 0)
    _durations(telemetry).record(0.02)

    text = (
        urllib.request.urlopen(f"http://127.0.0.1:{telemetry.metrics_port}/metrics", timeout=5)
        .read()
        .decode()
    )
    telemetry.shutdown()

    assert 'numerator_test_duration_seconds_bucket{le="0.025"} 1.0' in text
    assert 'service_name="publishing-api"' in text
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{telemetry.metrics_port}/metrics", timeout=1)


def test_reading__vanishes_when_it_is_old(monkeypatch):
    """A gauge from a database is told as it was read last, whole; a worker that reads no more tells nothing."""
    reading = Reading("numerator.test.reading", "For this test.")
    reading.set([(1, {"state": "A"}), (2, {"state": "B"})])
    first = measured("numerator_test_reading", state="A"), measured("numerator_test_reading")
    reading.set([(5, {"state": "B"})])
    second = measured("numerator_test_reading", state="A"), measured("numerator_test_reading")
    monkeypatch.setattr(metrics, "STALE_SECONDS", 0.0)

    assert (first, second) == ((1, 3), (0, 5))
    assert "numerator_test_reading{" not in probe(shared().metrics_port, "/metrics").text


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_exemplars__name_the_last_trace_of_each_bucket():
    """In OpenMetrics each bucket carries the trace and span of the last measure in it, until there is another."""
    telemetry = start_telemetry("publishing", "api", 0)
    histogram = _durations(telemetry)
    spans = []

    def measured(seconds, **attributes):
        with telemetry.tracer.start_as_current_span("work") as span:
            histogram.record(seconds, attributes)
            spans.append(span.get_span_context())

    def exemplars():
        text = probe(telemetry.metrics_port, "/metrics", accept=OPENMETRICS).text
        families = {family.name: family for family in text_string_to_metric_families(text + "\n")}
        return {
            (sample.labels.get("rpc_method", ""), sample.labels["le"]): sample.exemplar
            for sample in families["numerator_test_duration_seconds"].samples
            if sample.exemplar
        }

    histogram.record(7.0)  # outside of any trace
    measured(0.02)
    measured(0.021)
    measured(0.1)
    measured(99.0, **{"rpc.method": "a.B/C"})
    first, second = exemplars(), exemplars()
    telemetry.shutdown()

    _, small, exactly, large = spans
    assert {bucket: each.labels for bucket, each in first.items()} == {
        ("", "0.025"): {"trace_id": f"{small.trace_id:032x}", "span_id": f"{small.span_id:016x}"},
        ("", "0.1"): {"trace_id": f"{exactly.trace_id:032x}", "span_id": f"{exactly.span_id:016x}"},
        ("a.B/C", "+Inf"): {"trace_id": f"{large.trace_id:032x}", "span_id": f"{large.span_id:016x}"},
    }
    assert first["", "0.025"].value == 0.021
    assert abs(float(first["", "0.025"].timestamp) - time.time()) < 60
    assert second == first


def test_metrics__a_taken_port_is_told():
    """A second process on the same port does not start silently without metrics."""
    telemetry = start_telemetry("publishing", "api", 0)
    try:
        with pytest.raises(OSError):
            start_telemetry("publishing", "api", telemetry.metrics_port)
    finally:
        telemetry.shutdown()


@pytest.mark.filterwarnings("ignore:.*ResourceWarning")
def test_collector__silence_costs_the_work_nothing(black_hole, monkeypatch):
    """OT-1: with a collector that never answers, 10,000 spans and logs are made at full speed, and the end is bounded."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", black_hole)
    handlers = list(logging.getLogger().handlers)
    telemetry = start_telemetry("publishing", "api", 0)
    counter = telemetry.meter_provider.get_meter("test").create_counter("numerator.test.work")
    slowest = 0.0
    for number in range(10_000):
        began = time.monotonic()
        with telemetry.tracer.start_as_current_span("work"):
            counter.add(1)
        if number % 100 == 0:
            logging.getLogger("services.test").warning("work.done")
        slowest = max(slowest, time.monotonic() - began)
    began = time.monotonic()
    telemetry.shutdown()
    ending = time.monotonic() - began

    assert slowest < EXPORT_SECONDS / 2  # a busy machine may take its time, but not wait for an export
    assert ending < SHUTDOWN_SECONDS + 1
    assert logging.getLogger().handlers == handlers


GREEN = """
import eventlet
eventlet.monkey_patch()
import logging, time, urllib.request
from services.chassis.telemetry import start_telemetry

telemetry = start_telemetry("publishing", "worker", 0)
gaps, over = [], []

def watch():
    last = time.monotonic()
    while not over:
        eventlet.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()

watching = eventlet.spawn(watch)
began = time.monotonic()
while time.monotonic() - began < 4:  # exports begin after 1 s (OTEL_BSP_SCHEDULE_DELAY)
    with telemetry.tracer.start_as_current_span("work"):
        logging.getLogger("worker").warning("work.done")
    eventlet.sleep(0.01)
metrics = urllib.request.urlopen(f"http://127.0.0.1:{telemetry.metrics_port}/metrics", timeout=5).status
over.append(True)
watching.wait()
print(metrics, max(gaps))
telemetry.shutdown()
print(time.monotonic() - began)
"""


@pytest.mark.slow
def test_collector__silence_stops_no_green_thread(black_hole):
    """OT-1: in a worker's process, a silent collector never holds up the hub, /metrics answers, and the end is bounded."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": black_hole, "OTEL_BSP_SCHEDULE_DELAY": "1000", "OTEL_BLRP_SCHEDULE_DELAY": "1000", "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", GREEN],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    (status, gap), (ending,) = (line.split() for line in done.stdout.splitlines()[:2])
    assert status == "200"
    assert float(gap) < 0.5
    assert float(ending) < 4 + SHUTDOWN_SECONDS + 1


def test_spans__leave_with_allowed_attributes_only():
    """OT-3: tokens and texts that get into a span, its events, its links or its status stay in the process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(AllowListed(exporter, ATTRIBUTES | {"numerator.own"})))
    tracer = provider.get_tracer("test")

    def work(span):
        span.set_attributes(
            {
                "rpc.method": "a.B/C",
                "numerator.own": 1,
                "http.url": "https://x/?code=hunter2",
                "note": "hunter2",
            }
        )
        span.add_link(span.get_span_context(), {"token": "hunter2"})
        raise ValueError("hunter2")

    with pytest.raises(ValueError), tracer.start_as_current_span("work") as span:
        work(span)

    (sent,) = exporter.get_finished_spans()

    assert "hunter2" not in sent.to_json()
    assert dict(sent.attributes) == {"rpc.method": "a.B/C", "numerator.own": 1}
    assert dict(sent.events[0].attributes) == {"exception.type": "ValueError"}
    assert sent.status.status_code is trace.StatusCode.ERROR
    assert sent.context == span.get_span_context()


def test_context__travels_as_a_traceparent():
    """A captured context is the parent of what is done later; nothing and nonsense are no parent."""
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("before") as before:
        kept = capture_context()

    with tracer.start_as_current_span("after", context=restore_context(kept)) as after:
        assert (after.parent.trace_id, after.parent.span_id) == (
            before.context.trace_id,
            before.context.span_id,
        )
        # The wrong text must not give the current span as the parent either.
        for wrong in ("", "nonsense", "00-0-0-00"):
            assert tracer.start_span("alone", context=restore_context(wrong)).parent is None
    assert kept.startswith(f"00-{before.get_span_context().trace_id:032x}-")
    assert capture_context() == ""


def test_base__is_free_of_transports():
    """What both kinds of process share imports neither grpc nor nameko nor eventlet (GR-6 and trap 4)."""
    modules = [
        "errors",
        "deadline",
        "clock",
        "ids",
        "names",
        "paging",
        "settings",
        "logs",
        "telemetry",
        "principal",
    ]
    script = f"import sys; {'; '.join(f'import services.chassis.{each}' for each in modules)}; print(sorted({{'grpc', 'nameko', 'eventlet', 'kombu'}} & set(sys.modules)))"

    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert printed.strip() == "[]"


def _used_names() -> dict[str, str]:
    """The names of instruments and span attributes in the sources, with the file that uses them."""
    found: dict[str, str] = {}
    for path in [*(ROOT / "services").rglob("*.py"), *(ROOT / "gateway").rglob("*.py")]:
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in INSTRUMENTS | {"set_attribute"}:
                found[node.args[0].value] = str(path.relative_to(ROOT))
            assert not name.startswith("create_") or not hasattr(Meter, name), f"{path}: use metrics.py"
    return found


def test_names__are_declared():
    """Every metric and span attribute that our code uses stands in docs/telemetry.md."""
    used = _used_names()

    assert {name: path for name, path in used.items() if name not in NAMES} == {}
    assert "rpc.server.call.duration" in used  # the search itself works


def test_names__look_in_prometheus_as_the_document_says():
    """The table's second column follows from the first and the kind."""
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| `([a-z0-9_]+)` \| ([a-z, ]+) \|", DOCUMENT, re.MULTILINE)

    assert len(rows) > 50
    for name, shown, kind in rows:
        seconds = "_seconds" if kind.endswith(", s") else ""
        total = "_total" if kind.startswith("counter") else ""
        assert shown == f"{name.replace('.', '_')}{seconds}{total}"


def test_attributes__are_declared():
    """The allow-list and the document say the same."""
    assert ATTRIBUTES <= NAMES
