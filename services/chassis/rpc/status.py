"""ServiceError to `google.rpc.Status` and back: the one place that knows how errors travel."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NoReturn, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details_pb
from google.rpc.status_pb2 import Status

from services.chassis.errors import FieldViolation, Kind, ServiceError

DOMAIN = "numerator"
DETAILS_KEY = "grpc-status-details-bin"
DEFAULT_RETRY = timedelta(seconds=1)
"""The wait that is advised with UNAVAILABLE and RESOURCE_EXHAUSTED when the error names none."""

MAX_VIOLATIONS = 50
"""Only so many are told: the status travels in headers, and those are small (`METADATA_BYTES`)."""

METADATA_BYTES = 64 * 1024
"""What servers and channels take as headers and trailers of one call."""

_MAX_TEXT = 1_000
# On the wire details grow by a third and the message up to ninefold; together they must fit METADATA_BYTES.
_VIOLATION_BYTES = 20 * 1024

# Codes that gRPC itself makes, without our details, and what they mean to a caller.
_BY_CODE = {kind.value: kind for kind in Kind}
_TOO_LARGE = ("larger than max", "message too large")


def status_of(error: ServiceError) -> Status:
    """
    The status that tells a caller of `error`.

    Always has ErrorInfo (`reason`, domain "numerator", metadata) and, where it helps, BadRequest,
    PreconditionFailure, QuotaFailure, RetryInfo or ResourceInfo.
    """
    status = Status(code=error.kind.value, message=_short(error.message))
    for detail in _details(error):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def abort_with(error: ServiceError, context: grpc.ServicerContext) -> NoReturn:
    """End a call with the status of `error`. Raises, as gRPC wants it; for a call's outermost code only."""
    status = status_of(error)
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(grpc_code(status.code), status.message)


def _details(error: ServiceError) -> Iterable[Message]:
    metadata = {key: _short(value) for key, value in error.metadata.items()}
    yield details_pb.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    name = metadata.get("name", "")
    description = _short(error.message)
    if error.violations:
        yield _bad_request(error.violations)
    if error.kind is Kind.FAILED_PRECONDITION:
        violation = details_pb.PreconditionFailure.Violation(
            type=error.reason, subject=name, description=description
        )
        yield details_pb.PreconditionFailure(violations=[violation])
    if error.kind is Kind.RESOURCE_EXHAUSTED:
        quota = details_pb.QuotaFailure.Violation(subject=name, description=description)
        yield details_pb.QuotaFailure(violations=[quota])
    if error.kind is Kind.NOT_FOUND and name:
        # Names alternate collection and id: the last collection is the resource's kind.
        kind = name.split("/")[-2] if "/" in name else ""
        yield details_pb.ResourceInfo(resource_type=kind, resource_name=name, description=description)
    wait = error.retry_after
    if wait is None and error.kind in {Kind.UNAVAILABLE, Kind.RESOURCE_EXHAUSTED}:
        wait = DEFAULT_RETRY
    if wait is not None:
        delay = Duration()
        delay.FromTimedelta(wait)
        yield details_pb.RetryInfo(retry_delay=delay)


def _bad_request(violations: Sequence[FieldViolation]) -> details_pb.BadRequest:
    bad = details_pb.BadRequest()
    room = _VIOLATION_BYTES
    for each in violations[:MAX_VIOLATIONS]:
        violation = details_pb.BadRequest.FieldViolation(
            field=_short(each.field), description=_short(each.description), reason=each.reason
        )
        room -= violation.ByteSize()
        if room < 0:
            break
        bad.field_violations.append(violation)
    return bad


def error_from_rpc(error: grpc.RpcError) -> ServiceError:
    """
    The ServiceError that a failed call tells of, be it a synchronous or an asyncio one.

    When the failure was not told by one of our servers (a broken connection, a deadline, a message that is
    too large), the reason is the name of the code, or `MESSAGE_TOO_LARGE`.
    """
    call = cast("grpc.Call", error)
    code = call.code()
    text = call.details() or ""
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                return _error_of(Status.FromString(cast("bytes", value)))
            except DecodeError:
                break
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(mark in text for mark in _TOO_LARGE):
        return ServiceError(Kind.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", text)
    kind = _BY_CODE.get(code.value[0], Kind.INTERNAL)
    return ServiceError(
        kind, code.name, text, retry_after=DEFAULT_RETRY if kind is Kind.UNAVAILABLE else None
    )


def _error_of(status: Status) -> ServiceError:
    info, bad, retry = details_pb.ErrorInfo(), details_pb.BadRequest(), details_pb.RetryInfo()
    for packed in status.details:
        for known in (info, bad, retry):
            packed.Unpack(known)
    return ServiceError(
        _BY_CODE.get(status.code, Kind.INTERNAL),
        info.reason or grpc_code(status.code).name,
        status.message,
        metadata=dict(info.metadata),
        violations=[
            FieldViolation(each.field, each.description, each.reason) for each in bad.field_violations
        ],
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )


def grpc_code(number: int) -> grpc.StatusCode:
    """The grpc code with this number; UNKNOWN for a number that is none."""
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
