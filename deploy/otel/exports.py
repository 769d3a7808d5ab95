"""What processes export by OTLP, as plain values: spans and log lines."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True, slots=True)
class Span:
    """
    A span as it was exported.

    Attributes:
        trace, id: as hexadecimal digits.
        parent: the span id of its parent; empty for a root.
        service: the process, as `publishing-api`.
        kind: as `SERVER`.
        start: nanoseconds since 1970.
        attributes: its own and its events', values as text.
        duration: nanoseconds.
        failed: whether its status is an error.
    """

    trace: str
    id: str
    parent: str
    service: str
    name: str
    kind: str
    start: int
    attributes: dict[str, str] = field(default_factory=dict)
    duration: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class LogLine:
    """
    A log record as it was exported.

    Attributes:
        time: nanoseconds since 1970.
        service: the process, as `publishing-api`.
        severity: as `INFO`.
        event: what happened, as `delivery.attempted`.
        trace, span: where it happened, as hexadecimal digits; empty outside of a span.
        attributes: everything else, values as text.
    """

    time: int
    service: str
    severity: str
    event: str
    trace: str
    span: str
    attributes: dict[str, str]


def read_spans(body: bytes) -> list[Span]:
    """The spans of an ExportTraceServiceRequest. Raises google.protobuf.message.DecodeError."""
    return [
        _span(_service(resource.resource.attributes), span)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def read_logs(body: bytes) -> list[LogLine]:
    """The records of an ExportLogsServiceRequest. Raises google.protobuf.message.DecodeError."""
    return [
        LogLine(
            time=record.time_unix_nano,
            service=_service(resource.resource.attributes),
            severity=record.severity_text,
            event=_text(record.body),
            trace=record.trace_id.hex(),
            span=record.span_id.hex(),
            attributes=_attributes(record.attributes),
        )
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def tree(spans: Sequence[Span]) -> str:
    """
    A trace as text: a line for each span with its begin and its duration in milliseconds, children below parents.

    A span whose parent is missing stands where a root does.
    """
    known = {span.id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        children.setdefault(span.parent if span.parent in known else "", []).append(span)
    begin = min((span.start for span in spans), default=0)

    def lines(parent: str, depth: int) -> Iterator[str]:
        for span in children.pop(parent, []):
            yield (
                f"{(span.start - begin) / 1e6:9.1f} {span.duration / 1e6:9.1f} ms  {'  ' * depth}"
                f"{span.service} {span.kind.lower()}: {span.name}{' FAILED' if span.failed else ''}"
            )
            yield from lines(span.id, depth + 1)

    return "\n".join(lines("", 0))


def _span(service: str, span: SpanMessage) -> Span:
    attributes = _attributes(span.attributes)
    for event in span.events:
        attributes |= {f"{event.name}.{key}": value for key, value in _attributes(event.attributes).items()}
    return Span(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        service=service,
        name=span.name,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start=span.start_time_unix_nano,
        attributes=attributes,
        duration=max(0, span.end_time_unix_nano - span.start_time_unix_nano),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _service(resource: Iterable[KeyValue]) -> str:
    return _attributes(resource).get("service.name", "unknown_service")


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {pair.key: _text(pair.value) for pair in pairs}


def _text(value: AnyValue) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return ""
        case "array_value":
            return [_plain(each) for each in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
        case "bytes_value":
            return value.bytes_value.hex()
        case kind:
            return getattr(value, kind)
