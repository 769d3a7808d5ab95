"""
Decisions, in memory: for a person at a touchpoint, the placement that fits best, or nothing.

The way is from the person to the placements (which audiences hold the person, which placements use these), never one
membership test for each placement, so that the cost grows with what concerns the person and not with all campaigns.
"""

import heapq
import threading
from bisect import insort
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

    def in_flight(self, now: datetime) -> bool:
        """Whether it may be shown now."""
        return self.start_time <= now < self.end_time


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
        self._at: defaultdict[str, list[LivePlacement]] = defaultdict(list)
        """By touchpoint, oldest first."""
        self._for: defaultdict[tuple[str, str], list[LivePlacement]] = defaultdict(list)
        """By audience and touchpoint, oldest first."""
        self._withdrawn: set[str] = set()
        self._impressions: defaultdict[tuple[str, str], dict[str, datetime]] = defaultdict(dict)
        """By placement and person: decisions that count against the cap, each until when."""
        self._ends: list[tuple[datetime, str, str, str]] = []
        """A heap: when an impression may end, with its placement, person and decision."""

    def put_audience(self, audience: str, members: Mapping[str, Fit]) -> None:
        """The audience's people are these from now on."""
        with self._lock:
            for person in self._people.pop(audience, set()) - members.keys():
                del self._fits[person][audience]
                if not self._fits[person]:
                    del self._fits[person]
            for person, fit in members.items():
                self._fits[person][audience] = fit
            if members:
                self._people[audience] = set(members)

    def put_campaign(self, campaign: str, placements: Iterable[LivePlacement]) -> None:
        """The campaign's placements are these from now on; none when it is not live."""
        with self._lock:
            for old in self._campaigns.pop(campaign, ()):
                for places in self._places_of(old.placement):
                    places.remove(old)
            new = tuple(placements)
            for each in new:
                for places in self._places_of(each.placement):
                    insort(places, each, key=_age)
            if new:
                self._campaigns[campaign] = new

    def withdraw(self, people: Iterable[str]) -> None:
        """Show these people nothing from now on."""
        with self._lock:
            self._withdrawn.update(people)

    def put_exposure(self, placement: str, person: str, decision: str, at: datetime) -> None:
        """An exposure was recorded: it takes the place of its decision's reservation."""
        with self._lock:
            self._count(placement, person, decision, at + CAP_WINDOW)

    def counts(self) -> dict[str, int]:
        """How many campaigns, placements and people decisions are made from."""
        with self._lock:
            placements = sum(map(len, self._campaigns.values()))
            return {"campaigns": len(self._campaigns), "placements": placements, "people": len(self._fits)}

    def decide(self, person: str, touchpoint: str, decision: str, now: datetime, life: timedelta) -> Choice:
        """Decide, and reserve the impression for `life` when it is a placement."""
        with self._lock:
            self._forget_until(now)
            if person in self._withdrawn:
                return Choice(None, 0, ("CONSENT_WITHDRAWN",))
            best: tuple[LivePlacement, Fit] | None = None
            obstacles: dict[str, None] = {}
            for audience, fit in sorted(self._fits.get(person, {}).items(), key=_relevance, reverse=True):
                if best and fit.relevance < best[1].relevance:
                    break
                for live in self._for.get((audience, touchpoint), ()):
                    if not live.in_flight(now):
                        continue
                    obstacle = self._obstacle(live.placement, person, fit)
                    if obstacle is None:
                        if best is None or _age(live) < _age(best[0]):
                            best = live, fit
                        break  # the others of this audience fit no better and are younger
                    obstacles[obstacle] = None
            if best:
                chosen, fit = best
                self._count(chosen.placement.name, person, decision, now + life)
                reasons = tuple(f"INTEREST:{evidence}" for evidence in fit.evidence[:_MOST_REASONS])
                return Choice(chosen, fit.relevance, reasons or ("IN_AUDIENCE",))
            if not obstacles:
                live_here = any(each.in_flight(now) for each in self._at.get(touchpoint, ()))
                obstacles["NOT_IN_AUDIENCE" if live_here else "NO_LIVE_PLACEMENT"] = None
            return Choice(None, 0, tuple(obstacles))

    def _places_of(self, placement: Placement) -> tuple[list[LivePlacement], list[LivePlacement]]:
        return self._at[placement.touchpoint], self._for[placement.audience, placement.touchpoint]

    def _obstacle(self, placement: Placement, person: str, fit: Fit) -> str | None:
        """Why the person is not to see a placement of their audience; None when nothing stands in the way."""
        if fit.relevance < placement.relevance_floor:
            return "BELOW_FLOOR"
        if len(self._impressions.get((placement.name, person), ())) >= placement.daily_cap:
            return "CAP_REACHED"
        return None

    def _count(self, placement: str, person: str, decision: str, until: datetime) -> None:
        self._impressions[placement, person][decision] = until
        heapq.heappush(self._ends, (until, placement, person, decision))

    def _forget_until(self, now: datetime) -> None:
        """Let go of impressions that no longer count, so that memory holds a day of them and not all."""
        while self._ends and self._ends[0][0] <= now:
            until, placement, person, decision = heapq.heappop(self._ends)
            counting = self._impressions.get((placement, person), {})
            if counting.get(decision) == until:  # else it became an exposure, which counts longer
                del counting[decision]
                if not counting:
                    del self._impressions[placement, person]


def _relevance(fit_of_audience: tuple[str, Fit]) -> float:
    return fit_of_audience[1].relevance


def _age(live: LivePlacement) -> tuple[datetime, str]:
    return live.placement.create_time, live.placement.name
