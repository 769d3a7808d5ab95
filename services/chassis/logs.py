"""
Structured logs: one JSON object per line on stdout.

Events are named `noun.verb_past` (`delivery.published`); data goes into keys. Never a payload, a token or a
person's
text: what looks like one is dropped here as the last line of defence, not as a licence.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from typing import cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_SECRET_KEY = re.compile(
    r"token|secret|password|passwd|authorization|cookie|credential|api_?key|private_?key|(^|_)text$"
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")
_KEYWORD_PASSWORD = re.compile(r"(?i)\b(password\s*=\s*)('[^']*'|\S+)")


def scrub(text: str) -> str:
    """`text` without the passwords that drivers put into messages (`://user:password@`, `password=…`)."""
    return _KEYWORD_PASSWORD.sub(r"\1…", _URL_CREDENTIALS.sub("…", text))


def configure_logs(service: str, process: str, level: str = "INFO") -> None:
    """
    Send structlog's and the standard library's logs to stdout, as JSON. Call once, at the start of a process.

    Args:
        service: as `publishing`.
        process: as `api`.
        level: the least level that is logged, as `INFO`.
    """
    structlog.configure(
        processors=[*_chain(service, process), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(json_formatter(service, process))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Libraries tell each connection and each delivery at INFO; we tell what matters ourselves.
    for library in ("amqp", "pika", "kombu", "nameko", "urllib3", "psycopg.pool"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))


def json_formatter(service: str, process: str) -> logging.Formatter:
    """Makes one line of JSON of a record, be it structlog's or the standard library's, without secrets."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_chain(service, process),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_serialize),
        ],
    )


def get_logger(name: str = "numerator") -> FilteringBoundLogger:
    """A logger: `log.info("delivery.published", delivery=name)`."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def _chain(service: str, process: str) -> list[Processor]:
    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"], event["process"] = service, process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
        _add_trace,
        structlog.processors.format_exc_info,
        _drop_secrets,
    ]


def _serialize(event: EventDict, default: Callable[[object], object], **_options: object) -> str:
    return json.dumps(event, ensure_ascii=False, default=default)


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _drop_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return cast("EventDict", _safe(event))


def _safe(value: object) -> object:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: _safe(each) for key, each in value.items() if not _SECRET_KEY.search(str(key).lower())}
    if isinstance(value, list | tuple):
        return [_safe(each) for each in value]
    return value
