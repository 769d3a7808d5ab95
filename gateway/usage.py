"""
What enterprises ask of this gateway, and how well it is answered: counted by enterprise and interval, reported to analytics.

The reports are what guardrails judge a rollout by. A report that was not answered is sent again, the same, until analytics
has it, which counts it once. While analytics is away the counts grow here, up to a bound; then the oldest are dropped and
counted as such. A gateway that is killed takes with it what it has not reported: at most one interval, while analytics
answers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from numerator.analytics.v1 import analytics_pb2 as pb
from starlette.types import Scope

from gateway import metrics
from gateway.catalogue import Shape
from gateway.errors import Problem
from services.chassis.clock import Clock
from services.chassis.ids import new_id
from services.chassis.logs import get_logger
from services.chassis.timestamps import stamp

SLOW_SECONDS = 0.3
"""A request that takes longer is slow; a stream or an upload may take its time."""

MOST_COUNTS = 10_000
"""How many enterprises and intervals are counted until they are reported, and go into one report."""

PATIENCE = timedelta(hours=1)
"""How long one report is tried. Much less than the day for which analytics knows it again."""

_LAST_SECONDS = 2.0  # for what is reported at the end
_SERVER_ERROR, _REFUSED = 500, 403

_log = get_logger("gateway.usage")
RecordUsage = Callable[[pb.RecordUsageRequest], Awaitable[pb.RecordUsageResponse]]


class Usage:
    """Counts the requests of enterprises, in one event loop."""

    def __init__(self, record: RecordUsage, clock: Clock, seconds: float) -> None:
        """
        Args:
            record: the call to analytics.
            clock: tells the time.
            seconds: how often is reported: an interval.
        """
        self._record = record
        self._clock = clock
        self._seconds = seconds
        self._replica = new_id()
        self._counts: dict[tuple[int, str], list[int]] = {}
        self._report: pb.RecordUsageRequest | None = None
        self._failing = False

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered with a status after so many seconds, if an enterprise has made it."""
        enterprise = scope.get("enterprise")
        if not enterprise or status == _REFUSED:
            # Whom nobody lets in is answered quickly and well: that would make the control group look better than it is.
            return
        key = int(self._clock.now().timestamp() / self._seconds), enterprise
        counts = self._counts.get(key)
        if counts is None:
            if len(self._counts) >= MOST_COUNTS:
                requests, *_ = self._counts.pop(next(iter(self._counts)))
                metrics.unreported.add(requests)
            counts = self._counts[key] = [0, 0, 0]
        counts[0] += 1
        counts[1] += status >= _SERVER_ERROR
        counts[2] += seconds > SLOW_SECONDS and scope["shape"] is Shape.UNARY

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            await self.report()

    async def finish(self) -> None:
        """Report what is left, if analytics takes it within two seconds."""
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                while await self.report() and self._counts:
                    pass
        except TimeoutError:
            _log.warning("usage.left_unreported")

    async def report(self) -> bool:
        """
        Report what was counted, or what was not taken the last time. Whether analytics has taken it; a failure is logged
        when it begins.
        """
        now = self._clock.now()
        if self._report and now - self._report.through_time.ToDatetime(tzinfo=UTC) > PATIENCE:
            metrics.unreported.add(sum(usage.requests for usage in self._report.usages))
            self._report = None
        self._report = self._report or self._take(now)
        try:
            await self._record(self._report)
        except Problem as problem:
            if not self._failing:
                _log.warning("usage.not_taken", reason=problem.reason)
            self._failing = True
            return False
        self._report, self._failing = None, False
        return True

    def _take(self, now: datetime) -> pb.RecordUsageRequest:
        """A report of all that was counted; counting begins anew."""
        counts, self._counts = self._counts, {}
        return pb.RecordUsageRequest(
            replica=self._replica,
            through_time=stamp(now),
            request_id=new_id(),
            usages=[
                pb.Usage(
                    enterprise=enterprise,
                    time=stamp(datetime.fromtimestamp(interval * self._seconds, UTC)),
                    requests=requests,
                    server_errors=server_errors,
                    slow=slow,
                )
                for (interval, enterprise), (requests, server_errors, slow) in counts.items()
            ],
        )
