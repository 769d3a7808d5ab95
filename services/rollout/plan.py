"""
A rollout's plan: what a YAML file says, checked and made plain. Pure: no I/O, no clock.

`parse` makes a Plan of a text or tells all its mistakes with line and field; `diff` tells two plans apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from services.rollout.model import BUCKETS, EDITION_FLAG

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


@dataclass(frozen=True, slots=True)
class Limits:
    """What one enterprise may use while it is in a stage; 0 is no limit."""

    requests_per_minute: int = 0
    bound_accounts: int = 0
    live_placements: int = 0


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


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in which two plans differ, as a person would write it; "none" where there is nothing."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"
