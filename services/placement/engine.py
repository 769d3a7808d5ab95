"""
Decisions, in memory: for a person at a touchpoint, the placement that fits best, or nothing.

The way is from the person to the placements (which audiences hold the person, which placements use these), never one
membership test for each placement, so that the cost grows with what concerns the person and not with all campaigns.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.placement.model import CAP_WINDOW, Placement

_MOST_REASONS = 5


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a person fits an audience, 0 to 1, and what led to it, strongest first."""

    relevance: float
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LivePlacement:
    """A placement of a live campaign, with what a decision needs of both."""

    placement: Placement
    label: str
    start_time: datetime
    end_time: datetime


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person sees. `placement` None: nothing of ours. Reasons, the strongest first."""

    placement: LivePlacement | None
    relevance: float
    reasons: tuple[str, ...]


class Engine:
    """
    Everything that decisions need. One instance serves all threads.

    A decision reserves its impression until its token ends, so that many page views at once do not all show what may be shown
    once. What counts for good is the exposure that is recorded; the store refuses one beyond the cap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fits: defaultdict[str, dict[str, Fit]] = defaultdict(dict)
        """By person, then by audience."""
        self._people: dict[str, set[str]] = {}
        """By audience."""
        self._campaigns: dict[str, tuple[LivePlacement, ...]] = {}
        self._by_audience: dict[tuple[str, str], list[LivePlacement]] = {}
        """By audience and touchpoint, oldest first."""
        self._by_touchpoint: dict[str, list[LivePlacement]] = {}
        self._withdrawn: set[str] = set()
        self._seen: dict[tuple[str, str], dict[str, datetime]] = {}
        """By placement and person: recorded exposures by decision, with their times."""
        self._reserved: dict[tuple[str, str], dict[str, datetime]] = {}
        """By placement and person: decisions that are out, with the ends of their tokens."""

    def put_audience(self, audience: str, members: Mapping[str, Fit]) -> None:
        """The audience's people are these from now on."""
        with self._lock:
            for person in self._people.get(audience, set()) - members.keys():
                del self._fits[person][audience]
                if not self._fits[person]:
                    del self._fits[person]
            for person, fit in members.items():
                self._fits[person][audience] = fit
            self._people[audience] = set(members)

    def put_campaign(self, campaign: str, placements: Iterable[LivePlacement]) -> None:
        """The campaign's placements are these from now on; none when it is not live."""
        with self._lock:
            self._campaigns[campaign] = tuple(placements)
            every = [each for live in self._campaigns.values() for each in live]
            every.sort(key=lambda each: (each.placement.create_time, each.placement.name))
            by_audience: dict[tuple[str, str], list[LivePlacement]] = {}
            by_touchpoint: dict[str, list[LivePlacement]] = {}
            for each in every:
                by_audience.setdefault((each.placement.audience, each.placement.touchpoint), []).append(each)
                by_touchpoint.setdefault(each.placement.touchpoint, []).append(each)
            self._by_audience, self._by_touchpoint = by_audience, by_touchpoint

    def withdraw(self, people: Iterable[str]) -> None:
        """Show these people nothing from now on."""
        with self._lock:
            self._withdrawn.update(people)

    def put_exposure(self, placement: str, person: str, decision: str, at: datetime) -> None:
        """An exposure was recorded; its reservation is over."""
        with self._lock:
            self._seen.setdefault((placement, person), {})[decision] = at
            self._reserved.get((placement, person), {}).pop(decision, None)

    def decide(self, person: str, touchpoint: str, decision: str, now: datetime, life: timedelta) -> Choice:
        """Decide, and reserve the impression for `life` when it is a placement."""
        with self._lock:
            live = [
                each
                for each in self._by_touchpoint.get(touchpoint, ())
                if each.start_time <= now < each.end_time
            ]
            if not live:
                return Choice(None, 0, ("NO_LIVE_PLACEMENT",))
            if person in self._withdrawn:
                return Choice(None, 0, ("CONSENT_WITHDRAWN",))
            fitting: list[tuple[float, datetime, str, LivePlacement, Fit]] = []
            obstacles: dict[str, None] = {}
            for audience, fit in self._fits.get(person, {}).items():
                for each in self._by_audience.get((audience, touchpoint), ()):
                    if not each.start_time <= now < each.end_time:
                        continue
                    if fit.relevance < each.placement.relevance_floor:
                        obstacles["BELOW_FLOOR"] = None
                    elif self._impressions(each, person, now) >= each.placement.daily_cap:
                        obstacles["CAP_REACHED"] = None
                    else:
                        fitting.append(
                            (-fit.relevance, each.placement.create_time, each.placement.name, each, fit)
                        )
            if not fitting:
                return Choice(None, 0, tuple(obstacles) or ("NOT_IN_AUDIENCE",))
            *_, chosen, fit = min(fitting, key=lambda each: each[:3])
            self._reserved.setdefault((chosen.placement.name, person), {})[decision] = now + life
            reasons = tuple(f"INTEREST:{evidence}" for evidence in fit.evidence[:_MOST_REASONS])
            return Choice(chosen, fit.relevance, reasons or ("IN_AUDIENCE",))

    def _impressions(self, live: LivePlacement, person: str, now: datetime) -> int:
        """What counts against the cap: exposures of the last 24 hours, and decisions that may still become one."""
        key = (live.placement.name, person)
        _drop_until(self._seen, key, now - CAP_WINDOW)
        _drop_until(self._reserved, key, now)
        return len(self._seen.get(key, ())) + len(self._reserved.get(key, ()))


def _drop_until(
    times: dict[tuple[str, str], dict[str, datetime]], key: tuple[str, str], moment: datetime
) -> None:
    """Forget what lies at or before a moment, and the key when nothing is left of it."""
    if key in times:
        times[key] = {decision: at for decision, at in times[key].items() if at > moment}
        if not times[key]:
            del times[key]
