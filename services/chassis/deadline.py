"""
How much time the present piece of work has left.

The edge (a call, later an event) sets a deadline; whatever begins a costly or lasting step asks here first.
Knows no transport, so that the database may ask too.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from services.chassis.errors import Kind, ServiceError


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Deadline:
    """
    A moment after which nobody waits for the result.

    Attributes:
        at: the moment, on `time.monotonic`'s scale.
        cancelled: whether the caller has gone already.

    """

    at: float
    cancelled: Callable[[], bool] = _never

    def remaining(self) -> float:
        """Seconds left; 0.0 when the time is over or the caller has gone."""
        return 0.0 if self.cancelled() else max(0.0, self.at - time.monotonic())

    def check(self) -> None:
        """Raise DEADLINE_EXCEEDED when no time is left. Call it before an effect."""
        if not self.remaining():
            raise ServiceError(
                Kind.DEADLINE_EXCEEDED,
                "DEADLINE_EXCEEDED",
                "the caller's time was over before the work began; nothing was changed",
                before_commit=True,
            )


_CURRENT: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def current_deadline() -> Deadline | None:
    """The present work's deadline; None when nobody waits for it."""
    return _CURRENT.get()


@contextmanager
def work_until(deadline: Deadline) -> Iterator[None]:
    """Set the deadline of the work in the block."""
    token = _CURRENT.set(deadline)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def set_deadline(deadline: Deadline) -> None:
    """Set the deadline for the rest of the present context, as a call's, which has a context of its own."""
    _CURRENT.set(deadline)
