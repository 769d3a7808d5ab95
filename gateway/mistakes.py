"""Where a JSON value does not fit a message, and what would. `json_format` only says that, in its own words."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from gateway.errors import Problem, invalid
from services.chassis.errors import FieldViolation

NOT_PARSED = (
    json_format.ParseError,
    # json_format checks shapes only in part: a list where an object belongs surfaces as one of these.
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
)
"""What `json_format.ParseDict` raises for a value that does not fit."""

_MOST = 20
_DEPTH = 100
_MOST_ITEMS = 1000
_KINDS = {
    FieldDescriptor.CPPTYPE_INT32: "an integer of 32 bits",
    FieldDescriptor.CPPTYPE_UINT32: "an integer from 0 to 4294967295",
    FieldDescriptor.CPPTYPE_INT64: "an integer of 64 bits, as a number or a string",
    FieldDescriptor.CPPTYPE_UINT64: "an integer from 0 to 18446744073709551615, as a number or a string",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_MESSAGE: "an object",
}
_MESSAGES = {
    "google.protobuf.Timestamp": "a time in RFC 3339 form, as 2026-01-31T09:00:00Z",
    "google.protobuf.Duration": "seconds with an s, as 3.5s",
    "google.protobuf.FieldMask": "field names with commas between them",
}


def explain(value: Any, message: Descriptor) -> Problem:
    """The 400 for a JSON value that `message` does not take: names every wrong field (the first twenty)."""
    violations = list(islice(_violations(value, message, "", 0), _MOST))
    if not violations:
        return invalid("body", "does not have the shape of this request")
    return Problem(
        400,
        "INVALID_ARGUMENT",
        "; ".join(f"{each.field}: {each.description}" for each in violations),
        violations=violations,
        metadata={"fields": ",".join(each.field for each in violations)},
    )


def _violations(value: Any, message: Descriptor, path: str, depth: int) -> Iterator[FieldViolation]:
    if depth >= _DEPTH:
        yield FieldViolation(path, f"nests more than {_DEPTH} levels deep")
        return
    if not isinstance(value, dict):
        yield FieldViolation(path or "body", "must be an object")
        return
    by_json_name = {field.json_name: field for field in message.fields}
    chosen: dict[str, str] = {}
    for key, inner in value.items():
        field = by_json_name.get(key) or message.fields_by_name.get(key)
        if field is None:
            yield FieldViolation(_join(path, key), "is no field of this request", "UNKNOWN_FIELD")
            continue
        here = _join(path, field.json_name)
        group = field.containing_oneof.name if field.containing_oneof else field.name
        if inner is not None and chosen.setdefault(group, key) != key:
            yield FieldViolation(here, f"cannot be given together with {chosen[group]}")
        else:
            yield from _of_field(inner, field, here, depth)


def _of_field(value: Any, field: FieldDescriptor, path: str, depth: int) -> Iterator[FieldViolation]:
    if value is None:
        return
    nested = field.message_type
    if nested is not None and nested.GetOptions().map_entry:
        if not isinstance(value, dict):
            yield FieldViolation(path, "must be an object")
            return
        for key, inner in value.items():
            yield from _of_field(inner, nested.fields_by_name["value"], f"{path}[{key}]", depth)
    elif field.is_repeated and not isinstance(value, list):
        yield FieldViolation(path, "must be a list")
    elif field.is_repeated:
        for index, item in enumerate(value[:_MOST_ITEMS]):
            yield from _of_item(item, field, f"{path}[{index}]", depth)
    else:
        yield from _of_item(value, field, path, depth)


def _of_item(value: Any, field: FieldDescriptor, path: str, depth: int) -> Iterator[FieldViolation]:
    nested = field.message_type
    if nested is not None and nested.file.package != "google.protobuf":
        yield from _violations(value, nested, path, depth + 1)
        return
    holder = GetMessageClass(cast("Descriptor", field.containing_type))()
    try:
        json_format.ParseDict({field.name: [value] if field.is_repeated else value}, holder)
    except NOT_PARSED:
        yield FieldViolation(path, f"must be {_expected(field)}")


def _expected(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return "one of " + ", ".join(each.name for each in field.enum_type.values if each.number)
    if field.message_type is not None:
        wrapped = field.message_type.fields_by_name.get("value")
        kind = _MESSAGES.get(field.message_type.full_name)
        return kind or (_expected(wrapped) if wrapped is not None else "an object")
    return "base64" if field.type == FieldDescriptor.TYPE_BYTES else _KINDS[field.cpp_type]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
