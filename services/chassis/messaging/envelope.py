"""
What an event looks like on the wire: CloudEvents attributes in the headers, the proto message in the body.

Knows no broker and no database. The bodies are made and read by `services.chassis.events`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from google.protobuf.message import Message

from services.chassis import events

MAX_BODY = 4 * 1024 * 1024
"""The largest body, in bytes, that a handler is given. Bulk travels in parts of up to 1,000 items."""

ORDERING_KEY = "partitionkey"
"""The header within whose value order is kept; CloudEvents names it so."""

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)

_MAX_HEADER = 1000  # characters; as our longest names


@dataclass(frozen=True, slots=True)
class Event(Generic[M_co]):
    """
    A thing that happened.

    Attributes:
        id: the same however often the event is delivered.
        type: `<service>.<entity>.<past participle>`; also the routing key.
        subject: the resource it happened to, by its full name.
        enterprise: the tenant, as `enterprises/x`; None when the event belongs to no tenant.
        time: when it happened (UTC).
        message: the event itself.

    """

    id: str
    type: str
    subject: str
    enterprise: str | None
    time: datetime
    message: M_co


class PoisonError(Exception):
    """
    A message that no number of tries can make a handler understand.

    Attributes:
        reason: UPPER_SNAKE, kept with the dead letter.
        detail: what exactly is wrong, without the message's content.

    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def make_headers(
    *,
    event_id: str,
    event_type: str,
    source: str,
    subject: str,
    ordering_key: str,
    time: datetime,
    enterprise: str | None,
    traceparent: str,
) -> dict[str, str]:
    """The headers of an event; `source` is who tells it. What is absent is left out."""
    headers = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": event_type,
        "subject": subject,
        ORDERING_KEY: ordering_key,
        "time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "enterprise": enterprise or "",
        "traceparent": traceparent,
    }
    return {name: value for name, value in headers.items() if value}


def decode(
    message_class: type[M], headers: Mapping[object, object], content_type: object, body: bytes
) -> Event[M]:
    """
    Read an event of the class that a handler expects.

    Raises PoisonError: MISSING_HEADER, INVALID_HEADER, WRONG_TYPE, TOO_LARGE, UNDECODABLE, EMPTY.
    """
    expected, name = events.event_type(message_class), _header(headers, "type")
    if name != expected:
        raise PoisonError("WRONG_TYPE", f"this handler takes {expected}, not {name[:100]}")
    event_id, subject = _header(headers, "id"), _header(headers, "subject")
    enterprise = _header(headers, "enterprise") if "enterprise" in headers else None
    if enterprise is not None and not enterprise.startswith("enterprises/"):
        raise PoisonError("INVALID_HEADER", "the header enterprise must be as enterprises/x")
    if len(body) > MAX_BODY:
        raise PoisonError("TOO_LARGE", f"the body has {len(body)} bytes; at most {MAX_BODY} are taken")
    try:
        message = events.decode(str(content_type), body, message_class)
    except events.UndecodableError as error:
        raise PoisonError("UNDECODABLE", str(error)) from None
    if not message.ListFields():
        raise PoisonError("EMPTY", f"the body names nothing that {expected} tells of")
    return Event(event_id, name, subject, enterprise, _time(_header(headers, "time")), message)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PoisonError("INVALID_HEADER", "the header time must be RFC 3339") from None


def _header(headers: Mapping[object, object], name: str) -> str:
    value = headers.get(name)
    if value is None or value == "":
        raise PoisonError("MISSING_HEADER", f"the header {name} is missing")
    if not isinstance(value, str) or len(value) > _MAX_HEADER or "\x00" in value:
        raise PoisonError("INVALID_HEADER", f"the header {name} must be a text of at most 1,000 characters")
    return value
