"""
What this gateway tells the rollout service: which versions it serves since when, and who has used what a flag guards.

A report goes out each second, and right after a change, so that an operator sees within moments that all gateways serve it. The
answer says how many gateways there are: each takes its part of the limits of a stage.
"""

import asyncio
import platform
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice

from numerator.rollout.v1 import serving_pb2 as pb

from gateway.errors import Problem
from gateway.serving import Knowledge
from services.chassis.ids import new_id
from services.chassis.logs import get_logger
from services.chassis.timestamps import stamp

REPORT_SECONDS = 1.0
_SETTLE_SECONDS = 0.02
"""How long a report waits after a change, for others that come with it."""
_LEAVE_SECONDS = 1.0
_MOST_KNOWN = 100_000
_MOST_WAITING = 10_000
_MOST_IN_A_REPORT = 1_000
_NAME_CHARACTERS = 60

_log = get_logger("gateway.replica")
Exposure = tuple[str, str, str]
"""Flag, enterprise and stage."""
Report = Callable[[pb.ReportReplicaRequest], Awaitable[pb.ReportReplicaResponse]]


class Exposures:
    """
    First uses of what flags guard, until the rollout service has them.

    It counts each of them once, so that one may be told again: by another gateway, or by this one when it forgets.
    """

    def __init__(self) -> None:
        self._known: set[Exposure] = set()
        self._waiting: dict[Exposure, None] = {}

    def note(self, exposure: Exposure) -> None:
        """Note a use. While too many wait, it is left for the enterprise's next one."""
        if exposure in self._known or len(self._waiting) >= _MOST_WAITING:
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known = set(self._waiting)
        self._known.add(exposure)
        self._waiting[exposure] = None

    def waiting(self) -> list[Exposure]:
        """Those that wait longest, as many as a report takes."""
        return list(islice(self._waiting, _MOST_IN_A_REPORT))

    def told(self, exposures: list[Exposure]) -> None:
        """The rollout service has these."""
        for each in exposures:
            self._waiting.pop(each, None)


class Heartbeat:
    """Reports, for as long as something is served."""

    def __init__(
        self,
        knowledge: Knowledge,
        exposures: Exposures,
        report: Report,
        *,
        set_count: Callable[[int], None],
        leaving: Callable[[], bool],
    ) -> None:
        """
        Args:
            knowledge: what is served.
            exposures: first uses, to be reported.
            report: the call to the rollout service.
            set_count: is told how many gateways there are.
            leaving: whether the process is about to stop.
        """
        self.name = f"{platform.node()[:_NAME_CHARACTERS]}-{new_id()}"
        """A name of its own for each start."""
        self._knowledge = knowledge
        self._exposures = exposures
        self._report = report
        self._set_count = set_count
        self._leaving = leaving
        self._failing = False

    async def run(self) -> None:
        """Report until cancelled."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._knowledge.subscribe(lambda: loop.call_soon_threadsafe(changed.set))
        while True:
            changed.clear()
            await self.once()
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), REPORT_SECONDS)
                await asyncio.sleep(_SETTLE_SECONDS)

    async def once(self) -> None:
        """Report once, if something is served. A failure is logged when it begins."""
        try:
            await self._tell(leaving=self._leaving())
        except Problem as problem:
            if not self._failing:
                _log.warning("replica.not_reported", reason=problem.reason)
            self._failing = True
        else:
            self._failing = False

    async def leave(self) -> None:
        """Tell that this gateway stops, if the rollout service hears it within a second."""
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._tell(leaving=True)

    async def _tell(self, *, leaving: bool) -> None:
        serving = self._knowledge.serving
        if serving is None:
            return
        exposures = self._exposures.waiting()
        answer = await self._report(
            pb.ReportReplicaRequest(
                replica=self.name,
                snapshot_version=serving.snapshot.version,
                admissions_version=serving.admissions.version,
                snapshot_time=stamp(serving.snapshot_time),
                admissions_time=stamp(serving.admissions_time),
                exposures=[
                    pb.Exposure(flag=flag, enterprise=enterprise, stage=stage)
                    for flag, enterprise, stage in exposures
                ],
                leaving=leaving,
            )
        )
        self._exposures.told(exposures)
        self._set_count(max(1, answer.replica_count))
