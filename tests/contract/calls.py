"""Calls of any method of any service, by its descriptor alone; and which of a request's fields name a tenant's resources."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.api import annotations_pb2, resource_pb2
from google.protobuf import json_format, message_factory, wrappers_pb2  # noqa: F401 -- downloads tell their length
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # noqa: F401 -- so that the details of a status can be told as JSON
from google.rpc.status_pb2 import Status
from numerator.options.v1 import options_pb2

from deploy.local.programs import SERVICES
from gateway.catalogue import stub_files
from services.chassis.clock import SystemClock
from services.chassis.principal import METADATA_KEY, Principal, PrincipalSigner
from services.chassis.rpc.paths import path_fields

UNARY_SECONDS = 15.0
STREAM_SECONDS = 1.5
"""A server stream is read for so long, or up to its first message."""

_DETAILS = "grpc-status-details-bin"
_DEPTH = 2  # how often a message type may contain itself before we stop to look deeper


def _service_of(file: FileDescriptor) -> str:
    return str(file.package).split(".")[1]


FILES = [file for file in stub_files() if _service_of(file) in SERVICES]

PATTERNS = {
    resource.type: resource.pattern[0]
    for file in FILES
    for message in file.message_types_by_name.values()
    if (resource := message.GetOptions().Extensions[resource_pb2.resource]).type
}
"""The name patterns of all resources, by type."""

_SINGULARS = {pattern.rpartition("{")[2].rstrip("}"): pattern for pattern in PATTERNS.values()}


@dataclass(frozen=True)
class IdField:
    """
    A field that names a resource.

    Attributes:
        path: the fields that lead to it; `[]` after those that are lists.
        shape: of the names in it, with a star for each id.
    """

    path: tuple[str, ...]
    shape: str

    def __str__(self) -> str:
        return ".".join(self.path)

    def put(self, request: Message, name: str, items: Mapping[str, Any]) -> None:
        """Put a name there; where a list on the way is empty, an item from `items` (by type) comes first."""
        message: Any = request
        for step in self.path[:-1]:
            message = getattr(message, step.removesuffix("[]"))
            if step.endswith("[]"):
                if not message:
                    added = message.add()
                    json_format.ParseDict(items.get(added.DESCRIPTOR.full_name, {}), added)
                message = message[0]
        last = self.path[-1]
        if last.endswith("[]"):
            values = getattr(message, last.removesuffix("[]"))
            del values[:]
            values.append(name)
        else:
            setattr(message, last, name)


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    """All methods of all services, each with its service's name."""
    for file in FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                yield _service_of(file), method


def callers_of(method: MethodDescriptor) -> set[str]:
    """The kinds of caller that are let in."""
    access = method.GetOptions().Extensions[options_pb2.access]
    return {options_pb2.Caller.Name(caller) for caller in access.callers}


def id_fields(method: MethodDescriptor) -> list[IdField]:
    """The fields of a method's request that name resources, nested and repeated ones too."""
    shapes = {path: shapes[0] for path, shapes in path_fields(method).items()}
    return list(_walk(method.input_type, (), (), shapes))


def _walk(
    message: Descriptor, path: tuple[str, ...], within: tuple[str, ...], shapes: Mapping[str, str]
) -> Iterator[IdField]:
    own = message.GetOptions().Extensions[resource_pb2.resource].pattern
    for field in message.fields:
        here = (*path, field.name + ("[]" if field.is_repeated else ""))
        if field.type == FieldDescriptor.TYPE_STRING:
            shape = _shape(field, shapes.get(".".join(here)), own[0] if own else "")
            if shape:
                yield IdField(here, shape)
        elif field.message_type is not None and not field.message_type.full_name.startswith("google."):
            inner = field.message_type
            if inner.GetOptions().map_entry:
                value = inner.fields_by_name["value"]
                assert value.message_type is None, f"{field.full_name}: maps of messages are not looked into"
            elif within.count(inner.full_name) < _DEPTH:
                yield from _walk(inner, here, (*within, inner.full_name), shapes)


def _shape(field: FieldDescriptor, in_path: str | None, own: str) -> str:
    if in_path:
        return in_path
    reference = field.GetOptions().Extensions[resource_pb2.resource_reference]
    if reference.type:
        return _starred(PATTERNS[reference.type])
    if reference.child_type:
        return _starred(PATTERNS[reference.child_type].rsplit("/", 2)[0])
    if field.name == "name" and own:
        return _starred(own)
    return _starred(_SINGULARS.get(field.name.removesuffix("s") if field.is_repeated else field.name, ""))


def _starred(pattern: str) -> str:
    return re.sub(r"\{[^}]+\}", "*", pattern)


@dataclass(frozen=True)
class Answer:
    """
    What a call came to.

    Attributes:
        code: as `NOT_FOUND`.
        text: the status with all its details, or the replies, as JSON.
    """

    code: str
    text: str

    def without(self, words: Sequence[str]) -> "Answer":
        """The same, with a star for each of these words, and for whatever is made anew each time."""
        text = self.text
        for word in sorted(words, key=len, reverse=True):
            text = text.replace(word, "*")
        return Answer(self.code, _MADE_ANEW.sub("~", text))


_MADE_ANEW = re.compile(
    r"\b[0-9a-hjkmnp-tv-z]{26}\b|\d{4}-\d\d-\d\dT[0-9:.]+Z|"
    r'(?<="secret": ")[^"]*|(?<="state": ")[\w-]{40,}|(?<="nextPageToken": ")[^"]*|(?<="authorizationUrl": ")[^"]*'
)


class Caller:
    """Calls methods as any principal, straight at the services' api processes."""

    def __init__(self, addresses: Mapping[str, str], signer: PrincipalSigner) -> None:
        self._channels = {name: grpc.insecure_channel(address) for name, address in addresses.items()}
        self._signer = signer
        self.calls = 0

    def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            channel.close()

    def call(self, service: str, method: MethodDescriptor, request: Message, principal: Principal) -> Answer:
        """One call; made again while the service is away."""
        deadline = time.monotonic() + 2 * UNARY_SECONDS
        while True:
            self.calls += 1
            answer = self._call(service, method, request, principal)
            if answer.code != "UNAVAILABLE" or time.monotonic() > deadline:
                return answer
            time.sleep(0.2)  # between two tries; the deadline ends them

    def _call(self, service: str, method: MethodDescriptor, request: Message, principal: Principal) -> Answer:
        channel = self._channels[service]
        forms = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
        }
        call = forms[method.client_streaming, method.server_streaming](
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        options: dict[str, Any] = {
            "timeout": STREAM_SECONDS if method.server_streaming else UNARY_SECONDS,
            "metadata": ((METADATA_KEY, self._signer.sign(principal, SystemClock().now())),),
        }
        try:
            reply = call(iter([request]) if method.client_streaming else request, **options)
            if method.server_streaming:
                first = next(iter(reply), None)
                reply.cancel()
                return Answer("OK", _json(first) if first is not None else "")
            return Answer("OK", _json(reply))
        except grpc.RpcError as error:
            return Answer(error.code().name, _status(error))


def http_route(method: MethodDescriptor) -> bool:
    """Whether the gateway serves the method."""
    return bool(method.GetOptions().HasExtension(annotations_pb2.http))


def _status(error: Any) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            return _json(Status.FromString(value))
    return str(error.details())


def _json(message: Message) -> str:
    return json.dumps(json_format.MessageToDict(message), ensure_ascii=False, sort_keys=True)
