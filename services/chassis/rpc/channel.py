"""
Channels to our servers: deadlines, careful retries, trace and principal on every call.

A channel whose server is away, or tells that it closes, waits for it, within the call's deadline, before it sends anything; so a
restart costs time and no call. A call that was sent is repeated only if the answer is UNAVAILABLE and the
method is declared safe to repeat (`idempotency_level` in the proto), and a budget keeps the repetitions of
all calls under a tenth.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.chassis.deadline import current_deadline
from services.chassis.principal import METADATA_KEY
from services.chassis.rpc import instruments
from services.chassis.rpc.access import DEFAULT_DEADLINE_SECONDS, deadline_of, full_name
from services.chassis.rpc.health import OPEN
from services.chassis.rpc.pipeline import MESSAGE_BYTES, REQUEST_ID_KEY
from services.chassis.rpc.status import METADATA_BYTES

HOP_SECONDS = 0.05
"""What a call leaves of its caller's own time, to tell of a failure."""

_RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# Each failure takes one token, each success gives a tenth; below half of the tokens nothing is repeated.
_THROTTLING = {"maxTokens": 10, "tokenRatio": 0.1}
_HEALTH = "/grpc.health.v1.Health/"
_PROPAGATOR = TraceContextTextMapPropagator()
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
    }
)  # fmt: skip


def channel(
    address: str,
    *,
    services: Iterable[ServiceDescriptor] = (),
    principal_token: Callable[[], str] | None = None,
    timeout: float = DEFAULT_DEADLINE_SECONDS,
) -> grpc.Channel:
    """
    A synchronous channel.

    Args:
        address: host:port. Of a host with several addresses all are used in turn.
        services: what is called over it; their methods' deadlines and their being safe to repeat are read
            here.
        principal_token: gives the signed principal of the present caller, for each call.
        timeout: the deadline, in seconds, of a call that has none from its caller, its method or the work it
            is part of.

    """
    services = list(services)
    caller = _Caller(_deadlines(services), principal_token, timeout)
    return grpc.intercept_channel(
        grpc.insecure_channel(address, options=_options(services)), _Interceptor(caller)
    )


def aio_channel(
    address: str,
    *,
    services: Iterable[ServiceDescriptor] = (),
    principal_token: Callable[[], str] | None = None,
    timeout: float = DEFAULT_DEADLINE_SECONDS,
) -> grpc.aio.Channel:
    """As `channel`, for asyncio. One event loop per process: gRPC does not serve several well."""
    services = list(services)
    caller = _Caller(_deadlines(services), principal_token, timeout)
    return grpc.aio.insecure_channel(
        address,
        options=_options(services),
        interceptors=[
            _AioUnaryUnary(caller),
            _AioUnaryStream(caller),
            _AioStreamUnary(caller),
            _AioStreamStream(caller),
        ],
    )


def service_config(services: Iterable[ServiceDescriptor]) -> str:
    """GRPC's service config, as JSON: wait for the server; repeat what may be repeated, within the budget."""
    repeatable = [
        {"service": method.containing_service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if _may_repeat(method)
    ]
    everything: dict[str, Any] = {"name": [{}], "waitForReady": True}
    idempotent: dict[str, Any] = {"name": repeatable, "waitForReady": True, "retryPolicy": _RETRY}
    return json.dumps(
        {
            "methodConfig": [everything, *([idempotent] if repeatable else [])],
            "retryThrottling": _THROTTLING,
            # Of the policies, pick_first does not look at health.
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": OPEN},
        }
    )


def _may_repeat(method: MethodDescriptor) -> bool:
    level = method.GetOptions().idempotency_level
    # A stream of requests cannot be repeated: what was sent is gone.
    return level != MethodOptions.IDEMPOTENCY_UNKNOWN and not method.client_streaming


def _deadlines(services: Iterable[ServiceDescriptor]) -> dict[str, float]:
    return {full_name(method): deadline_of(method) for service in services for method in service.methods}


def _options(services: Iterable[ServiceDescriptor]) -> list[tuple[str, Any]]:
    return [
        ("grpc.service_config", service_config(services)),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        # Where a name has several addresses, calls go round them. One that closes or is lost makes the channel ask for
        #     the name's addresses again, so that a server's successor is found while the server still takes calls.
        ("grpc.dns_min_time_between_resolutions_ms", 500),
        # A server that comes back is found within a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # A connection that is dead without a word is found within 25 seconds.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


class _Details(NamedTuple):
    """What a call is made with; gRPC reads these names."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None = None


@dataclass(frozen=True, slots=True)
class _Sent:
    """A call on its way."""

    method: str
    span: trace.Span
    began: float

    def end(self, code: grpc.StatusCode) -> None:
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": self.method,
            "rpc.response.status_code": code.name,
        }
        self.span.set_attribute("rpc.response.status_code", code.name)
        if code in _FAULTS:
            attributes["error.type"] = code.name
            self.span.set_attribute("error.type", code.name)
            self.span.set_status(trace.StatusCode.ERROR)
        # With the span, which is not the current one here: the measure's exemplar names it.
        context = trace.set_span_in_context(self.span)
        instruments.client_duration.record(time.monotonic() - self.began, attributes, context)
        self.span.end()


class _Caller:
    """What all interceptors of a channel do: complete a call's details, begin its span."""

    def __init__(
        self, deadlines: Mapping[str, float], principal_token: Callable[[], str] | None, timeout: float
    ) -> None:
        self._deadlines = deadlines
        self._principal_token = principal_token
        self._timeout = timeout
        self._tracer = trace.get_tracer("numerator")

    def prepare(
        self, method: str, timeout: float | None, metadata: Iterable[tuple[str, Any]]
    ) -> tuple[_Sent, float, list[tuple[str, Any]]]:
        """
        The call's measure, its deadline in seconds, and its whole metadata.

        Raises ServiceError DEADLINE_EXCEEDED when the work that the call is a part of has no time left.
        """
        seconds = self._deadlines.get(method, self._timeout) if timeout is None else timeout
        work = current_deadline()
        if work is not None:
            work.check()
            seconds = min(seconds, max(work.remaining() - HOP_SECONDS, 0.0))
        span = self._tracer.start_span(
            method, kind=trace.SpanKind.CLIENT, attributes={"rpc.system.name": "grpc", "rpc.method": method}
        )
        sent = dict(metadata)
        _PROPAGATOR.inject(sent, context=trace.set_span_in_context(span))
        if METADATA_KEY not in sent and self._principal_token is not None:
            sent[METADATA_KEY] = self._principal_token()
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if request_id:
            sent.setdefault(REQUEST_ID_KEY, request_id)
        return _Sent(method, span, time.monotonic()), seconds, list(sent.items())


class _Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """The synchronous form."""

    def __init__(self, caller: _Caller) -> None:
        self._caller = caller

    def _intercept(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        sent, timeout, metadata = self._caller.prepare(
            details.method.lstrip("/"), details.timeout, details.metadata or ()
        )
        call = continuation(
            _Details(
                details.method,
                timeout,
                metadata,
                details.credentials,
                details.wait_for_ready,
                details.compression,
            ),
            request,
        )
        call.add_done_callback(lambda done: sent.end(done.code()))
        return call

    intercept_unary_unary = _intercept  # type: ignore[assignment]
    intercept_unary_stream = _intercept  # type: ignore[assignment]
    intercept_stream_unary = _intercept  # type: ignore[assignment]
    intercept_stream_stream = _intercept  # type: ignore[assignment]


class _AioForm:
    """The asyncio form; gRPC wants one class for each kind of method."""

    def __init__(self, caller: _Caller) -> None:
        self._caller = caller
        self._ending: set[asyncio.Task[None]] = set()

    async def intercept(
        self, continuation: Callable[..., Any], details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        if method.startswith(_HEALTH):
            # Asked several times a second: nobody wants to read of each.
            return await continuation(details, request)
        sent, timeout, metadata = self._caller.prepare(
            method.lstrip("/"), details.timeout, details.metadata or ()
        )
        call = await continuation(
            grpc.aio.ClientCallDetails(
                details.method,
                timeout,
                grpc.aio.Metadata(*metadata),
                details.credentials,
                details.wait_for_ready,
            ),
            request,
        )
        call.add_done_callback(lambda done: self._end(sent, done))
        return call

    def _end(self, sent: _Sent, call: Any) -> None:
        async def end() -> None:
            sent.end(await call.code())

        task = asyncio.ensure_future(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _AioUnaryUnary(_AioForm, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _AioForm.intercept  # type: ignore[assignment]


class _AioUnaryStream(_AioForm, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _AioForm.intercept  # type: ignore[assignment]


class _AioStreamUnary(_AioForm, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary = _AioForm.intercept  # type: ignore[assignment]


class _AioStreamStream(_AioForm, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream = _AioForm.intercept  # type: ignore[assignment]
