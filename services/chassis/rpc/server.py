"""The gRPC server of an api process."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, Protocol, Self, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from services.chassis.clock import Clock, SystemClock
from services.chassis.logs import get_logger
from services.chassis.principal import PrincipalVerifier
from services.chassis.readiness import Need, Readiness
from services.chassis.rpc.admission import Admission, Pool, on_pool
from services.chassis.rpc.handlers import MethodHandler, behavior_of, recorded, with_behavior
from services.chassis.rpc.health import LIVENESS, OPEN, Health, Status
from services.chassis.rpc.pipeline import MESSAGE_BYTES, Pipeline
from services.chassis.rpc.status import METADATA_BYTES
from services.chassis.telemetry import Telemetry

DRAIN_SECONDS = 18.0
"""
How long a stopping server waits for running calls. With telemetry's 5 seconds the process ends within 25.
"""

QUIET_SECONDS = 0.25
"""How long no call has come when a stopping server believes that its callers have heard of it."""

NOTICE_SECONDS = 5.0
"""How long it takes calls at most when it has told that it closes; some callers do not listen."""

_log = get_logger("services.chassis.rpc")
S = TypeVar("S")


class ServerSettings(Protocol):
    """What a server needs of the settings; every `ServiceSettings` has it."""

    @property
    def grpc_address(self) -> str: ...
    @property
    def principal_public_key(self) -> str: ...
    @property
    def tenant_check(self) -> bool: ...
    @property
    def lame_duck_seconds(self) -> float: ...
    @property
    def connection_age_seconds(self) -> float: ...


class Server:
    """
    A server with everything that no service may forget: health, reflection, principal, access, validation,
    deadlines, limits, error mapping, traces, metrics and a graceful end.

    Example:
        server = Server(settings, telemetry, needs={"database": database.check})
        server.add(add_RolloutServiceServicer_to_server, servicer, DESCRIPTOR.services_by_name["RolloutService"])
        sys.exit(server.serve())

    """

    def __init__(
        self,
        settings: ServerSettings,
        telemetry: Telemetry,
        *,
        needs: Mapping[str, Need] | None = None,
        threads: int = 16,
        calls: int = 64,
        streams: int = 64,
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            settings: where to listen, whose principals to accept, and whether to check what enterprise they name.
            telemetry: shut down by `serve`.
            needs: what must be there for the server to be ready, as the database; asked about twice a second.
            threads: how many unary calls run at once.
            calls: how many unary calls run or wait; more are refused with RESOURCE_EXHAUSTED `OVERLOADED`.
            streams: how many streams run at once; more are refused. Each has a thread of its own.
            clock: for tests.

        """
        self._settings = settings
        self._telemetry = telemetry
        self._readiness = Readiness(needs or {}, self._tell)
        self._calls = Pool("calls", threads, calls)
        self._streams = Pool("streams", streams, streams)
        self._own = Pool("own", 4, 1_000)
        self._watchers = Pool("watchers", 64, 64)
        self._health = Health()
        self._draining = threading.Event()
        self._pipeline = Pipeline(
            verifier=PrincipalVerifier(settings.principal_public_key),
            tracer=telemetry.tracer,
            clock=clock or SystemClock(),
            draining=self._draining.is_set,
            tenant_check=settings.tenant_check,
        )
        self._services: dict[str, dict[str, MethodHandler]] = {}
        self._pools = {"/grpc.health.v1.Health/Watch": self._watchers}
        self._admission = Admission(self._pools, self._own)
        self._server: grpc.Server | None = None
        self.port = 0
        """The port that the server listens on, once it has started."""

    def add(self, register: Callable[[S, Any], None], servicer: S, service: ServiceDescriptor) -> Self:
        """
        Offer a service.

        Args:
            register: the generated `add_…Servicer_to_server`.
            servicer: raises ServiceError for what the caller is told; never uses `context.abort`.
            service: its descriptor; says who may call what, and what a right request is.

        Raises ValueError when a method does not say who may call it.

        """
        handlers = recorded(register, servicer)[service.full_name]
        wrapped: dict[str, MethodHandler] = {}
        for method in service.methods:
            handler = handlers[method.name]
            streams = handler.request_streaming or handler.response_streaming
            pool = self._streams if streams else self._calls
            self._pools[f"/{service.full_name}/{method.name}"] = pool
            wrapped[method.name] = with_behavior(handler, on_pool(pool, self._pipeline.wrap(method, handler)))
        self._services[service.full_name] = wrapped
        return self

    def start(self) -> None:
        """Listen and serve, from threads. Raises OSError when the address is taken."""
        server = grpc.server(
            self._calls,
            interceptors=[self._admission],
            options=[
                # Without this a second process takes half of the calls of the port, and nobody notices.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.max_metadata_size", METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", METADATA_BYTES),
                # Channels ping every 20 s, also when idle, to find dead connections.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                *self._connection_age(),
            ],
        )
        names = [*self._services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        reflecting = reflection.ReflectionServicer(names)
        own = {
            **self._on_own_threads(health_pb2_grpc.add_HealthServicer_to_server, self._health),
            **self._on_own_threads(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflecting),
        }
        for name, handlers in {**self._services, **own}.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
            server.add_registered_method_handlers(name, handlers)
        address = self._settings.grpc_address
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is another process there?") from error
        self._health.set([LIVENESS, OPEN], Status.SERVING)
        self._tell(False)
        server.start()
        self._readiness.start()
        self._telemetry.probes.ready_when(self._readiness.reason)
        self._server = server
        _log.info("server.started", port=self.port, services=list(self._services))

    def stop(self, grace: float = DRAIN_SECONDS) -> bool:
        """
        Tell that the server closes, take no more calls, and wait for those that run, for `grace`
        seconds.

        False when some still ran then; they have been cancelled, but a handler that does not look goes on.
        """
        if self._server is None:
            return True
        end = time.monotonic() + grace
        self._readiness.stop()
        self._health.set([OPEN], Status.NOT_SERVING)
        self._draining.set()
        self._be_left(min(time.monotonic() + NOTICE_SECONDS, end))
        self._health.close()
        rest = max(0.0, end - time.monotonic())
        self._server.stop(rest).wait(rest + 0.5)
        # gRPC forgets a call whose caller has gone; its handler may still run.
        pools = (self._calls, self._streams, self._own, self._watchers)
        drained = all(pool.wait_idle(max(0.1, end - time.monotonic())) for pool in pools)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        _log.info("server.stopped", drained=drained)
        return drained

    def serve(self) -> int:
        """
        Start, wait for SIGTERM or SIGINT, drain, send the last telemetry. Returns the process's exit code, 0.

        When a handler does not end in time the process ends here and now with 1: Python would wait for its
        thread.
        """
        signals: SimpleQueue[int] = SimpleQueue()  # unlike an Event, its put() is safe in a signal handler
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: signals.put(received))
        self.start()
        _log.info("server.stopping", signal=signal.Signals(signals.get()).name)
        drained = self.stop()
        self._telemetry.shutdown()
        if not drained:
            sys.stdout.flush()
            os._exit(1)
        return 0

    def _tell(self, ready: bool) -> None:  # noqa: FBT001 -- as `Readiness` calls it
        """Readiness, as the health service tells it: for the name "" and those of all services alike."""
        self._health.set(["", *self._services], Status.SERVING if ready else Status.NOT_SERVING)

    def _connection_age(self) -> list[tuple[str, int]]:
        seconds = self._settings.connection_age_seconds
        # Running calls finish on the old connection.
        return [("grpc.max_connection_age_ms", int(seconds * 1000))] if seconds else []

    def _be_left(self, latest: float) -> None:
        """
        Give callers the time to hear that the server closes, and serve those who come meanwhile.

        Calls that arrive once gRPC stops are lost with CANCELLED, and nobody could say whether they ran.
        """
        earliest = time.monotonic() + self._settings.lame_duck_seconds
        while (now := time.monotonic()) < latest and (
            now < earliest or now - self._admission.last_call < QUIET_SECONDS
        ):
            threading.Event().wait(min(QUIET_SECONDS / 4, latest - now))

    def _on_own_threads(
        self, register: Callable[[S, Any], None], servicer: S
    ) -> dict[str, dict[str, MethodHandler]]:
        """The handlers of one of the server's own services. Who watches must not keep health from answering."""
        return {
            service: {
                name: with_behavior(
                    handler,
                    on_pool(
                        self._watchers if handler.response_streaming else self._own, behavior_of(handler)
                    ),
                )
                for name, handler in handlers.items()
            }
            for service, handlers in recorded(register, servicer).items()
        }
