"""The OpenAPI 3.1 document, from the same descriptors as the routes: what it says is what is served."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from numerator.options.v1 import options_pb2

from gateway.catalogue import (
    DEFAULT_BODY_BYTES,
    HTTP_BODY,
    Binding,
    Method,
    Shape,
    behaviours,
    field_at,
    limits,
)
from gateway.openapi_own import OWN_PATHS, OWN_SCHEMAS
from gateway.paths import Variable
from gateway.transcoding import WRAPPER_TYPES, query_parameters
from services.chassis.rpc.access import DEFAULT_DEADLINE_SECONDS

Json = dict[str, Any]
MAX_LENGTH = 1000
"""The longest string and the most items where the proto says nothing else; see `numerator.options.v1.Limits`."""

_WELL_KNOWN: Mapping[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["3.5s"],
    },
    "google.protobuf.FieldMask": {"type": "string", "examples": ["displayName,state"]},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Any": {"type": "object"},
    HTTP_BODY: {"type": "string", "format": "binary"},
}
_SCALARS: Mapping[int, Json] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
}
_INT32 = {"type": "integer", "format": "int32"}
# proto-JSON writes 64-bit integers as strings, because JavaScript's numbers do not hold them; it reads both.
_INT64 = {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
_UINT64 = {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"}
_INTEGERS: Mapping[int, Json] = {
    FieldDescriptor.CPPTYPE_INT32: _INT32,
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: _INT64,
    FieldDescriptor.CPPTYPE_UINT64: _UINT64,
}

_PROBLEMS: Mapping[int, str] = {
    400: "The request is wrong; `violations` names the fields.",
    401: "No credentials where some are needed, or credentials that are not good.",
    403: "Not allowed, or not admitted to the edition (`NOT_ADMITTED`, with `admission`).",
    404: "It does not exist, or belongs to somebody else.",
    409: "The state of things forbids it, it exists already, or the same request is running.",
    412: "`etag` is stale: somebody else changed the resource.",
    413: "The body is larger than this route takes.",
    415: "The body has another content type or encoding than this route takes.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests; come back after `Retry-After` seconds.",
    431: "The request line and headers are too long.",
    500: "Something went wrong on our side.",
    501: "The service that runs does not know this method yet.",
    503: "A service, or the list of admissions, cannot be reached; come back after `Retry-After` seconds.",
    504: "A service did not answer in time; a write may still have taken effect.",
}
_COLLECTION = re.compile(r"(\w+)/\{(\w+)\}")
_RETRYABLE = frozenset({429, 503})


def build_openapi(
    methods: Iterable[Method], comments: Mapping[str, str], *, server: str, version: str
) -> Json:
    """
    The document for all routes.

    Args:
        methods: what is served.
        comments: from `read_comments`.
        server: the gateway's public URL.
        version: of the product.
    """
    methods = list(methods)
    builder = _Builder(comments, _names_within(method.takes for method in methods))
    singulars = _singulars(methods)
    paths: dict[str, Json] = {path: dict(item) for path, item in OWN_PATHS.items()}
    for method in methods:
        for number, binding in enumerate(method.bindings):
            path, parameters = _path(method, binding, comments, singulars)
            operation = builder.operation(method, binding, parameters, number)
            paths.setdefault(path, {})[binding.http_method.lower()] = operation
    scopes = sorted({method.access.scope for method in methods if method.access.scope})
    services = {method.descriptor.containing_service for method in methods}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Numerator",
            "version": version,
            "description": "The enterprise edition of a microblog network. Resource names, pages, idempotency keys and "
            "errors follow the same rules everywhere; errors are RFC 9457 problems whose `reason` is stable.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "tags": [
            {"name": "identity", "description": "Access tokens, and the state of the gateway."},
            {
                "name": "flags",
                "description": "Flags for OpenFeature's clients: the OpenFeature Remote Evaluation Protocol.",
            },
            *(
                {"name": _service(each.full_name), "description": comments.get(each.full_name, "")}
                for each in sorted(services, key=lambda each: each.full_name)
            ),
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted({**OWN_SCHEMAS, **builder.schemas}.items())),
            "responses": {
                _problem_name(status): _problem(status, text) for status, text in _PROBLEMS.items()
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A member's access token, from `POST /v1/sessions`.",
                },
                "oauth2": {
                    "type": "oauth2",
                    "description": "A partner app's access token.",
                    "flows": {
                        "clientCredentials": {
                            "tokenUrl": f"{server}/oauth2/token",
                            "scopes": {
                                scope: f"Needed for methods that ask for `{scope}`." for scope in scopes
                            },
                        }
                    },
                },
                "client": {"type": "http", "scheme": "basic", "description": "A client's id and secret."},
            },
        },
    }


class _Builder:
    """Collects the schemas that operations refer to."""

    def __init__(self, comments: Mapping[str, str], asked: Collection[str]) -> None:
        """`asked`: the messages that requests are made of."""
        self._comments = comments
        self._asked = asked
        self.schemas: dict[str, Json] = {}

    def operation(self, method: Method, binding: Binding, parameters: list[Json], number: int) -> Json:
        description = self._comments.get(method.name, "")
        operation: Json = {
            "operationId": f"{_service(method.name)}.{method.descriptor.name}"
            + (f".{number}" if number else ""),
            "tags": [_service(method.name)],
            "summary": description.partition("\n")[0].partition(". ")[0].rstrip("."),
            "description": self._description(method, description),
            "security": _security(method),
            "parameters": parameters + self._query(method, binding) + _headers(method),
            "responses": self._responses(method, binding),
        }
        if binding.body:
            operation["requestBody"] = self._body(method, binding)
        return operation

    def _description(self, method: Method, text: str) -> str:
        callers = ", ".join(sorted(method.callers))
        roles = [_role(value) for value in method.access.roles]
        parts = [text, f"For: {callers}."]
        if roles:
            parts.append(f"Members need one of the roles {', '.join(roles)}.")
        if method.access.own:
            parts.append("Members with the role LIMITED may, too.")
        if method.access.scope:
            parts.append(f"Clients need the scope `{method.access.scope}`.")
        if method.access.per_group:
            parts.append(
                "A role or scope that holds for some groups of accounts is enough for these accounts."
            )
        if method.access.feature:
            parts.append(f"The enterprise must be admitted to `{method.access.feature}`.")
        if method.shape is Shape.EVENTS:
            parts.append(
                "A stream of server-sent events. It ends after a while; come back with `Last-Event-ID`."
            )
        if method.body_bytes != DEFAULT_BODY_BYTES:
            parts.append(f"The body may have {method.body_bytes} bytes.")
        if method.shape is Shape.UNARY and method.access.deadline_seconds > DEFAULT_DEADLINE_SECONDS:
            parts.append(f"May take up to {method.access.deadline_seconds} seconds.")
        return "\n\n".join(part for part in parts if part)

    def _query(self, method: Method, binding: Binding) -> list[Json]:
        return [
            {
                "name": each.name,
                "in": "query",
                "description": self._about(each.field),
                "required": "REQUIRED" in behaviours(each.field) and len(each.path) == 1,
                "schema": self._field(each.field),
                **({"style": "form", "explode": True} if each.field.is_repeated else {}),
            }
            for each in query_parameters(method, binding)
        ]

    def _body(self, method: Method, binding: Binding) -> Json:
        if method.shape is Shape.UPLOAD:
            content = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
            return {"required": True, "content": content}
        message = method.takes
        if binding.body == "*":
            schema = self._object(message, without={each.field for each in binding.path.variables})
            schema["additionalProperties"] = False
            return {
                "required": bool(schema.get("required")),
                "content": {"application/json": {"schema": schema}},
            }
        field = field_at(message, binding.body)
        return {
            "description": self._comments.get(field.full_name, ""),
            "required": "REQUIRED" in behaviours(field),
            "content": {"application/json": {"schema": self._field(field)}},
        }

    def _responses(self, method: Method, binding: Binding) -> Json:
        statuses = set(_PROBLEMS)
        if not binding.body:
            statuses -= {413, 415}
        if method.request_id is None:
            statuses -= {422}
        if "etag" not in {field.name for each in _all(method.takes) for field in each.fields}:
            statuses -= {412}
        problems = {
            str(status): {"$ref": f"#/components/responses/{_problem_name(status)}"}
            for status in sorted(statuses)
        }
        return {"200": self._success(method, binding), **problems}

    def _success(self, method: Method, binding: Binding) -> Json:
        reply = method.gives
        description = (self._comments.get(reply.full_name) or "Done.").partition("\n\n")[0]
        if method.raw_reply:
            schema: Json = {"type": "string"}
            if method.shape is Shape.DOWNLOAD:
                schema["format"] = "binary"
            return {"description": "The content as it is.", "content": {"*/*": {"schema": schema}}}
        schema = self._message(reply)
        if binding.response_body:
            schema = self._field(field_at(reply, binding.response_body))
        if method.shape is Shape.EVENTS:
            content = {"schema": _event(reply.name, schema), "x-event-data": schema}
            return {"description": description, "content": {"text/event-stream": content}}
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    def _message(self, message: Descriptor) -> Json:
        """The schema of a message: a reference, or what proto-JSON makes of a well-known type."""
        known = _WELL_KNOWN.get(message.full_name)
        if known is not None:
            return dict(known)
        if message.full_name in WRAPPER_TYPES:
            return self._field(message.fields_by_name["value"])
        name = _schema_name(message)
        if name not in self.schemas:
            self.schemas[name] = {}  # Messages may hold themselves.
            self.schemas[name] = self._object(message)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, message: Descriptor, without: Iterable[str] = ()) -> Json:
        fields = [field for field in message.fields if field.name not in set(without)]
        properties = {field.json_name: self._property(field) for field in fields}
        required = [field.json_name for field in fields if "REQUIRED" in behaviours(field)]
        schema: Json = {
            "type": "object",
            "description": self._comments.get(message.full_name, ""),
            "properties": properties,
        }
        if required:
            schema["required"] = required
        if len(message.oneofs) == 1 and all(_alternatives(field) for field in fields):
            schema["maxProperties"] = 1
        return schema

    def _property(self, field: FieldDescriptor) -> Json:
        schema = self._field(field)
        marks = behaviours(field)
        if about := self._about(field):
            schema["description"] = about
        if "OUTPUT_ONLY" in marks:
            schema["readOnly"] = True
        if "INPUT_ONLY" in marks:
            schema["writeOnly"] = True
        return schema

    def _field(self, field: FieldDescriptor) -> Json:
        nested = field.message_type
        if nested is not None and nested.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._single(nested.fields_by_name["value"])}
        if not field.is_repeated:
            return self._single(field)
        most = limits(field).max_items or self._most(field)
        return {
            "type": "array",
            "items": self._single(field),
            **({"maxItems": most} if most else {}),
            **({"minItems": 1} if "REQUIRED" in behaviours(field) else {}),
        }

    def _single(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        bounds = limits(field)
        schema = dict(_SCALARS.get(field.type) or _INTEGERS[field.cpp_type])
        unset = _zero_is_unset(field)
        if field.type == FieldDescriptor.TYPE_STRING:
            required = "REQUIRED" in behaviours(field) and not field.is_repeated
            if required:
                schema["minLength"] = 1
            if most := bounds.max_length or self._most(field):
                schema["maxLength"] = most
            if bounds.pattern:
                may_be_empty = unset and not required
                schema["pattern"] = f"^(?:{bounds.pattern}){'?' if may_be_empty else ''}$"
        elif schema["type"] in ("integer", "number"):
            if field.name == "page_size":
                schema["minimum"] = 0
            if bounds.HasField("minimum"):
                schema["minimum"] = _plain(min(bounds.minimum, 0.0) if unset else bounds.minimum)
            if bounds.HasField("maximum"):
                schema["maximum"] = _plain(max(bounds.maximum, 0.0) if unset else bounds.maximum)
        return schema

    def _most(self, field: FieldDescriptor) -> int | None:
        """The limit of a field that says none. What only answers hold has none: nobody checks what we say."""
        owner = field.containing_type
        asked = owner is not None and owner.full_name in self._asked
        return MAX_LENGTH if asked and "OUTPUT_ONLY" not in behaviours(field) else None

    def _about(self, field: FieldDescriptor) -> str:
        """The field's comment, and what a schema cannot say of its limits."""
        about = [self._comments.get(field.full_name, "")]
        bounds = limits(field)
        if _zero_is_unset(field) and bounds.minimum > 0:
            about.append(f"0 is as good as leaving it out; otherwise at least {_plain(bounds.minimum)}.")
        if others := _alternatives(field):
            about.append(f"Not together with {', '.join(f'`{other.json_name}`' for other in others)}.")
        return "\n\n".join(each for each in about if each)

    def _enum(self, enum: EnumDescriptor) -> Json:
        name = _schema_name(enum)
        if name not in self.schemas:
            values = "\n".join(
                f"- `{each.name}`: {self._comments.get(f'{enum.full_name}.{each.name}', '')}".rstrip(": ")
                for each in enum.values
            )
            self.schemas[name] = {
                "type": "string",
                "description": f"{self._comments.get(enum.full_name, '')}\n\n{values}".strip(),
                "enum": [value.name for value in enum.values],
            }
        return {"$ref": f"#/components/schemas/{name}"}


def _singulars(methods: Iterable[Method]) -> dict[str, str]:
    """The name of one item of each collection, from the patterns of `google.api.resource`."""
    files = {method.takes.file.name: method.takes.file for method in methods}
    return {
        collection: item
        for file in files.values()
        for message in file.message_types_by_name.values()
        for pattern in message.GetOptions().Extensions[resource_pb2.resource].pattern
        for collection, item in _COLLECTION.findall(pattern)
    }


def _path(
    method: Method, binding: Binding, comments: Mapping[str, str], singulars: Mapping[str, str]
) -> tuple[str, list[Json]]:
    """The path as OpenAPI writes it, with one parameter for each `*`, and the parameters."""
    names: list[str] = []
    pieces: list[str] = []
    parameters: list[Json] = []
    for part in binding.path.parts:
        if isinstance(part, str):
            pieces.append(part)
            continue
        comment = comments.get(field_at(method.takes, part.field).full_name, "")
        for segment in part.pattern.split("/"):
            pieces.append("/" if pieces and not pieces[-1].endswith("/") else "")
            if "*" not in segment:
                pieces.append(segment)
                continue
            name = _parameter_name(part, pieces, singulars)
            while name in names:
                name += "_"
            names.append(name)
            pieces.append(f"{{{name}}}")
            parameters.append(
                {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "description": comment if part.pattern == "*" else f"The id of the {name}.",
                    "schema": {
                        "type": "string",
                        "maxLength": 128,
                        "pattern": "^[A-Za-z0-9._~-]+$",
                    },
                }
            )
    verb = f":{binding.path.verb}" if binding.path.verb else ""
    return "".join(pieces) + verb, parameters


def _parameter_name(variable: Variable, pieces: list[str], singulars: Mapping[str, str]) -> str:
    """What one item of the collection before a `*` is called; the variable's own name where there is none."""
    before = next((piece for piece in reversed(pieces) if piece.strip("/")), "").strip("/").rsplit("/", 1)[-1]
    if variable.pattern == "*":
        return variable.field
    return singulars.get(before, before.removesuffix("s"))


def _headers(method: Method) -> list[Json]:
    headers: list[Json] = []
    if method.request_id is not None:
        headers.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Makes the call safe to repeat: the same key and body give the same answer and one "
                "effect, for 24 hours. A UUID is best.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            }
        )
    if method.resume is not None:
        headers.append(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The `id` of the last event that was seen; the stream goes on after it.",
                "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
            }
        )
    return headers


def _event(name: str, schema: Json) -> Json:
    """One event of a stream: OpenAPI before 3.2 has no other way to say what a stream of them holds."""
    problem = {"$ref": "#/components/schemas/Problem"}
    return {
        "type": "object",
        "description": f"An event. Its `data` is a {name} in JSON; that of an `error`, which is the last one, a problem.",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": ["message", "error"]},
            "id": {"type": "string", "description": "Come back with it as `Last-Event-ID`."},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"anyOf": [schema, problem]},
            },
        },
    }


def _security(method: Method) -> list[Json]:
    ways: list[Json] = []
    if "ANONYMOUS" in method.callers:
        ways.append({})
    if "MEMBER" in method.callers:
        ways.append({"bearer": []})
    if method.callers & {"CLIENT", "OPERATOR"}:
        ways.append({"oauth2": [method.access.scope] if method.access.scope else []})
    return ways


def _problem(status: int, text: str) -> Json:
    response: Json = {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in _RETRYABLE:
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
        }
    return response


def _problem_name(status: int) -> str:
    return f"Problem{status}"


def _schema_name(thing: Descriptor | EnumDescriptor) -> str:
    """`publishing.Publication.Variant` for `numerator.publishing.v1.Publication.Variant`."""
    return re.sub(r"^numerator\.(\w+)\.v\d+\.", r"\1.", thing.full_name)


def _service(full_name: str) -> str:
    return full_name.split(".")[1]


def _role(value: int) -> str:
    return options_pb2.Role.Name(options_pb2.Role.ValueType(value))


def _zero_is_unset(field: FieldDescriptor) -> bool:
    """Whether the field's zero value cannot be told from its absence: then no limit applies to it."""
    return not field.is_repeated and not field.has_presence


def _alternatives(field: FieldDescriptor) -> list[FieldDescriptor]:
    """The fields that may not be given together with this one."""
    group = field.containing_oneof
    return [each for each in group.fields if each is not field] if group is not None else []


def _plain(number: float) -> float | int:
    return int(number) if number.is_integer() else number


def _all(message: Descriptor) -> Iterable[Descriptor]:
    """The message and those directly in its fields."""
    yield message
    yield from (field.message_type for field in message.fields if field.message_type is not None)


def _names_within(messages: Iterable[Descriptor]) -> set[str]:
    """The full names of the messages, and of all that they are made of."""
    found: set[str] = set()
    pending = list(messages)
    while pending:
        message = pending.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            pending += [field.message_type for field in message.fields if field.message_type is not None]
    return found
