"""Logs: JSON lines with their context, without secrets."""

import io
import json
import logging
import sys

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from services.chassis.logs import configure_logs, get_logger, scrub


@pytest.fixture
def lines(monkeypatch):
    """Configures logs for a process, and gives the lines that it has printed."""
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    root = logging.getLogger()
    before = (root.handlers, root.level, structlog.get_config())
    configure_logs("publishing", "api", "INFO")
    structlog.contextvars.clear_contextvars()
    yield lambda: [json.loads(line) for line in printed.getvalue().splitlines()]
    structlog.contextvars.clear_contextvars()
    root.handlers, root.level = before[:2]
    structlog.configure(**before[2])


def test_logs__are_json_with_their_context(lines):
    """A line has the event, its data, the process, the trace, and what the call has bound."""
    tracer = TracerProvider().get_tracer("test")
    with (
        structlog.contextvars.bound_contextvars(enterprise="enterprises/a", request_id="r1"),
        tracer.start_as_current_span("s") as span,
    ):
        get_logger().info("delivery.published", delivery="d1")

    (line,) = lines()
    assert {key: line[key] for key in ("event", "level", "delivery", "service", "process", "enterprise", "request_id")} == {
        "event": "delivery.published", "level": "info", "delivery": "d1", "service": "publishing", "process": "api", "enterprise": "enterprises/a", "request_id": "r1",
    }  # fmt: skip
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


def test_logs__take_in_the_standard_library(lines):
    """What libraries log has the same form; what is below the level is not printed."""
    logging.getLogger("somewhere").warning("slow %s", "query")
    logging.getLogger("somewhere").debug("noise")
    get_logger().debug("noise.made")

    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("slow query", "warning", "somewhere")


def test_logs__drop_what_looks_secret(lines):
    """Keys that name secrets or texts of people are dropped, at any depth; harmless neighbours stay."""
    get_logger().info(
        "thing.made", token="s1", access_token="s2", client_secret="s3", Password="s4", text="s5", post_text="s6",
        authorization="s7", api_key="s8", nested={"cookie": "s9", "list": [{"refresh_token": "s10"}]}, context="kept", texture="kept",
    )  # fmt: skip

    (line,) = lines()
    assert not [
        value for value in json.dumps(line).split('"') if value in {f"s{number}" for number in range(1, 11)}
    ]
    assert (line["context"], line["texture"], line["nested"]) == ("kept", "kept", {"list": [{}]})


def test_logs__scrub_the_passwords_of_drivers(lines):
    """Exceptions, messages and values lose the passwords of connection strings."""

    def connect():
        raise OSError("cannot connect to postgresql://app:hunter2@db/x or 'host=db password=hunter2 user=a'")

    try:
        connect()
    except OSError:
        get_logger().exception("database.lost", url="amqp://u:hunter2@mq//")
        logging.getLogger("driver").exception("lost amqp://u:hunter2@mq//")

    printed = lines()
    assert len(printed) == 2
    assert all("hunter2" not in json.dumps(line) for line in printed)
    assert all("OSError" in line["exception"] for line in printed)


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("see https://example.com/a:b@c", "see https://example.com/a:b@c"),
        ("postgresql://u:p%40ss@h:5432/d?x=1", "postgresql://…@h:5432/d?x=1"),
        ("amqps://:pw@h", "amqps://…@h"),
        ("password = 'a b' host=x", "password = … host=x"),
    ],
)
def test_scrub__takes_credentials_only(text, scrubbed):
    """User and password of a URL go; its other parts stay."""
    assert scrub(text) == scrubbed
