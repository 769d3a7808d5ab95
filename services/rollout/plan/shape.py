"""What a plan consists of, and how it is spelled out again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from services.chassis.buckets import BUCKETS
from services.rollout.model import EDITION_FLAG
from services.rollout.predicates import holds

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = timedelta(days=1)
_MIDNIGHT = time(0)


class AudienceKind(StrEnum):
    """Whom a stage takes in, of those who are eligible."""

    EVERYONE = "EVERYONE"
    SEGMENT = "SEGMENT"
    INVITED = "INVITED"
    JOINED = "JOINED"
    TENANTS = "TENANTS"


class GuardrailKind(StrEnum):
    """How a metric is judged: against a fixed rate, or against the control group with a promise about false alarms."""

    BREAKER = "BREAKER"
    GUARDRAIL = "GUARDRAIL"
    SIGNAL = "SIGNAL"


class Worse(StrEnum):
    """In which direction a metric gets worse."""

    UP = "UP"
    DOWN = "DOWN"


class Action(StrEnum):
    """What happens when a check fails."""

    ROLLBACK = "ROLLBACK"
    PAUSE = "PAUSE"
    WARN = "WARN"


class Narrowing(StrEnum):
    """What an edit that takes fewer does to those who are in."""

    KEEP = "KEEP"
    EXPEL_NEWEST_FIRST = "EXPEL_NEWEST_FIRST"
    EXPEL_ALL = "EXPEL_ALL"


class FailMode(StrEnum):
    """What a gateway answers that has lost touch: what it knew last, or nobody is in."""

    LAST_GOOD = "LAST_GOOD"
    CLOSED = "CLOSED"


CHECKS: Mapping[str, GuardrailKind] = MappingProxyType(
    {
        "breakers": GuardrailKind.BREAKER,
        "guardrails": GuardrailKind.GUARDRAIL,
        "signals": GuardrailKind.SIGNAL,
    }
)
"""The keys of a plan under which checks stand, in the order in which they are made."""

METRICS: Mapping[str, Worse] = MappingProxyType(
    {
        "publish.error_rate": Worse.UP,
        "gateway.error_rate": Worse.UP,
        "gateway.latency_over_300ms": Worse.UP,
        "binding.success_rate": Worse.DOWN,
    }
)
"""The metrics that checks can look at, and in which direction each gets worse."""


@dataclass(frozen=True, slots=True)
class Window:
    """
    Hours of the week in which a stage may end.

    Attributes:
        days: weekdays, 0 is Monday.
        start: the local time at which it opens.
        end: the local time at which it closes, itself outside; 00:00 is the end of the day.
        zone: whose clock this is.
    """

    days: frozenset[int]
    start: time
    end: time
    zone: tzinfo

    def contains(self, moment: datetime) -> bool:
        """Whether the window is open at `moment`, which knows its zone."""
        local = moment.astimezone(self.zone)
        before_end = self.end == _MIDNIGHT or local.time() < self.end
        return local.weekday() in self.days and self.start <= local.time() and before_end

    def next_open(self, moment: datetime) -> datetime:
        """
        The first time from `moment` on at which the window is open, in UTC.

        Where clocks are put forward over the opening, it opens as many minutes later.
        """
        if self.contains(moment):
            return moment.astimezone(UTC)
        today = moment.astimezone(self.zone).date()
        openings = (
            datetime.combine(today + day * _DAY, self.start, self.zone).astimezone(UTC) for day in range(15)
        )
        return next(opening for opening in openings if opening >= moment and self.contains(opening))

    def __str__(self) -> str:
        """As a plan spells it: "Mon,Tue 08:00-16:30 Europe/Berlin"."""
        days = ",".join(DAYS[day] for day in sorted(self.days))
        end = "24:00" if self.end == _MIDNIGHT else f"{self.end:%H:%M}"
        return f"{days} {self.start:%H:%M}-{end} {self.zone}"


@dataclass(frozen=True, slots=True)
class Hold:
    """
    What must be so before a stage ends by itself; the approvals come last. An empty one waits for a person.

    Attributes:
        time: at least so long in the stage.
        exposures: at least so many enterprises have used the edition in the stage.
        approvals: so many people have agreed.
        window: when it may end; None for always.
    """

    time: timedelta = timedelta(0)
    exposures: int = 0
    approvals: int = 0
    window: Window | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked, so that only a person ends the stage."""
        return self == Hold()

    @property
    def outline(self) -> dict[str, Any]:
        """As a plan spells it; empty when it is."""
        parts = {
            "time": duration_text(self.time),
            "exposures": self.exposures,
            "approvals": self.approvals,
            "window": str(self.window) if self.window else "",
        }
        return _filled(parts)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one enterprise may use while it is in a stage; 0 is no limit."""

    requests_per_minute: int = 0
    bound_accounts: int = 0
    live_placements: int = 0

    @property
    def outline(self) -> dict[str, Any]:
        """As a plan spells it; empty when nothing is limited."""
        parts = {
            "requests_per_min": self.requests_per_minute,
            "bound_accounts": self.bound_accounts,
            "live_placements": self.live_placements,
        }
        return _filled(parts)


@dataclass(frozen=True, slots=True)
class Audience:
    """
    Whom a stage takes in. The audience of a stage in force is the union of those of it and the stages before.

    Attributes:
        segment: the segment's name; "" unless the kind is SEGMENT.
        tenants: names of enterprises; empty unless the kind is TENANTS.
    """

    kind: AudienceKind = AudienceKind.EVERYONE
    segment: str = ""
    tenants: frozenset[str] = frozenset()

    @property
    def outline(self) -> Any:
        """As a plan spells it."""
        match self.kind:
            case AudienceKind.EVERYONE:
                return "everyone"
            case AudienceKind.SEGMENT:
                return {"segment": self.segment}
            case AudienceKind.TENANTS:
                return {"tenants": sorted(self.tenants)}
        return {"waitlist": self.kind.lower()}


@dataclass(frozen=True, slots=True)
class Stage:
    """
    One step of a rollout.

    Attributes:
        id: unique in the plan.
        basis_points: the share of the audience, 1 to 10000.
        quota: the most enterprises that are in; 0 is no limit.
        ramp: the time over which the share climbs from the previous stage's to this one's; 0 is at once.
    """

    id: str
    audience: Audience = Audience()
    basis_points: int = BUCKETS
    quota: int = 0
    hold: Hold = Hold()
    limits: Limits = Limits()
    ramp: timedelta = timedelta(0)

    @property
    def outline(self) -> dict[str, Any]:
        """As a plan spells it."""
        parts = {
            "ring": self.id,
            "audience": self.audience.outline,
            "percent": percent_text(self.basis_points),
            "quota": self.quota,
            "ramp": duration_text(self.ramp),
            "hold": self.hold.outline,
            "limits": self.limits.outline,
        }
        return _filled(parts)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """
    A check of one metric.

    Attributes:
        metric: one of METRICS.
        vs_control: whether it compares with the control group; breakers do not.
        max_rate: the highest rate (0 to 1) that a breaker bears; None for the others.
        alpha: the chance of a false alarm that is borne over the whole rollout; 0 for breakers.
        min_samples: no verdict on fewer: requests for a breaker, enterprises in each arm for the others.
        windows: how many verdicts in a row must be bad before it acts.
        dry_run: it is judged and told, but does not act.
    """

    kind: GuardrailKind
    metric: str
    worse: Worse
    vs_control: bool
    max_rate: float | None
    alpha: float
    min_samples: int
    windows: int
    action: Action
    dry_run: bool

    @property
    def outline(self) -> dict[str, Any]:
        """As a plan spells it."""
        if self.max_rate is not None:
            judged: dict[str, Any] = {"max": percent_text(round(self.max_rate * BUCKETS))}
        else:
            judged = {"worse": self.worse.lower(), "vs": "control", "alpha": self.alpha}
        return {
            "metric": self.metric,
            **judged,
            "windows": self.windows,
            "min_samples": self.min_samples,
            "action": self.action.lower(),
            "dry_run": self.dry_run,
        }


@dataclass(frozen=True, slots=True)
class Policies:
    """What happens when the checks themselves cannot be trusted, and to those who are in when a plan narrows."""

    no_data_action: Action = Action.PAUSE
    no_data_after: timedelta = timedelta(minutes=30)
    srm: Action = Action.PAUSE
    inconclusive: Action = Action.PAUSE
    narrowing: Narrowing = Narrowing.KEEP


@dataclass(frozen=True, slots=True)
class Segment:
    """A named set of enterprises: by name, or by a predicate (JsonLogic; None when by name)."""

    tenants: frozenset[str] = frozenset()
    rule: Mapping[str, Any] | None = None

    @property
    def outline(self) -> Any:
        """As a plan spells it."""
        return sorted(self.tenants) if self.rule is None else self.rule

    def has(self, enterprise: str, attributes: Mapping[str, Any]) -> bool:
        """Whether the enterprise, with these attributes, belongs to it."""
        return enterprise in self.tenants or (self.rule is not None and holds(self.rule, attributes))


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A plan that has no mistake.

    Attributes:
        rollout: the rollout's id.
        flag: the flag that it opens.
        eligible: the predicate (JsonLogic) that each enterprise must meet in every stage.
        requires: flags that must be on for an enterprise.
        control_share: basis points of the eligible that are kept out to compare with.
        guardrails: breakers first, then guardrails, then signals.
        start_at: when it starts by itself, in UTC; None for never.
        approvals_to_start, approvals_to_change: how many people besides the author must agree.
        text: as it was written.
    """

    rollout: str
    stages: tuple[Stage, ...]
    flag: str = EDITION_FLAG
    eligible: Mapping[str, Any] = field(default_factory=lambda: {"==": [{"var": "verified"}, True]})
    requires: tuple[str, ...] = ()
    control_share: int = 0
    segments: Mapping[str, Segment] = field(default_factory=dict)
    guardrails: tuple[Guardrail, ...] = ()
    policies: Policies = Policies()
    start_at: datetime | None = None
    approvals_to_start: int = 0
    approvals_to_change: int = 0
    fail_mode: FailMode = FailMode.LAST_GOOD
    text: str = field(default="", compare=False, repr=False)

    @property
    def outline(self) -> dict[str, Any]:
        """
        As a plan spells it, in one way for all that mean the same: defaults written out, limits at their stages.

        `parse` of it, as YAML, is this plan again.
        """
        parts = {
            "rollout": self.rollout,
            "flag": self.flag,
            "eligible": self.eligible,
            "requires": list(self.requires),
            "control_share": percent_text(self.control_share),
            "segments": {name: segment.outline for name, segment in self.segments.items()},
            "stages": [stage.outline for stage in self.stages],
        }
        for key, kind in CHECKS.items():
            parts[key] = [each.outline for each in self.guardrails if each.kind is kind]
        policies = self.policies
        parts["on"] = {
            "no_data": f"{policies.no_data_action.lower()} after {duration_text(policies.no_data_after)}",
            "srm": policies.srm.lower(),
            "inconclusive": policies.inconclusive.lower(),
        }
        parts["narrowing"] = policies.narrowing.lower()
        parts["start"] = self.start_at.isoformat().replace("+00:00", "Z") if self.start_at else ""
        parts["approvals"] = _filled({"start": self.approvals_to_start, "change": self.approvals_to_change})
        parts["fail_mode"] = self.fail_mode.lower()
        return {key: part for key, part in parts.items() if part not in ("", [], {})}

    @property
    def sha256(self) -> str:
        """Of what the plan means: comments, spacing, and defaults that are written out do not change it."""
        canonical = json.dumps(self.outline, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def percent_text(basis_points: int) -> str:
    """A share as a plan spells it: "5%", "0.25%"."""
    return f"{basis_points // 100}{f'.{basis_points % 100:02}'.rstrip('0').rstrip('.')}%"


def duration_text(duration: timedelta) -> str:
    """A length of time as a plan spells it: "3d", "1h30m"; "" for none."""
    minutes, seconds = divmod(duration // timedelta(seconds=1), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def _filled(parts: dict[str, Any]) -> dict[str, Any]:
    """Without what is not there."""
    return {key: part for key, part in parts.items() if part not in (0, "", {})}
