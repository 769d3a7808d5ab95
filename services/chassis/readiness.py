"""Whether a process is ready: what it cannot work without is asked for again and again, and the answer kept."""

import threading
import time
from collections.abc import Callable, Mapping

from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger

CHECK_SECONDS = 0.4
"""The pause between two checks."""

PATIENCE_SECONDS = 1.0
"""How long a check may take. With the pauses: a change is told within 2 seconds."""

Need = Callable[[], bool | None]
"""
Something that the process cannot work without: says False, or raises ServiceError or OSError, when it is not there.
"""

_log = get_logger(__name__)


class Readiness:
    """
    Asks for what the process needs, from a thread for each need.

    Args:
        needs: by name, as `database`.
        tell: is called with every change, True for ready; the last call, by `stop`, says False.

    """

    def __init__(self, needs: Mapping[str, Need], tell: Callable[[bool], None] = lambda _ready: None) -> None:
        self._needs = dict(needs)
        self._tell = tell
        # When each need was last found there. A check that hangs or dies leaves its time to grow old.
        self._found: dict[str, float] = {}
        self._reason = "it starts"
        self._stopping = threading.Event()
        self._telling = threading.Lock()

    def reason(self) -> str:
        """Why the process is not ready, as it was last known; empty when it is. Waits for nothing."""
        return self._reason

    def start(self) -> None:
        """Begin to ask. Before that, the process is not ready."""
        for name, need in self._needs.items():
            threading.Thread(target=self._ask, args=(name, need), name=f"need-{name}", daemon=True).start()
        threading.Thread(target=self._judge, name="readiness", daemon=True).start()

    def stop(self) -> None:
        """Not ready from now on."""
        with self._telling:
            self._stopping.set()
            self._reason = "it stops"
            self._tell(False)

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
                self._change(missing)
            self._stopping.wait(CHECK_SECONDS / 4)

    def _change(self, missing: list[str]) -> None:
        with self._telling:
            if not self._stopping.is_set():
                self._reason = f"missing: {', '.join(missing)}" if missing else ""
                self._tell(not missing)
