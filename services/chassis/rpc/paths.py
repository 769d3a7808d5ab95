"""What `google.api.http` says about the fields of a request."""

import re
from collections.abc import Iterator
from functools import reduce
from typing import Any

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

# {field} or {field.path=collection/*/collection/*}
_VARIABLE = re.compile(r"\{([a-z][a-z0-9_.]*)(?:=([^}]*))?\}")
_SEGMENT = r"[A-Za-z0-9._~-]{1,128}"


def templates(method: MethodDescriptor) -> Iterator[str]:
    """The method's paths, additional bindings too; none for a method that the gateway does not serve."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        template = _template(each)
        if template:
            yield template


def path_fields(method: MethodDescriptor) -> dict[str, list[str]]:
    """The fields that stand in the method's paths, each with the shapes it may have (`enterprises/*`)."""
    found: dict[str, list[str]] = {}
    for template in templates(method):
        for field, shape in _VARIABLE.findall(template):
            found.setdefault(field, []).append(shape or "*")
    return found


def shape_regex(shape: str) -> re.Pattern[str]:
    """The regular expression of a shape: `*` is one segment, `**` is one or more."""
    parts = re.split(r"(\*\*|\*)", shape)
    by_mark = {"*": _SEGMENT, "**": rf"{_SEGMENT}(?:/{_SEGMENT})*"}
    return re.compile("".join(by_mark.get(part, re.escape(part)) for part in parts))


def field_at(message: Descriptor, path: str) -> FieldDescriptor | None:
    """The field at a path, as `publication.name`; None when there is none."""
    first, _, rest = path.partition(".")
    field = message.fields_by_name.get(first)
    if field is None or not rest:
        return field
    return field_at(field.message_type, rest) if field.message_type is not None else None


def value_at(message: Message, path: str) -> Any:
    """The value at a path that `field_at` has found."""
    return reduce(getattr, path.split("."), message)


def _template(rule: HttpRule) -> str:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        return ""
    return rule.custom.path if kind == "custom" else str(getattr(rule, kind))
