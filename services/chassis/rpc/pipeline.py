"""
What happens to every call before and after its handler, in this order:

trace, time left, principal, access, tenant, validation; the handler; errors to status, log, duration.
"""

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.chassis.clock import Clock
from services.chassis.database.transaction import CALLER
from services.chassis.deadline import Deadline, set_deadline
from services.chassis.errors import Kind, ServiceError
from services.chassis.ids import new_id
from services.chassis.logs import get_logger
from services.chassis.principal import METADATA_KEY, Principal, PrincipalVerifier
from services.chassis.rpc import instruments
from services.chassis.rpc.access import AccessRule, deadline_of
from services.chassis.rpc.call import Call, set_call
from services.chassis.rpc.handlers import Behavior, MethodHandler, behavior_of
from services.chassis.rpc.status import abort_with
from services.chassis.rpc.validation import RequestValidator

REQUEST_ID_KEY = "x-request-id"
MESSAGE_BYTES = 4 * 1024 * 1024
"""The largest request or reply (gRPC's own default). Longer lists are paged, files are streamed in pieces."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# A client without a deadline shows as one in the far future.
_NO_DEADLINE_SECONDS = 1e9
# A stream ends by itself this long before its caller gives up, so that the caller sees an end and not an
# error.
_STREAM_MARGIN_SECONDS = 0.5
# The codes that are the server's fault, by OpenTelemetry's conventions; others do not mark the span.
_SERVER_FAULTS = frozenset({Kind.DEADLINE_EXCEEDED, Kind.INTERNAL, Kind.UNAVAILABLE})
_PROPAGATOR = TraceContextTextMapPropagator()
_log = get_logger("services.chassis.rpc")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """
    What the calls of one server share.

    Attributes:
        draining: whether the server stops; streams then end, so that their callers move on.
        tenant_check: False leaves it to row-level security alone to keep enterprises apart; for tests of just
            that.

    """

    verifier: PrincipalVerifier
    tracer: trace.Tracer
    clock: Clock
    draining: Callable[[], bool]
    tenant_check: bool

    def wrap(self, method: MethodDescriptor, handler: MethodHandler) -> Behavior:
        """
        The behaviour that serves `method`: the handler's, with everything around it.

        Raises ValueError when the method's contract does not say who may call it.
        """
        served = _Method(self, method, behavior_of(handler))
        if handler.response_streaming:
            return served.stream
        return served.unary


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A call that has begun: what is needed to end it."""

    metadata: Mapping[str, str] = field(repr=False)  # has the principal's token
    span: trace.Span
    began: float


class _Method:
    """One method, compiled at the server's start."""

    def __init__(self, pipeline: Pipeline, method: MethodDescriptor, handler: Behavior) -> None:
        self._pipeline = pipeline
        self._access = AccessRule.of(method)
        self._name = self._access.method
        self._validator = RequestValidator(method)
        self._handler = handler
        self._seconds = deadline_of(method)
        self._takes_stream = bool(method.client_streaming)

    def unary(self, request: Any, context: grpc.ServicerContext) -> Any:
        arrival = self._begin(context)
        try:
            reply = self._answer(request, context, arrival)
        except Exception as error:  # noqa: BLE001 -- the one boundary: what is not told here would leak
            self._fail(error, context, arrival)
        self._end("OK", arrival)
        return reply

    def stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        arrival = self._begin(context)
        try:
            yield from self._answers(request, context, arrival)
        except GeneratorExit:
            self._end("CANCELLED", arrival)
            raise
        except Exception as error:  # noqa: BLE001 -- as in `unary`
            self._fail(error, context, arrival)
        self._end("OK", arrival)

    def _answer(self, request: Any, context: grpc.ServicerContext, arrival: _Arrival) -> Any:
        rest = context.time_remaining()
        seconds = rest if rest is not None and rest < _NO_DEADLINE_SECONDS else self._seconds
        deadline = Deadline(arrival.began + seconds, lambda: not context.is_active())
        request = self._admit(request, arrival, deadline)
        try:
            return _fitting(self._handler(request, context))
        except ServiceError as error:
            lost = error.before_commit and error.reason == "DATABASE_UNAVAILABLE"
            if not lost or self._takes_stream or not deadline.remaining():
                raise
        # The connection was lost before anything was committed: a fresh one usually works.
        return _fitting(self._handler(request, context))

    def _answers(self, request: Any, context: grpc.ServicerContext, arrival: _Arrival) -> Iterator[Any]:
        rest = context.time_remaining()
        seconds = min(self._seconds, self._seconds if rest is None else rest - _STREAM_MARGIN_SECONDS)
        draining = self._pipeline.draining
        deadline = Deadline(arrival.began + seconds, lambda: draining() or not context.is_active())
        try:
            for reply in self._handler(self._admit(request, arrival, deadline), context):
                yield _fitting(reply)
                if not deadline.remaining():
                    return
        except ServiceError as error:
            # Its age, or the server's end, met the stream between two replies: that is its normal end.
            if error.kind is not Kind.DEADLINE_EXCEEDED or deadline.remaining():
                raise

    def _admit(self, request: Any, arrival: _Arrival, deadline: Deadline) -> Any:
        """All that must be right before the handler runs. Returns the request that the handler is to see."""
        request_id = _request_id(arrival.metadata)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        principal = self._principal(arrival.metadata)
        self._access.admit(principal)
        first = next(request, None) if self._takes_stream else request
        scope = self._access.tenant(principal, first, check=self._pipeline.tenant_check)
        if first is not None:
            self._validator.check(first)
        enterprise = scope.enterprise or principal.enterprise
        if enterprise:
            structlog.contextvars.bind_contextvars(enterprise=enterprise)
            arrival.span.set_attribute("numerator.enterprise", enterprise)
        arrival.span.set_attribute("numerator.request_id", request_id)
        arrival.span.set_attribute("numerator.principal.kind", principal.kind)
        # The caller may have gone while the call waited for its thread, or its time be over since.
        deadline.check()
        CALLER.set(principal.subject)
        set_deadline(deadline)
        set_call(Call(principal, request_id, self._name, scope, deadline, self._access.reach(principal)))
        if not self._takes_stream:
            return request
        return itertools.chain([] if first is None else [first], map(self._checked, request))

    def _checked(self, message: Message) -> Message:
        self._validator.check(message, first=False)
        return message

    def _principal(self, metadata: Mapping[str, str]) -> Principal:
        token = metadata.get(METADATA_KEY)
        if not token:
            raise ServiceError(
                Kind.UNAUTHENTICATED,
                "PRINCIPAL_MISSING",
                f"send a principal that the gateway has signed, as {METADATA_KEY}",
            )
        return self._pipeline.verifier.verify(token, self._pipeline.clock.now())

    def _begin(self, context: grpc.ServicerContext) -> _Arrival:
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        span = self._pipeline.tracer.start_span(
            self._name,
            context=_PROPAGATOR.extract(metadata, context=Context()),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": self._name},
        )
        # Never detached: gRPC gives each call a context of its own, which ends with it.
        attach(trace.set_span_in_context(span))
        return _Arrival(metadata, span, time.monotonic())

    def _fail(self, error: Exception, context: grpc.ServicerContext, arrival: _Arrival) -> NoReturn:
        if isinstance(error, grpc.RpcError):
            # The caller broke off its stream of requests; gRPC raised this and knows what to do with it.
            self._end("CANCELLED", arrival)
            raise error
        if isinstance(error, ServiceError):
            told = error
            level = logging.WARNING if error.kind in _SERVER_FAULTS else logging.DEBUG
            _log.log(level, "call.refused", method=self._name, code=error.kind.name, reason=error.reason)
        else:
            _log.error("call.failed", method=self._name, exc_info=error)
            told = ServiceError(
                Kind.INTERNAL, "INTERNAL", "an unforeseen error; it was logged with this call's trace"
            )
        self._end(told.kind.name, arrival, told)
        abort_with(told, context)

    def _end(self, code: str, arrival: _Arrival, error: ServiceError | None = None) -> None:
        attributes = {"rpc.system.name": "grpc", "rpc.method": self._name, "rpc.response.status_code": code}
        arrival.span.set_attribute("rpc.response.status_code", code)
        if error is not None:
            arrival.span.set_attribute("numerator.reason", error.reason)
            if error.kind in _SERVER_FAULTS:
                attributes["error.type"] = code
                arrival.span.set_attribute("error.type", code)
                arrival.span.set_status(trace.StatusCode.ERROR)
        instruments.server_duration.record(time.monotonic() - arrival.began, attributes)
        arrival.span.end()


def _request_id(metadata: Mapping[str, str]) -> str:
    # Anybody may choose one, so it is only taken when it can stand in a log.
    chosen = metadata.get(REQUEST_ID_KEY, "")
    return chosen if _REQUEST_ID.fullmatch(chosen) else new_id()


def _fitting(reply: Any) -> Any:
    size = reply.ByteSize()
    if size > MESSAGE_BYTES:
        raise ServiceError(
            Kind.RESOURCE_EXHAUSTED,
            "MESSAGE_TOO_LARGE",
            f"the reply has {size} bytes, the most is {MESSAGE_BYTES}: ask for a smaller page",
            metadata={"bytes": str(size), "limit": str(MESSAGE_BYTES)},
        )
    return reply
