"""
No value of any field is answered with INTERNAL: too long, too large, unknown, of another kind, or a page token made by hand.

Each request is right but for one value. The calls go straight to the services, so that what the gateway would refuse is seen too.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from deploy.local.programs import SERVICES
from services.chassis.paging import encode_token
from services.chassis.principal import Principal, PrincipalSigner
from tests.contract.calls import Caller, callers_of, methods
from tests.contract.cross_tenant import ITEMS, for_tenants, principals_of, right_request
from tests.contract.tenants import Tenant, everybody_admitted, make_tenant
from tests.world import World

_DEPTH = 5

_TEXTS = ("\0", "x" * 5_000, "'; drop table x; --\\", "9" * 40, "☃/☃", "-", "enterprises/x")
_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: ((1 << 32) - 1,),
    FieldDescriptor.CPPTYPE_UINT64: ((1 << 64) - 1,),
}
_FRACTIONS = (math.nan, math.inf, -1e308)
_ODD: Mapping[int, Sequence[Any]] = {
    **_WHOLE,
    FieldDescriptor.CPPTYPE_FLOAT: (math.nan, math.inf),
    FieldDescriptor.CPPTYPE_DOUBLE: _FRACTIONS,
    FieldDescriptor.CPPTYPE_BOOL: (True,),
    FieldDescriptor.CPPTYPE_ENUM: (0, -1, 99),
    FieldDescriptor.CPPTYPE_STRING: _TEXTS,
}
_BYTES = (b"\xff\0", b"x" * 100_000)
_MAPS = ({"": ""}, {"☃" * 100: "\0"})
_MESSAGES: Mapping[str, Sequence[Any]] = {
    "google.protobuf.Timestamp": (
        Timestamp(seconds=-62_135_596_800),
        Timestamp(seconds=253_402_300_799, nanos=999_999_999),
        Timestamp(seconds=1 << 62),
    ),
    "google.protobuf.Duration": (
        Duration(seconds=-1),
        Duration(seconds=315_576_000_000),
        Duration(seconds=1, nanos=-1),
    ),
}
_KEYS: Sequence[Sequence[Any]] = (
    ["x"],
    [-1],
    [1 << 62],
    [None],
    ["\0"],
    ["x", "y"],
    ["0001-01-01T00:00:00+00:00", "☃"],
    [1 << 62, 1 << 62, 1 << 62],
    [1, "x", "y"],
)
"""What tokens of pages are made of by hand."""


@dataclass
class Result:
    """What came of it: how many calls of how many methods, and those that were answered with INTERNAL."""

    methods: int = 0
    calls: int = 0
    internal: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.calls:,} calls of {self.methods} methods: {len(self.internal)} internal errors"


def measure(world: World) -> Result:
    """Put odd values into every field of every method of accounts, and of those that enterprises may call of all services."""
    with everybody_admitted(world):
        tenant = make_tenant(world, "TOPIC")
    signer = PrincipalSigner(world.platform.keys.gateway.read_text())
    result = Result()
    with closing(Caller({name: world.platform.url(name) for name in SERVICES}, signer)) as caller:
        for service, method in methods():
            kinds = callers_of(method)
            if service != "accounts" and not for_tenants(method) and "ANONYMOUS" not in kinds:
                continue
            result.methods += 1
            principal = _principal(tenant, kinds)
            right = right_request(method, tenant, world.platform.url("sandbox"))
            for spot, request in odd_requests(method, right):
                answer = caller.call(service, method, request, principal)
                if answer.code in ("INTERNAL", "UNKNOWN"):
                    result.internal.append(f"{method.name}, {spot}: {answer.text}")
        result.calls = caller.calls
    return result


def _principal(tenant: Tenant, kinds: set[str]) -> Principal:
    """Somebody of these kinds who may do everything."""
    member, client = principals_of(tenant)
    for kind, principal in (
        ("MEMBER", member),
        ("CLIENT", client),
        ("OPERATOR", Principal("OPERATOR", "clients/operator")),
        ("GATEWAY", Principal("GATEWAY", "gateway")),
    ):
        if kind in kinds:
            return principal
    return Principal("ANONYMOUS", "anonymous")


def odd_requests(method: MethodDescriptor, right: Message) -> Iterator[tuple[str, Message]]:
    """The right request with one odd value, and which."""
    for path in _paths(method.input_type, ()):
        last = path[-1]
        values = (
            [encode_token(key, query=right) for key in _KEYS] if last.name == "page_token" else _values(last)
        )
        for value in values:
            request = type(right)()
            request.CopyFrom(right)
            _put(request, path, value)
            yield f"{'.'.join(each.name for each in path)} = {str(value)[:60]!r}", request


def _paths(message: Descriptor, path: tuple[FieldDescriptor, ...]) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The ways to all fields that have values."""
    for each in message.fields:
        inner = each.message_type
        here = (*path, each)
        if inner is None or inner.full_name in _MESSAGES or inner.GetOptions().map_entry:
            yield here
        elif len(here) < _DEPTH and not inner.full_name.startswith("google."):
            yield from _paths(inner, here)


def _values(of: FieldDescriptor) -> Sequence[Any]:
    if of.message_type is None:
        return _ODD[of.cpp_type] if of.type != FieldDescriptor.TYPE_BYTES else (b"\xff\0", b"x" * 100_000)
    if of.message_type.GetOptions().map_entry:
        return (
            ({"": ""}, {"☃" * 100: "\0"})
            if of.message_type.fields_by_name["value"].message_type is None
            else ()
        )
    return _MESSAGES[of.message_type.full_name]


def _put(request: Any, path: Sequence[FieldDescriptor], value: Any) -> None:
    message = request
    for step in path[:-1]:
        message = getattr(message, step.name)
        if step.is_repeated:
            if not message:
                added = message.add()
                json_format.ParseDict(ITEMS.get(added.DESCRIPTOR.full_name, {}), added)
            message = message[0]
    last = path[-1]
    place = getattr(message, last.name)
    if last.message_type is not None and last.message_type.GetOptions().map_entry:
        place.clear()
        place.update(value)
    elif last.message_type is not None:
        (place.add() if last.is_repeated else place).CopyFrom(value)
    elif last.is_repeated:
        place[:] = [value]
    else:
        setattr(message, last.name, value)
