"""
How much a server takes on at once.

Unary calls, streams and the server's own services (health, reflection, refusals) run on pools of their own,
so that none starves another. A call that finds its pool full is refused at once, with the advice when to come
back: a queue would make everybody late.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn, ParamSpec, TypeVar

import grpc

from services.chassis.errors import Kind, ServiceError
from services.chassis.rpc import instruments
from services.chassis.rpc.handlers import Behavior, MethodHandler
from services.chassis.rpc.status import abort_with

P = ParamSpec("P")
T = TypeVar("T")


class Pool(ThreadPoolExecutor):
    """
    Threads that know how many calls they have, running and waiting.

    gRPC submits each call once, for its whole life, so counting here is exact whatever becomes of the call.
    """

    def __init__(self, name: str, threads: int, limit: int) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=f"rpc-{name}")
        self._limit = limit
        self._count = 0
        self._changed = threading.Condition()

    @property
    def full(self) -> bool:
        """Whether one more call would be too many."""
        return self._count >= self._limit

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._changed:
            self._count += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def wait_idle(self, timeout: float) -> bool:
        """Wait until there is no call left; False when there still is one after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, timeout)

    def _done(self, _future: Future[Any]) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()


def on_pool(pool: Pool, behavior: Behavior) -> Behavior:
    """`behavior`, to be run by the threads of `pool` instead of the server's."""

    def run(*args: Any) -> Any:
        return behavior(*args)

    # gRPC reads it from the behaviour; it has been "experimental" since 2019, and tests here hold on to it.
    run.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return run


class Admission(grpc.ServerInterceptor):
    """Refuses calls whose pool is full. Runs in gRPC's one dispatching thread, before a call gets its own."""

    def __init__(self, pools: dict[str, Pool], refusals: Pool) -> None:
        """`pools` by full method name (`/package.Service/Method`); other methods are always taken."""
        self._pools = pools
        self.last_call = 0.0
        """When the last call came, by time.monotonic()."""
        # Takes a stream of requests, so that a refusal does not wait for the request that it will not read.
        self._refusal: MethodHandler = grpc.stream_unary_rpc_method_handler(on_pool(refusals, self._refuse))

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], MethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MethodHandler | None:
        pool = self._pools.get(handler_call_details.method)
        if pool is not None:
            self.last_call = time.monotonic()
        if pool is None or not pool.full:
            return continuation(handler_call_details)
        instruments.refused.add(1, {"rpc.method": handler_call_details.method.lstrip("/")})
        return self._refusal

    @staticmethod
    def _refuse(_requests: Any, context: grpc.ServicerContext) -> NoReturn:
        error = ServiceError(
            Kind.RESOURCE_EXHAUSTED,
            "OVERLOADED",
            "the server has all the calls that it can take; come back later",
        )
        abort_with(error, context)
