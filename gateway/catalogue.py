"""What the services offer, read once at start from the generated descriptors."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import cast

import numerator
from google.api import annotations_pb2, field_behavior_pb2, http_pb2, httpbody_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from numerator.options.v1 import options_pb2

from gateway.paths import PathTemplate

HTTP_BODY = httpbody_pb2.HttpBody.DESCRIPTOR.full_name
DEFAULT_DEADLINE = 5
DEFAULT_BODY_BYTES = 1 << 20

# A stream's reader comes back with the last value of the first field that it saw, in the second one.
_RESUME_FIELDS = (("resume_token", "resume_token"), ("sequence", "after_sequence"), ("sequence", "after"))


class Shape(Enum):
    """How a method meets HTTP."""

    UNARY = "one request, one reply"
    EVENTS = "a server stream, shown as server-sent events"
    UPLOAD = "a client stream that takes the raw body in pieces"
    DOWNLOAD = "a server stream that gives the raw body in pieces"


@dataclass(frozen=True)
class Binding:
    """One HTTP route of a method. `body` and `response_body` are field names, `*` or "" as in `google.api.http`."""

    http_method: str
    path: PathTemplate
    body: str
    response_body: str


@dataclass(frozen=True)
class Method:
    """
    An RPC that has at least one HTTP route.

    Attributes:
        service: the service's short name, as `accounts`; the key of its address.
        rpc_path: `/numerator.accounts.v1.AccountsService/CreateClient`.
        access: who may call it, and its limits.
        writes: False when the proto says that it has no side effects.
        resume: the fields of reply and request by which a stream is resumed.
    """

    service: str
    descriptor: MethodDescriptor
    rpc_path: str
    request: type[Message]
    reply: type[Message]
    access: options_pb2.Access
    shape: Shape
    bindings: tuple[Binding, ...]
    writes: bool
    idempotent: bool
    resume: tuple[str, str] | None

    @property
    def name(self) -> str:
        """The full name, `numerator.accounts.v1.AccountsService.CreateClient`."""
        return self.descriptor.full_name

    @property
    def callers(self) -> frozenset[str]:
        """The kinds of caller that the method lets in, as `MEMBER`."""
        return frozenset(options_pb2.Caller.Name(each) for each in self.access.callers)

    @property
    def body_bytes(self) -> int:
        return self.access.body_bytes or DEFAULT_BODY_BYTES

    @property
    def takes(self) -> Descriptor:
        """The request's type."""
        return cast("Descriptor", self.request.DESCRIPTOR)

    @property
    def gives(self) -> Descriptor:
        """The reply's type."""
        return cast("Descriptor", self.reply.DESCRIPTOR)

    @property
    def request_id(self) -> FieldDescriptor | None:
        """The request's field for an idempotency key."""
        return self.takes.fields_by_name.get("request_id")

    @property
    def raw_reply(self) -> bool:
        """Whether the reply is sent as it is, with its own content type."""
        return bool(self.gives.full_name == HTTP_BODY)


def stub_files() -> list[FileDescriptor]:
    """
    The descriptors of all generated modules `numerator.<service>.v<n>.*_pb2`.

    Found as files: the stubs are namespace packages, without `__init__.py`, and pkgutil does not walk into those.
    """
    names = {
        ".".join(("numerator", *path.relative_to(root).with_suffix("").parts))
        for root in numerator.__path__
        for path in Path(root).glob("*/*/*_pb2.py")
    }
    return [importlib.import_module(name).DESCRIPTOR for name in sorted(names)]


def read_methods(files: Iterable[FileDescriptor]) -> list[Method]:
    """All methods in `files` that have an HTTP route. Raises ValueError for a rule that cannot be served."""
    return [
        method
        for file in files
        for service in file.services_by_name.values()
        for descriptor in service.methods
        if (method := _read(descriptor)) is not None
    ]


def behaviours(field: FieldDescriptor) -> frozenset[str]:
    """The field's behaviours, as `REQUIRED`."""
    values = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return frozenset(field_behavior_pb2.FieldBehavior.Name(each) for each in values)


def limits(field: FieldDescriptor) -> options_pb2.Limits:
    return field.GetOptions().Extensions[options_pb2.limits]


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    """The field at a dotted path of proto names. Raises ValueError when there is none."""
    head, _, rest = path.partition(".")
    field = message.fields_by_name.get(head)
    if field is None:
        raise ValueError(f"{message.full_name} has no field {path!r}")
    if not rest:
        return field
    if field.message_type is None:
        raise ValueError(f"{field.full_name} has no field {rest!r}")
    return field_at(field.message_type, rest)


def _read(descriptor: MethodDescriptor) -> Method | None:
    options = descriptor.GetOptions()
    rule = options.Extensions[annotations_pb2.http]
    if rule.WhichOneof("pattern") is None:
        return None
    bindings = tuple(_binding(descriptor, each) for each in (rule, *rule.additional_bindings))
    level = options.idempotency_level
    return Method(
        service=descriptor.containing_service.file.package.split(".")[1],
        descriptor=descriptor,
        rpc_path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        request=GetMessageClass(descriptor.input_type),
        reply=GetMessageClass(descriptor.output_type),
        access=options.Extensions[options_pb2.access],
        shape=_shape(descriptor, bindings),
        bindings=bindings,
        writes=level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
        idempotent=level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN,
        resume=_resume(descriptor),
    )


def _binding(descriptor: MethodDescriptor, rule: http_pb2.HttpRule) -> Binding:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise ValueError(f"{descriptor.full_name}: a binding without a path")
    if kind == "custom":
        http_method, path = rule.custom.kind.upper(), rule.custom.path
    else:
        http_method, path = kind.upper(), getattr(rule, kind)
    template = PathTemplate.parse(path)
    for variable in template.variables:
        field = field_at(descriptor.input_type, variable.field)
        if field.is_repeated or field.message_type is not None:
            raise ValueError(f"{descriptor.full_name}: {variable.field} of the path is no single value")
    if rule.body not in ("", "*"):
        field_at(descriptor.input_type, rule.body)
    if rule.response_body:
        field_at(descriptor.output_type, rule.response_body)
    return Binding(http_method, template, rule.body, rule.response_body)


def _shape(descriptor: MethodDescriptor, bindings: Iterable[Binding]) -> Shape:
    if not descriptor.client_streaming:
        if not descriptor.server_streaming:
            return Shape.UNARY
        return Shape.DOWNLOAD if descriptor.output_type.full_name == HTTP_BODY else Shape.EVENTS
    for binding in bindings:
        body = binding.body if binding.body not in ("", "*") else None
        message = field_at(descriptor.input_type, body).message_type if body else descriptor.input_type
        if descriptor.server_streaming or message is None or message.full_name != HTTP_BODY:
            raise ValueError(
                f"{descriptor.full_name}: only a client stream of google.api.HttpBody has a route"
            )
    return Shape.UPLOAD


def _resume(descriptor: MethodDescriptor) -> tuple[str, str] | None:
    if not descriptor.server_streaming:
        return None
    reply, request = descriptor.output_type.fields_by_name, descriptor.input_type.fields_by_name
    return next((pair for pair in _RESUME_FIELDS if pair[0] in reply and pair[1] in request), None)
