"""The present call, for handlers: who asks, for which tenant, and how much time is left."""

from contextvars import ContextVar
from dataclasses import dataclass

from services.chassis.database.scope import Scope
from services.chassis.deadline import Deadline
from services.chassis.principal import Principal
from services.chassis.reach import EVERYTHING, Reach


@dataclass(frozen=True, slots=True)
class Call:
    """
    The present call.

    Attributes:
        principal: the verified caller.
        request_id: names the call in logs; the caller's `x-request-id`, or a new one.
        method: the full name, as `numerator.accounts.v1.AccountsService/GetAccount`.
        scope: whose rows the call may see. The enterprise that the request names in `parent`, `name` or its
            path; else
            the caller's; else all of them for operators and the gateway, and none for anybody else.
        reach: which accounts of that enterprise the call may see or change; all of them, unless the method is
            `per_group`.

    """

    principal: Principal
    request_id: str
    method: str
    scope: Scope
    _deadline: Deadline
    reach: Reach = EVERYTHING

    def remaining(self) -> float:
        """
        Seconds left for the answer; 0.0 when the caller has gone.

        A server stream ends by returning when this is 0.0, which also happens when the server stops; its
        caller comes back. A stream that waits must therefore wait in pieces of a second at most.
        """
        return self._deadline.remaining()

    def check(self) -> None:
        """Raise DEADLINE_EXCEEDED when nobody waits. Call it before an effect outside the database."""
        self._deadline.check()


_CURRENT: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The present call, within a handler and the generators that it returns. Raises LookupError elsewhere."""
    return _CURRENT.get()


def set_call(call: Call) -> None:
    """Set the present call for the rest of the context; each call has a context of its own."""
    _CURRENT.set(call)
