"""HTTP requests to proto messages and proto messages to HTTP answers, by proto-JSON and `google.api.http`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway.catalogue import HTTP_BODY, Binding, Method
from gateway.errors import Problem, invalid
from gateway.mistakes import NOT_PARSED, explain

MAX_DEPTH = 100
"""How deep messages may nest; the wire format has the same limit."""
_QUERY_DEPTH = 4
# Messages that are one JSON string, and so can be a query parameter.
TEXT_TYPES = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"})
WRAPPER_TYPES = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Parameter:
    """A query parameter: its name (lowerCamelCase, dotted), the proto names that lead to the field, and the field."""

    name: str
    path: tuple[str, ...]
    field: FieldDescriptor


def query_parameters(method: Method, binding: Binding) -> list[Parameter]:
    """What the query may set: every field that neither the path nor the body gives."""
    if binding.body == "*":
        return []
    taken = {variable.field for variable in binding.path.variables} | {binding.body}
    return list(_leaves(method.takes, (), (), taken))


class RequestReader:
    """Makes the request message of one route from the parts of an HTTP request."""

    def __init__(self, method: Method, binding: Binding) -> None:
        self._request = method.request
        self._type = method.takes
        self._binding = binding
        parameters = query_parameters(method, binding)
        self._parameters = {parameter.name: parameter for parameter in parameters}
        self._parameters |= {".".join(parameter.path): parameter for parameter in parameters}

    def read(self, path: Mapping[str, str], query: Iterable[tuple[str, str]], body: bytes = b"") -> Message:
        """
        The request message.

        Raises 400 that names the parameter or field: unknown, given twice, of the wrong form, or in contradiction
        to the path. JSON that is none is told with line and column.
        """
        tree = self._body(body)
        for name, value in path.items():
            _put(tree, self._type, tuple(name.split(".")), value)
        self._query(tree, query)
        message = self._request()
        try:
            json_format.ParseDict(tree, message, max_recursion_depth=MAX_DEPTH)
        except NOT_PARSED:
            raise explain(tree, self._type) from None
        return message

    def _body(self, body: bytes) -> dict[str, Any]:
        if not body.strip():
            return {}
        if not self._binding.body:
            raise invalid("body", "this route takes no body")
        value = parse_json(body)
        field = self._type.fields_by_name.get(self._binding.body)
        if not isinstance(value, dict) and (field is None or _is_object(field)):
            raise invalid("body", "must be a JSON object")
        return value if field is None else {field.name: value}

    def _query(self, tree: dict[str, Any], query: Iterable[tuple[str, str]]) -> None:
        seen: set[tuple[str, ...]] = set()
        for name, text in query:
            parameter = self._parameters.get(name)
            if parameter is None:
                raise invalid(name, "is no parameter of this route", "UNKNOWN_PARAMETER")
            value = _from_text(parameter, text)
            if parameter.field.is_repeated:
                _append(tree, parameter.path, value)
            elif parameter.path in seen:
                raise invalid(name, "is given more than once", "REPEATED_PARAMETER")
            else:
                _put(tree, self._type, parameter.path, value)
            seen.add(parameter.path)


def parse_json(body: bytes) -> Any:
    """The JSON value in `body`. Raises 400 with line and column, or with what else JSON does not allow."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _malformed(
            f"{error.msg} at line {error.lineno}, column {error.colno}", line=error.lineno, column=error.colno
        ) from None
    except RecursionError:
        raise _malformed("it nests too deeply") from None
    except ValueError as error:
        raise _malformed(str(error)) from None


def render_json(message: Message, response_body: str = "") -> bytes:
    """`message` as proto-JSON in UTF-8, with zero values; only the field `response_body` when it is given."""
    value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    if response_body:
        return _dump(value.get(message.DESCRIPTOR.fields_by_name[response_body].json_name))
    return _dump(value)


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _leaves(
    message: Descriptor, path: tuple[str, ...], names: tuple[str, ...], taken: set[str]
) -> Iterable[Parameter]:
    for field in message.fields:
        here, name = (*path, field.name), (*names, field.json_name)
        if ".".join(here) in taken:
            continue
        nested = field.message_type
        if nested is None or nested.full_name in TEXT_TYPES | WRAPPER_TYPES:
            yield Parameter(".".join(name), here, field)
        elif not field.is_repeated and len(here) < _QUERY_DEPTH and not _opaque(nested):
            yield from _leaves(nested, here, name, taken)


def _is_object(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.is_repeated and not _opaque(field.message_type)


def _opaque(message: Descriptor) -> bool:
    return message.file.package in ("google.protobuf", "google.api") or message.full_name == HTTP_BODY


def _from_text(parameter: Parameter, text: str) -> Any:
    field = parameter.field
    if field.message_type is not None and field.message_type.full_name in WRAPPER_TYPES:
        field = field.message_type.fields_by_name["value"]
    if field.cpp_type != FieldDescriptor.CPPTYPE_BOOL:
        # proto-JSON takes numbers, enum names, times and bytes as strings.
        return text
    try:
        return _BOOLEANS[text]
    except KeyError:
        raise invalid(parameter.name, "must be true or false") from None


def _put(tree: dict[str, Any], message: Descriptor, path: Sequence[str], value: Any) -> None:
    """Set a value at a path of proto names, in a tree whose keys may be in either spelling."""
    field = message.fields_by_name[path[0]]
    key = field.json_name if field.json_name in tree else field.name
    if len(path) > 1 and field.message_type is not None:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):
            raise invalid(field.json_name, "must be a JSON object")
        _put(inner, field.message_type, path[1:], value)
    elif tree.setdefault(key, value) != value:
        raise invalid(field.json_name, "differs from the one in the path; leave it out of the body")


def _append(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree.setdefault(path[-1], []).append(value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _malformed(what: str, **metadata: int) -> Problem:
    return Problem(
        400,
        "MALFORMED_JSON",
        f"the body is not JSON: {what}",
        metadata={name: str(value) for name, value in metadata.items()},
    )
