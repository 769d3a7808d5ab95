"""
`grpc.health.v1`.

Ours instead of grpcio's: there, a status that changes while a watcher leaves stops the whole server for good (the
one who tells waits, under the lock, for the thread that waits for the lock).
"""

import threading
from collections.abc import Iterable, Iterator

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

LIVENESS = "liveness"
"""Asked for this name, the server answers SERVING as long as it lives, whatever it depends on."""

OPEN = "open"
"""
Asked for this name, the server answers SERVING as long as it takes calls, ready or not.

Our channels watch it: when it turns, they hold their calls back until the server is there again. They do not watch
readiness: a call to a server without its database is answered UNAVAILABLE at once, which is better than a wait.
"""

_LOOK_SECONDS = 1.0
"""How often a waiting watch looks whether its watcher is still there."""

Status = HealthCheckResponse.ServingStatus


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the library has no types
    """Answers for the names that it was told of. Each watcher takes a thread."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._closed = False
        self._changed = threading.Condition()

    def set(self, names: Iterable[str], status: int) -> None:
        """The status of these names from now on; watchers hear of it at once."""
        with self._changed:
            self._statuses.update(dict.fromkeys(names, status))
            self._changed.notify_all()

    def close(self) -> None:
        """End all watches, or the server would wait for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return HealthCheckResponse(status=status)

    def Watch(
        self, request: HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[HealthCheckResponse]:
        told: int | None = None
        while context.is_active() and not self._closed:
            status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield HealthCheckResponse(status=status)
            self._wait_for_another(request.service, status)

    def _wait_for_another(self, name: str, status: int) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._statuses.get(name, Status.SERVICE_UNKNOWN) != status,
                _LOOK_SECONDS,
            )
