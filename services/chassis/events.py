"""Event messages as bytes and back: the outbox stores what `encode` makes, messaging decodes it."""

import json
from functools import cache
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from numerator.options.v1 import options_pb2

M = TypeVar("M", bound=Message)

JSON = "application/json"
BINARY = "application/protobuf"


class UndecodableError(ValueError):
    """The bytes are no message of the class. Trying again cannot help."""


def event_type(message_class: type[Message]) -> str:
    """The name under which the message travels, as `accounts.account.bound`; it is the routing key."""
    name: str = message_class.DESCRIPTOR.GetOptions().Extensions[options_pb2.event_type]
    if not name:
        raise TypeError(
            f"{message_class.DESCRIPTOR.full_name} lacks (numerator.options.v1.event_type): it is no event"
        )
    return name


def encode(message: Message) -> tuple[str, bytes]:
    """
    The content type and the body of an event.

    Proto-JSON, because people read events; binary for bulk (a message that holds a list of messages
    anywhere), which JSON makes many times slower and larger, and for bytes, which JSON does not show either.
    """
    if _is_bulk(message.DESCRIPTOR):
        return BINARY, message.SerializeToString(deterministic=True)
    body = json.dumps(
        json_format.MessageToDict(message), ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )
    return JSON, body.encode()


def decode(content_type: str, body: bytes, message_class: type[M]) -> M:
    """
    The message that `encode` made the body of. Fields that this side does not know yet are passed over.

    Raises:
        UndecodableError: for another content type, or bytes that are no such message.

    """
    if content_type not in (JSON, BINARY):
        raise UndecodableError(f"content type {content_type!r} is neither {JSON} nor {BINARY}")
    message = message_class()
    try:
        if content_type == BINARY:
            message.ParseFromString(body)
        else:
            json_format.ParseDict(_json_object(body), message, ignore_unknown_fields=True)
    # ValueError: no UTF-8, no JSON. TypeError: no object. RecursionError: JSON nested too deeply.
    except (DecodeError, json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise UndecodableError(f"the body is no {message_class.DESCRIPTOR.full_name}") from error
    return message


def _json_object(body: bytes) -> dict[str, Any]:
    value = json.loads(body.decode())
    if not isinstance(value, dict):
        raise TypeError  # json_format would take an empty list for an empty message
    return value


@cache
def _is_bulk(descriptor: Descriptor) -> bool:
    """Whether a message of this kind can hold bytes or a list of messages, at any depth."""
    seen: set[str] = set()
    rest = [descriptor]
    while rest:
        kind = rest.pop()
        if kind.full_name in seen:
            continue
        seen.add(kind.full_name)
        for field in kind.fields:
            inner = field.message_type
            if field.type == FieldDescriptor.TYPE_BYTES:
                return True
            if inner is None:
                continue
            if field.is_repeated and not inner.GetOptions().map_entry:
                return True
            rest.append(inner)
    return False
