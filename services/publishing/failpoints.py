"""Places at which a test may kill, stop or fail a process. Armed by a setting, and never in production."""

import os
import signal
from pathlib import Path

POINTS = frozenset(
    {
        "deliveries_materialised",
        "sending_committed",
        "before_request",
        "reply_read",
        "before_outcome_commit",
        "after_outcome_commit",
    }
)
"""
In the order in which a delivery meets them. `before_request` is on an open connection, just before the first
byte; the commit points are inside and after the transaction that records the outcome.
"""

ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class FailPoints:
    """
    One armed point, or none.

    Args:
        armed: `point:action` or `point:action:file`; empty arms nothing. `kill` and `stop` send the signal to
            the process itself. With a file it happens once: the file is made just before.

    Raises:
        ValueError: the point or the action is unknown.

    """

    def __init__(self, armed: str = "") -> None:
        self._point, _, rest = armed.partition(":")
        action, _, self._once = rest.partition(":")
        if self._point and (self._point not in POINTS or action not in ACTIONS):
            raise ValueError(
                f"must be point:action[:file], with one of {sorted(POINTS)} and {sorted(ACTIONS)}"
            )
        self._signal = ACTIONS.get(action)

    def reach(self, point: str) -> None:
        """Say that execution is at `point`; if it is the armed one, its action happens."""
        if point == self._point and self._signal is not None and self._first():
            os.kill(os.getpid(), self._signal)

    def _first(self) -> bool:
        if not self._once:
            return True
        try:
            Path(self._once).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
