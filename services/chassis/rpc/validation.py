"""
Checks requests against their contract: `google.api.field_behavior`, `(numerator.options.v1.limits)`, resource
names.

A validator is compiled once per method; checking visits only the fields that are set.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from google.api import field_behavior_pb2, resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from numerator.options.v1 import options_pb2

from services.chassis.errors import FieldViolation, invalid_fields
from services.chassis.rpc.paths import field_at, path_fields, shape_regex, value_at
from services.chassis.rpc.status import MAX_VIOLATIONS

DEFAULT_LENGTH = 1_000
DEFAULT_ITEMS = 1_000
MAX_DEPTH = 32
"""
How deep messages may nest. Protobuf itself stops at 100; our own trees are walked by recursive functions.
"""

# Any resource name: collection and id in turns.
_NAME = re.compile(r"[a-z][a-zA-Z0-9]*/[A-Za-z0-9._~-]{1,128}(/[a-z][a-zA-Z0-9]*/[A-Za-z0-9._~-]{1,128})*")
_PATTERN_VARIABLE = re.compile(r"\{[^}]+\}")
_WHOLE_NUMBERS = frozenset(
    {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64}
)  # fmt: skip
_FRACTIONS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})
_LEAST_SECONDS, _MOST_SECONDS = -62_135_596_800, 253_402_300_799  # the years 1 to 9999
_MOST_DURATION = 315_576_000_000  # 10,000 years
_NANOS = 1_000_000_000
_KEY_SHOWN = 40

# Says what would be right, or None when the value is right already.
ValueCheck = Callable[[Any], str | None]


@dataclass(slots=True)
class _Found:
    """The violations of one request, as many as can be told."""

    violations: list[FieldViolation] = field(default_factory=list)

    def add(self, path: str, description: str, reason: str = "INVALID") -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(FieldViolation(path, description, reason))


class RequestValidator:
    """The checks of one method's request."""

    def __init__(self, method: MethodDescriptor) -> None:
        """
        Raises `re.error` or KeyError when the contract itself is wrong: a bad pattern, a path without its
        field.
        """
        shapes = {path: _any_shape(each) for path, each in path_fields(method).items()}
        for path in shapes:
            if field_at(method.input_type, path) is None:
                raise ValueError(f"{method.full_name}: its path names {path}, its request has no such field")
        self._shapes = shapes
        self._messages: dict[str, _MessageCheck] = {}
        self._request = _MessageCheck(method.input_type, self._messages)

    def check(self, request: Message, *, first: bool = True) -> None:
        """
        Clear what is output-only; then raise INVALID_ARGUMENT with all violations, if there are any.

        `first` is False for the later messages of a stream: what is required, and the names in the path, come
        once.
        """
        found = _Found()
        self._request.check(request, "", 0, found, required=first)
        if first:
            for path, shape in self._shapes.items():
                problem = shape(value_at(request, path))
                if problem and not any(each.field == path for each in found.violations):
                    found.add(path, problem, "NAME_MALFORMED")
        if found.violations:
            raise invalid_fields(found.violations)


class _MessageCheck:
    """The checks of one message type, compiled."""

    def __init__(self, descriptor: Descriptor, known: dict[str, "_MessageCheck"]) -> None:
        known[descriptor.full_name] = self  # before the fields: a message may contain itself
        self._special = _SPECIAL.get(descriptor.full_name)
        self._required: list[FieldDescriptor] = []
        self._output_only: list[str] = []
        self._fields: dict[int, _FieldCheck] = {}
        for each in descriptor.fields:
            behavior = each.GetOptions().Extensions[field_behavior_pb2.field_behavior]
            if field_behavior_pb2.OUTPUT_ONLY in behavior:
                self._output_only.append(each.name)
                continue
            if field_behavior_pb2.REQUIRED in behavior and _can_be_missing(each):
                self._required.append(each)
            self._fields[each.number] = _FieldCheck(each, known)

    def check(self, message: Message, path: str, depth: int, found: _Found, *, required: bool = True) -> None:
        if depth > MAX_DEPTH:
            found.add(path, f"must not nest deeper than {MAX_DEPTH} levels", "TOO_DEEP")
            return
        if self._special:
            problem = self._special(message)
            if problem:
                found.add(path, problem)
            return
        for name in self._output_only:
            message.ClearField(name)
        prefix = f"{path}." if path else ""
        if required:
            for each in self._required:
                if _is_missing(message, each):
                    found.add(prefix + each.name, "is required", "REQUIRED")
        for each, value in message.ListFields():
            self._fields[each.number].check(value, prefix + each.name, depth, found)


class _FieldCheck:
    """The checks of one field: of the list as a whole, of each value, of the message within."""

    def __init__(self, descriptor: FieldDescriptor, known: dict[str, _MessageCheck]) -> None:
        limits = descriptor.GetOptions().Extensions[options_pb2.limits]
        self._max_items = limits.max_items or DEFAULT_ITEMS
        value, key = descriptor, None
        entry = descriptor.message_type
        if entry is not None and entry.GetOptions().map_entry:
            value, key = entry.fields_by_name["value"], entry.fields_by_name["key"]
        self._is_map = key is not None
        self._is_list = descriptor.is_repeated and not self._is_map
        self._key_checks = _value_checks(key, options_pb2.Limits()) if key is not None else ()
        self._checks = _value_checks(value, limits)
        self._message: _MessageCheck | None = None
        if value.message_type is not None:
            name = value.message_type.full_name
            self._message = known.get(name) or _MessageCheck(value.message_type, known)

    def check(self, value: Any, path: str, depth: int, found: _Found) -> None:
        if not (self._is_list or self._is_map):
            self._check_one(value, path, depth, found)
            return
        if len(value) > self._max_items:
            # The items are not looked at: a list without end costs no time, and its violations no room.
            found.add(path, f"must have at most {self._max_items} items", "TOO_MANY")
            return
        if self._is_list:
            for index, item in enumerate(value):
                self._check_one(item, f"{path}[{index}]", depth, found)
            return
        for key in value:
            shown = f"{path}[{str(key)[:_KEY_SHOWN]!r}]"
            for check in self._key_checks:
                problem = check(key)
                if problem:
                    found.add(shown, f"as a key {problem}")
            self._check_one(value[key], shown, depth, found)

    def _check_one(self, value: Any, path: str, depth: int, found: _Found) -> None:
        for check in self._checks:
            problem = check(value)
            if problem:
                found.add(path, problem)
                break
        if self._message is not None:
            self._message.check(value, path, depth + 1, found)


def _value_checks(descriptor: FieldDescriptor, limits: options_pb2.Limits) -> tuple[ValueCheck, ...]:
    kind = descriptor.cpp_type
    checks: list[ValueCheck] = []
    if descriptor.type == FieldDescriptor.TYPE_STRING:
        checks += [_at_most(limits.max_length or DEFAULT_LENGTH, "characters"), _no_nul]
        if limits.pattern:
            checks.append(_matches(limits.pattern))
        shape = _reference(descriptor)
        if shape:
            checks.append(shape)
    elif descriptor.type == FieldDescriptor.TYPE_BYTES and limits.max_length:
        checks.append(_at_most(limits.max_length, "bytes"))
    elif descriptor.enum_type is not None:
        # One that is there but unspecified says nothing, where leaving it out says as much.
        told = descriptor.has_presence or descriptor.is_repeated
        checks.append(
            _one_of(
                {
                    each.number: each.name
                    for each in descriptor.enum_type.values
                    if each.number or not told or not each.name.endswith("UNSPECIFIED")
                }
            )
        )
    elif kind in _FRACTIONS:
        checks.append(_is_finite)
    if kind in _WHOLE_NUMBERS | _FRACTIONS:
        least = limits.minimum if limits.HasField("minimum") else None
        if descriptor.name == "page_size" and least is None:
            least = 0
        most = limits.maximum if limits.HasField("maximum") else None
        if least is not None or most is not None:
            checks.append(_between(least, most))
    return tuple(checks)


def _at_most(length: int, unit: str) -> ValueCheck:
    return lambda value: f"must have at most {length} {unit}" if len(value) > length else None


def _no_nul(value: str) -> str | None:
    # PostgreSQL cannot store it, and C code behind it would cut the text there.
    return "must not contain the NUL character" if "\0" in value else None


def _matches(pattern: str) -> ValueCheck:
    regex = re.compile(pattern)
    return lambda value: None if regex.fullmatch(value) else f"must match {pattern}"


def _one_of(names: dict[int, str]) -> ValueCheck:
    options = ", ".join(name for number, name in names.items() if number)
    return lambda value: None if value in names else f"must be one of {options}"


def _is_finite(value: float) -> str | None:
    return None if math.isfinite(value) else "must be a finite number"


def _between(least: float | None, most: float | None) -> ValueCheck:
    parts = [
        f"at least {least:g}" if least is not None else "",
        f"at most {most:g}" if most is not None else "",
    ]
    text = "must be " + " and ".join(part for part in parts if part)
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    return lambda value: None if low <= value <= high else text


def _any_shape(shapes: Iterable[str]) -> ValueCheck:
    told = " or ".join(dict.fromkeys(shapes))
    regexes = [shape_regex(shape) for shape in dict.fromkeys(shapes)]

    def check(value: str) -> str | None:
        return None if any(regex.fullmatch(str(value)) for regex in regexes) else f"must have the form {told}"

    return check


def _reference(descriptor: FieldDescriptor) -> ValueCheck | None:
    """The check of a field that names a resource: its known patterns, or the form of any name."""
    reference = descriptor.GetOptions().Extensions[resource_pb2.resource_reference]
    if reference.type in {"", "*"} and not reference.child_type:
        return None
    patterns = _patterns_of(descriptor, reference.type) if reference.type else []
    if patterns:
        shape = _any_shape([_PATTERN_VARIABLE.sub("*", pattern) for pattern in patterns])
        return lambda value: shape(value) if value else None
    return lambda value: None if not value or _NAME.fullmatch(value) else "must be a resource name"


def _patterns_of(descriptor: FieldDescriptor, resource_type: str) -> list[str]:
    """
    The patterns that the field's own file declares for a resource. Another API's resources are not known
    here.
    """
    owner = descriptor.containing_type
    for message in owner.file.message_types_by_name.values() if owner is not None else ():
        resource = message.GetOptions().Extensions[resource_pb2.resource]
        if resource.type == resource_type:
            return list(resource.pattern)
    return []


def _can_be_missing(descriptor: FieldDescriptor) -> bool:
    """Whether absence can be told: a number or a bool without presence is 0 or false like any other."""
    return (
        descriptor.is_repeated
        or descriptor.has_presence
        or descriptor.type
        in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_ENUM}
    )


def _is_missing(message: Message, descriptor: FieldDescriptor) -> bool:
    if descriptor.has_presence and not message.HasField(descriptor.name):
        return True
    value = getattr(message, descriptor.name)
    if descriptor.is_repeated or descriptor.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}:
        return not value
    return descriptor.type == FieldDescriptor.TYPE_ENUM and value == 0


def _timestamp(value: Any) -> str | None:
    if _LEAST_SECONDS <= value.seconds <= _MOST_SECONDS and 0 <= value.nanos < _NANOS:
        return None
    return "must be a time between the years 1 and 9999"


def _duration(value: Any) -> str | None:
    one_sign = value.seconds * value.nanos >= 0
    if one_sign and abs(value.seconds) <= _MOST_DURATION and abs(value.nanos) < _NANOS:
        return None
    return "must be a duration of at most 10,000 years, its parts of one sign"


_SPECIAL: dict[str, ValueCheck] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
}
