"""What goes wrong, as RFC 9457 problem details. Two tables say which HTTP status each error has."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import grpc
from opentelemetry import trace
from starlette.responses import Response

from services.chassis.errors import FieldViolation, Kind, ServiceError
from services.chassis.rpc.status import error_from_rpc

PROBLEM_TYPE = "urn:numerator:problem:"
"""Begins a problem's `type`; the reason in kebab case follows. docs/errors.md lists the reasons."""

# A state that forbids a call is a conflict (409): the request itself is well formed.
STATUS_OF_KIND: Mapping[Kind, int] = {
    Kind.INVALID_ARGUMENT: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.PERMISSION_DENIED: 403,
    Kind.NOT_FOUND: 404,
    Kind.ALREADY_EXISTS: 409,
    Kind.FAILED_PRECONDITION: 409,
    Kind.ABORTED: 409,
    Kind.RESOURCE_EXHAUSTED: 429,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
    Kind.DEADLINE_EXCEEDED: 504,
}
# Reasons for which HTTP has a more exact status than their kind's.
STATUS_OF_REASON: Mapping[str, int] = {
    "ETAG_MISMATCH": 412,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "REQUEST_RUNNING": 409,
    "MESSAGE_TOO_LARGE": 413,
    "UNIMPLEMENTED": 501,
}
# Where gRPC itself spoke, and no service: our words, because its own name addresses and internals.
_BARE: Mapping[str, str] = {
    "CANCELLED": "the {service} service went away during the call; try again",
    "UNAVAILABLE": "the {service} service cannot be reached; try again",
    "DEADLINE_EXCEEDED": "the {service} service did not answer in time; a write may still have taken effect",
    "RESOURCE_EXHAUSTED": "the {service} service has no room for this call now; try again",
    "MESSAGE_TOO_LARGE": "the message is larger than the {service} service takes; ask for less at a time",
    "UNIMPLEMENTED": "the {service} service that runs here does not know this method yet",
}
_INTERNAL = "something went wrong on our side; it is logged under the trace id"
_OF_A_LINE = re.compile(r"line \d+: ")


class Problem(Exception):  # noqa: N818 -- RFC 9457 calls it so
    """
    An answer other than success.

    Attributes:
        status: the HTTP status.
        reason: UPPER_SNAKE and stable; clients branch on it.
        detail: for developers: what was wrong and how to do it right.
        violations: the wrong fields, by their paths in the JSON or by the parameter's name.
        metadata: the values that `detail` mentions.
        retry_after: when another try may succeed.
        headers: further headers of the answer.
        extensions: further members of the document.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})

    def document(self, instance: str) -> dict[str, Any]:
        """The problem document; `instance` is the path that was asked for."""
        document: dict[str, Any] = {
            "type": PROBLEM_TYPE + self.reason.lower().replace("_", "-"),
            "title": self.reason.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "reason": self.reason,
            **self.extensions,
        }
        if self.metadata:
            document["metadata"] = self.metadata
        if self.violations:
            document["violations"] = [
                {"field": each.field, "description": each.description, "reason": each.reason}
                for each in self.violations
            ]
        if self.retry_after is not None:
            document["retryAfter"] = whole_seconds(self.retry_after)
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            document["traceId"] = trace.format_trace_id(span.trace_id)
        return document


def problem_headers(problem: Problem) -> dict[str, str]:
    """The headers of the answer for `problem`, in whatever form its body is."""
    headers = dict(problem.headers)
    if problem.retry_after is not None:
        headers["retry-after"] = str(whole_seconds(problem.retry_after))
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("www-authenticate", 'Bearer realm="numerator"')
    return headers


def problem_response(problem: Problem, instance: str) -> Response:
    """The answer for `problem`."""
    return Response(
        json.dumps(problem.document(instance), ensure_ascii=False),
        status_code=problem.status,
        headers=problem_headers(problem),
        media_type="application/problem+json",
    )


def invalid(field: str, description: str, reason: str = "INVALID") -> Problem:
    """400 for one wrong field or parameter, named as the client wrote it."""
    return Problem(
        400,
        "INVALID_ARGUMENT",
        f"{field}: {description}",
        violations=[FieldViolation(field, description, reason)],
        metadata={"fields": field},
    )


def internal() -> Problem:
    """500: unforeseen. Says nothing but where to look."""
    return Problem(500, "INTERNAL", _INTERNAL)


def from_rpc(error: grpc.RpcError, service: str) -> Problem:
    """The problem for a failed call: what the service said, or our own words where only gRPC spoke."""
    told = error_from_rpc(error)
    if told.reason in _BARE:
        told = ServiceError(
            told.kind,
            told.reason,
            _BARE[told.reason].format(service=service),
            metadata={"service": service},
            retry_after=told.retry_after,
        )
    return from_service_error(told)


def from_service_error(error: ServiceError) -> Problem:
    """The problem that a service's error is for a client. What is INTERNAL stays inside."""
    status = STATUS_OF_REASON.get(error.reason, STATUS_OF_KIND[error.kind])
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal()
    return Problem(
        status,
        error.reason,
        error.message,
        violations=[
            FieldViolation(_as_written(each), each.description, each.reason) for each in error.violations
        ],
        metadata=error.metadata,
        retry_after=error.retry_after,
    )


def _as_written(violation: FieldViolation) -> str:
    """The field as the client wrote it: what is wrong in a line of a text, as a plan, has the text's own names."""
    return violation.field if _OF_A_LINE.match(violation.description) else json_path(violation.field)


def json_path(field: str) -> str:
    """A path of proto names as the JSON has it: `variants[2].link_url` becomes `variants[2].linkUrl`."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), field)


def whole_seconds(delay: timedelta) -> int:
    """A delay for `Retry-After`: rounded up, so that nobody comes back too early."""
    return max(1, math.ceil(delay.total_seconds()))
