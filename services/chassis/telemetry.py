"""
Traces, metrics and logs by OpenTelemetry. Knows no grpc: workers use it too.

OTLP goes over HTTP from background threads, so that a slow or silent collector costs no call and no event
anything. `/metrics` is served always, with the probes of `probes.py`. Names of our own are listed in
docs/telemetry.md; a span attribute that is not on the allow-list never leaves the process.
"""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentelemetry import metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context, get_current
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry

from services.chassis.exemplars import ExemplaryReader
from services.chassis.ids import new_id
from services.chassis.logs import json_formatter
from services.chassis.probes import Probes
from services.chassis.settings import TelemetrySettings

ATTRIBUTES = frozenset(
    {
        "rpc.system.name", "rpc.method", "rpc.response.status_code",
        "server.address", "server.port",
        "messaging.system", "messaging.operation.name", "messaging.operation.type",
        "messaging.destination.name", "messaging.message.id", "messaging.batch.message_count",
        "messaging.rabbitmq.destination.routing_key", "messaging.consumer.group.name",
        "http.request.method", "http.response.status_code", "http.route", "url.scheme",
        "db.system.name", "db.namespace", "db.operation.name",
        "feature_flag.key", "feature_flag.result.variant", "feature_flag.result.reason",
        "feature_flag.provider.name", "feature_flag.context.id",
        "error.type", "exception.type",
        "numerator.enterprise", "numerator.request_id", "numerator.principal.kind", "numerator.reason",
        "numerator.event.subject", "numerator.attempt",
    }
)  # fmt: skip
"""The span attributes that may leave a process. Services add theirs by `start_telemetry(attributes=…)`."""

EXPORT_SECONDS = 3.0
"""How long one export may take. Short, because a process that stops waits for the last one."""

SHUTDOWN_SECONDS = 5.0
"""How long a stopping process waits for its telemetry to be sent; what is left then is lost."""

_PROPAGATOR = TraceContextTextMapPropagator()
_SEVERITIES = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARNING": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
    "CRITICAL": SeverityNumber.FATAL,
}
_OF_THE_RECORD = frozenset({"trace_id", "span_id", "timestamp", "level"})
# Their own logs would be exported in turn, without end.
_EXPORTERS = ("opentelemetry", "urllib3", "requests")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """
    A process's telemetry.

    Attributes:
        tracer: for own spans. Instruments are made by `metrics.py`.
        tracer_provider, meter_provider: for tests, which add what is their own.
        probes: what answers /healthz and /readyz; the process says there when it is ready.
    """

    tracer: trace.Tracer
    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    probes: Probes
    _logger_provider: LoggerProvider | None
    _log_export: logging.Handler | None

    @property
    def metrics_port(self) -> int:
        """The port of /metrics, /healthz and /readyz."""
        return self.probes.port

    def shutdown(self) -> None:
        """Send what is left, for at most `SHUTDOWN_SECONDS`, and stop answering on the metrics port."""
        if self._log_export is not None:
            logging.getLogger().removeHandler(self._log_export)
        # In threads that nobody has to wait for: with a silent collector the SDK's own shutdown takes far
        #     longer.
        providers = [self.tracer_provider, self.meter_provider, self._logger_provider]
        threads = [
            threading.Thread(target=each.shutdown, daemon=True) for each in providers if each is not None
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + SHUTDOWN_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self.probes.stop()


def start_telemetry(
    service: str, process: str, metrics_port: int, *, attributes: frozenset[str] = frozenset()
) -> Telemetry:
    """
    Start traces, metrics and logs. Call once per process, after `configure_logs`; in a worker after monkey
    patching.

    Args:
        service: as `publishing`.
        process: as `api`.
        metrics_port: where /metrics and the probes are served; 0 takes a free port.
        attributes: span attributes of the service's own that may leave the process.

    Raises OSError when the port is taken.
    """
    settings = TelemetrySettings()
    resource = Resource.create(
        {
            "service.namespace": "numerator",
            "service.name": f"{service}-{process}",
            "service.instance.id": new_id(),
            "deployment.environment.name": settings.environment,
        }
    )
    collector = settings.otel_exporter_otlp_endpoint
    registry = CollectorRegistry()
    readers = [
        ExemplaryReader(registry),
        *([PeriodicExportingMetricReader(OTLPMetricExporter(timeout=EXPORT_SECONDS))] if collector else []),
    ]
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    meters = MeterProvider(
        resource=resource,
        metric_readers=readers,
        shutdown_on_exit=False,
    )
    loggers: LoggerProvider | None = None
    log_export: logging.Handler | None = None
    if collector:
        exporter = AllowListed(OTLPSpanExporter(timeout=EXPORT_SECONDS), ATTRIBUTES | attributes)
        tracers.add_span_processor(BatchSpanProcessor(exporter))
        loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
        loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(timeout=EXPORT_SECONDS)))
        log_export = _LogExport(loggers, json_formatter(service, process))
        logging.getLogger().addHandler(log_export)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    probes = Probes(registry, metrics_port)
    return Telemetry(
        tracer=tracers.get_tracer("numerator"),
        tracer_provider=tracers,
        meter_provider=meters,
        probes=probes,
        _logger_provider=loggers,
        _log_export=log_export,
    )


def capture_context() -> str:
    """The current span as a W3C traceparent, to be kept beside a row or message; empty outside of a span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


def restore_context(traceparent: str) -> Context:
    """
    The context of a captured span, as a parent for new ones. An empty or malformed text gives an empty
    context.
    """
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=Context())


class AllowListed(SpanExporter):
    """
    Hands spans on with the attributes on the list only.

    Tokens, addresses with codes in them and people's texts get into spans by accident (an exception's
    message, an instrumented library): what nobody has declared stays here.
    """

    def __init__(self, exporter: SpanExporter, allowed: frozenset[str]) -> None:
        self._exporter = exporter
        self._allowed = allowed

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([self._stripped(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _stripped(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=self._allow(span.attributes),
            events=[
                Event(event.name, self._allow(event.attributes), event.timestamp) for event in span.events
            ],
            links=[trace.Link(link.context, self._allow(link.attributes)) for link in span.links],
            kind=span.kind,
            status=trace.Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _allow(self, attributes: Mapping[str, AttributeValue] | None) -> dict[str, AttributeValue]:
        return {key: value for key, value in (attributes or {}).items() if key in self._allowed}


class _LogExport(logging.Handler):
    """Exports what `configure_logs` prints: the same record, after the same removal of secrets."""

    def __init__(self, provider: LoggerProvider, formatter: logging.Formatter) -> None:
        super().__init__()
        self._logger = provider.get_logger("numerator")
        self.setFormatter(formatter)
        self.addFilter(lambda record: record.name.partition(".")[0] not in _EXPORTERS)

    def emit(self, record: logging.LogRecord) -> None:
        event = json.loads(self.format(record))
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=get_current(),
                severity_number=_SEVERITIES.get(record.levelname, SeverityNumber.INFO),
                severity_text=record.levelname,
                body=event.pop("event"),
                attributes={key: value for key, value in event.items() if key not in _OF_THE_RECORD},
            )
        )
