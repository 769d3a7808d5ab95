"""
Which access tokens are refused before they expire: pulled from the accounts service every two seconds.

While that is away, what is known stays in force, and tokens are short-lived in any case. Nothing is kept on disk: a gateway that
starts without the accounts service is not ready, and refuses what it has heard of.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from google.protobuf.timestamp_pb2 import Timestamp
from numerator.accounts.v1 import apps_pb2 as pb

from gateway.errors import Problem
from services.chassis.clock import Clock
from services.chassis.logs import get_logger

PULL_SECONDS = 2.0
_MOST_KNOWN = 100_000
"""More than accounts tells of in an hour; then those go first that would be forgotten first."""

_log = get_logger("gateway.revocations")
ListRevocations = Callable[[pb.ListRevocationsRequest], Awaitable[pb.ListRevocationsResponse]]


class Revocations:
    """
    What is revoked, as far as this gateway knows. For one event loop.

    Attributes:
        last: the number of the newest revocation; it changes with every news.
    """

    def __init__(self, clock: Clock) -> None:
        self.last = 0
        self._clock = clock
        self._known: dict[str, tuple[float, float]] = {}
        self._began = time.monotonic()
        self._confirmed: float | None = None

    def __len__(self) -> int:
        return len(self._known)

    @property
    def informed(self) -> bool:
        """Whether the accounts service has ever been heard."""
        return self._confirmed is not None

    def age(self) -> float:
        """Seconds since the list was last known to be the newest, or since the start."""
        return time.monotonic() - (self._began if self._confirmed is None else self._confirmed)

    def revoked(self, subject: str, read_time: float) -> bool:
        """
        Whether a token is refused.

        Args:
            subject: the name of its bearer, or the id of its session.
            read_time: when its bearer's identity was read, in seconds since 1970.
        """
        known = self._known.get(subject)
        return known is not None and read_time <= known[0]

    def take(self, answer: pb.ListRevocationsResponse) -> None:
        """Take what the accounts service answered."""
        for each in answer.revocations:
            self._known[each.subject] = _seconds(each.revoke_time), _seconds(each.expire_time)
            self.last = each.sequence
        if not answer.more:
            self._confirmed = time.monotonic()

    def forget(self) -> None:
        """Forget what concerns expired tokens only; and what is too much."""
        now = self._clock.now().timestamp()
        self._known = {subject: known for subject, known in self._known.items() if known[1] > now}
        if len(self._known) > _MOST_KNOWN:
            _log.error("revocations.too_many", known=len(self._known), most=_MOST_KNOWN)
            by_expiry = sorted(self._known.items(), key=lambda item: item[1][1])
            self._known = dict(by_expiry[-_MOST_KNOWN:])


class RevocationPull:
    """Asks the accounts service for what is newly revoked."""

    def __init__(self, revocations: Revocations, list_revocations: ListRevocations) -> None:
        self._revocations = revocations
        self._list_revocations = list_revocations
        self._failing = False

    async def run(self) -> None:
        """Ask at once, and then every two seconds, until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(PULL_SECONDS)

    async def once(self) -> None:
        """Ask once. A failure is logged when it begins; what is known stays."""
        more = True
        try:
            while more:
                answer = await self._list_revocations(pb.ListRevocationsRequest(since=self._revocations.last))
                self._revocations.take(answer)
                more = answer.more
        except Problem as problem:
            if not self._failing:
                _log.warning("revocations.not_pulled", reason=problem.reason)
            self._failing = True
        else:
            self._failing = False
            self._revocations.forget()


def _seconds(moment: Timestamp) -> float:
    return moment.ToMicroseconds() / 1_000_000
