"""Whether a server is ready, as `grpc.health.v1` tells it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.chassis.rpc.health import Health, Status

LIVENESS = "liveness"
"""Asked for this name, the server answers SERVING as long as it lives, whatever it depends on."""

OPEN = "open"
"""
Asked for this name, the server answers SERVING as long as it takes calls, ready or not.

Our channels watch it: when it turns, they hold their calls back until the server is there again. They do not watch
readiness: a call to a server without its database is answered UNAVAILABLE at once, which is better than a wait.
"""

CHECK_SECONDS = 0.4
"""The pause between two checks."""

PATIENCE_SECONDS = 1.0
"""How long a check may take. With the pauses: a change is told within 2 seconds."""

Need = Callable[[], bool | None]
"""
Something that the server cannot work without: says False, or raises ServiceError or OSError, when it is not there.
"""

_log = get_logger("services.chassis.rpc")


class Readiness:
    """
    Asks again and again for what the server needs, and tells the health service.

    The name "" and the names of all services share one answer; `liveness` and `open` have their own.
    """

    def __init__(self, health: Health, services: Sequence[str], needs: Mapping[str, Need]) -> None:
        self._health = health
        self._services = ("", *services)
        self._needs = dict(needs)
        # When each need was last found there. A check that hangs or dies leaves its time to grow old.
        self._found: dict[str, float] = {}
        self._stopping = threading.Event()
        self._telling = threading.Lock()
        health.set([LIVENESS, OPEN], Status.SERVING)
        health.set(self._services, Status.NOT_SERVING)

    def start(self) -> None:
        """Begin to ask. Before that, the server is not ready."""
        for name, need in self._needs.items():
            threading.Thread(target=self._ask, args=(name, need), name=f"need-{name}", daemon=True).start()
        threading.Thread(target=self._judge, name="readiness", daemon=True).start()

    def stop(self) -> None:
        """NOT_SERVING from now on, liveness apart."""
        with self._telling:
            self._stopping.set()
            self._health.set([OPEN, *self._services], Status.NOT_SERVING)

    def _ask(self, name: str, need: Need) -> None:
        while not self._stopping.is_set():
            try:
                there = need() is not False
            except (ServiceError, OSError):
                there = False
            if there:
                self._found[name] = time.monotonic()
            else:
                self._found.pop(name, None)
            self._stopping.wait(CHECK_SECONDS)

    def _judge(self) -> None:
        told: list[str] | None = None
        while not self._stopping.is_set():
            oldest = time.monotonic() - CHECK_SECONDS - PATIENCE_SECONDS
            missing = [name for name in self._needs if self._found.get(name, 0.0) < oldest]
            if missing != told:
                told = missing
                _log.info("readiness.changed", ready=not missing, missing=missing)
                self._tell(Status.NOT_SERVING if missing else Status.SERVING)
            self._stopping.wait(CHECK_SECONDS / 4)

    def _tell(self, status: int) -> None:
        with self._telling:
            if not self._stopping.is_set():
                self._health.set(self._services, status)
