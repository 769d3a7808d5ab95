"""
What the guardrails say of a stage: whether it may go on, and what is to be done if not. Pure: no I/O, no clock.

A look asks in this order: is the data fresh; have the arms the sizes that they should have; is an enterprise in both arms;
breakers; guardrails; signals. What one of them takes the ground from is not judged: without fresh data no check of that metric,
with arms that are wrong no comparison of the two. Breakers look at the treatment alone, so they act even then. When several have
something to say, the strongest action is taken, and among equals the first in the order is the cause.

A check against the control group fails when the harm, the difference of the arms' means in the worse direction, is surely above 0
(`statistics.lower_bound`). It passes when there are enough enterprises and no such evidence; with too few it is inconclusive. The
mean is that of the enterprises' own rates, each counted once however much it does: the requests of one enterprise resemble each
other, and a thousand of them are not a thousand observations.

Silence advances no stage: not when data is missing, nor when there are too few enterprises, nor when the arms are wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import takewhile

from services.rollout.model import Cause
from services.rollout.plan import METRICS, Action, Guardrail, GuardrailKind, Policies, Worse
from services.rollout.statistics import Arm, lower_bound, mismatch_p, sizes_mismatch

LEAST_ENTERPRISES = 20
"""
The fewest enterprises in each arm that are compared, whatever a plan says.

A pass must mean something. Fivefold errors (2 % -> 10 %) are found within 60 looks almost never with 10 enterprises in each arm,
in half of the cases with 20, in nine of ten with 30, and at the second look with 50. What is fewer is for breakers and people.
"""


class Outcome(StrEnum):
    """What a look found, or one check in it; in the order in which they are asked about."""

    NO_DATA = "NO_DATA"
    SRM = "SRM"
    MULTIPLE_EXPOSURE = "MULTIPLE_EXPOSURE"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    WAITING = "WAITING"
    PASS = "PASS"  # noqa: S105 it opens nothing


@dataclass(frozen=True, slots=True)
class Sample:
    """How often something was done, and how often of these it was bad."""

    count: int
    bad: int


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What is measured of one metric, of each enterprise since it is in the stage.

    Attributes:
        measured_through: up to which window everything is measured; None when nothing ever was.
        treatment: the rates of bad of the enterprises that are in, one for each that did anything.
        control: the same of the control group.
        windows: all of the treatment together, window by window of time, the newest last; quiet ones too.
    """

    measured_through: datetime | None = None
    treatment: Arm = field(default_factory=Arm)
    control: Arm = field(default_factory=Arm)
    windows: Sequence[Sample] = ()


@dataclass(frozen=True, slots=True)
class Readings:
    """
    What is measured of a stage.

    Attributes:
        metrics: by metric; one that was never measured may be missing.
        treated: how many enterprises that are in did anything, by any metric.
        control: the same of the control group.
        both: how many are in both arms, or used the edition while they were in the control group.
    """

    metrics: dict[str, Reading] = field(default_factory=dict)
    treated: int = 0
    control: int = 0
    both: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What one check says.

    Attributes:
        outcome: of this check alone; FAIL also while it has not yet failed often enough to act.
        treatment: the metric's value for those who are in; None when nothing was judged.
        control: the same for the control group; None for breakers.
        lower: the least harm that is sure; None when nothing was compared.
        treated_count: how many enterprises are in `treatment`; `control_count` in `control`.
        failures: how often it has failed in a row: windows for breakers, looks with newer data for the others. Looks that could
            not judge do not count.
        measured_through: of the data that it judged last; None before the first.
        reason: the same in words and numbers.
    """

    kind: GuardrailKind
    metric: str
    action: Action
    dry_run: bool
    outcome: Outcome
    reason: str
    treatment: float | None = None
    control: float | None = None
    lower: float | None = None
    treated_count: int = 0
    control_count: int = 0
    failures: int = 0
    measured_through: datetime | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """
    What a look says.

    Attributes:
        verdicts: one for each check, in the plan's order.
        action: what is to be done now; None for nothing.
        cause: of the action.
        may_advance: whether the stage may end, as far as guardrails go.
        reason: why, in words and numbers.
    """

    verdicts: tuple[Verdict, ...]
    outcome: Outcome
    action: Action | None
    cause: Cause
    may_advance: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """
    What a look is made with.

    Attributes:
        now: the present.
        stage_entered: since when the rollout is in its stage.
        stages: how many the plan has. Each begins its comparisons anew, so they share the chance of a false alarm, as the checks
            of one kind do (Bonferroni).
        policies: what to do when there is nothing to judge by.
        treated_share: the part of all who are in either arm that is in the treatment, which those who are seen should have, too;
            None where that is nothing to go by, as where a list or a quota says who is in.
        at_gate: whether nothing else holds the stage any more, so that it matters that a look is inconclusive.
        previous: the verdicts of the look before, in this stage.
    """

    now: datetime
    stage_entered: datetime
    stages: int
    policies: Policies
    treated_share: float | None
    at_gate: bool
    previous: tuple[Verdict, ...] = ()


def check(guardrails: Sequence[Guardrail], readings: Readings, look: Look) -> Analysis:
    """Look at a stage; `guardrails` are those of the plan."""
    arms = None
    if any(each.vs_control and not each.dry_run for each in guardrails):
        arms = _wrong_arms(readings, look)
    verdicts = tuple(_judge(each, guardrails, readings, look, arms) for each in guardrails)
    findings = [arms] if arms else []
    for guardrail, verdict in zip(guardrails, verdicts, strict=True):
        if finding := _finding(guardrail, verdict, look):
            findings.append(finding)
    if not findings:
        reason = "nothing speaks against going on" if verdicts else "the plan has no checks"
        return Analysis(verdicts, Outcome.PASS, None, Cause.NONE, may_advance=True, reason=reason)
    first = min(findings, key=lambda each: (-_STRENGTH[each.action], _ORDER.index(each.outcome)))
    return Analysis(
        verdicts,
        first.outcome,
        first.action,
        first.cause if first.action else Cause.NONE,
        may_advance=not any(each.holds for each in findings),
        reason=first.reason,
    )


_ORDER = tuple(Outcome)
_STRENGTH = {None: 0, Action.WARN: 1, Action.PAUSE: 2, Action.ROLLBACK: 3}


@dataclass(frozen=True, slots=True)
class _Finding:
    """What holds the stage, or is at least to be told."""

    outcome: Outcome
    cause: Cause
    action: Action | None
    reason: str

    @property
    def holds(self) -> bool:
        """Whether the stage must not advance: always, but for a failed check that is only meant to warn."""
        return (self.outcome, self.action) != (Outcome.FAIL, Action.WARN)


def _finding(guardrail: Guardrail, verdict: Verdict, look: Look) -> _Finding | None:
    """What comes of a verdict."""
    outcome, reason = verdict.outcome, verdict.reason
    if guardrail.dry_run:
        return None
    if outcome is Outcome.FAIL and verdict.failures >= guardrail.windows:
        cause = Cause.SIGNAL if guardrail.kind is GuardrailKind.SIGNAL else Cause.GUARDRAIL
        return _Finding(outcome, cause, guardrail.action, reason)
    if guardrail.action is Action.WARN:
        return None
    match outcome:
        case Outcome.NO_DATA:
            return _Finding(outcome, Cause.NO_DATA, look.policies.no_data_action, reason)
        case Outcome.FAIL | Outcome.WAITING:
            return _Finding(outcome, Cause.NONE, None, reason)
        # A signal speaks up or does not, and a breaker trips or does not: a quiet night holds no stage.
        case Outcome.INCONCLUSIVE if guardrail.kind is GuardrailKind.GUARDRAIL:
            action = look.policies.inconclusive if look.at_gate else None
            return _Finding(outcome, Cause.INCONCLUSIVE, action, reason)
    return None


def _wrong_arms(readings: Readings, look: Look) -> _Finding | None:
    """Why the arms must not be compared."""
    treated, control, share = readings.treated, readings.control, look.treated_share
    if share is not None and sizes_mismatch(treated, control, treated_share=share):
        expected = (treated + control) * share
        return _Finding(
            Outcome.SRM,
            Cause.SRM,
            look.policies.srm,
            f"sample ratio mismatch: {treated} enterprises are seen in the stage and {control} in the control group, where "
            f"{expected:.0f} and {treated + control - expected:.0f} are expected "
            f"(p = {mismatch_p(treated, control, treated_share=share):.1g})",
        )
    if readings.both:
        return _Finding(
            Outcome.MULTIPLE_EXPOSURE,
            Cause.MULTIPLE_EXPOSURE,
            look.policies.srm,
            f"{readings.both} enterprises are in the stage and in the control group, or used the edition out of the latter",
        )
    return None


def _judge(
    guardrail: Guardrail,
    guardrails: Sequence[Guardrail],
    readings: Readings,
    look: Look,
    arms: _Finding | None,
) -> Verdict:
    """The verdict of one check."""
    reading = readings.metrics.get(guardrail.metric, Reading())
    key = (guardrail.kind, guardrail.metric, guardrail.action, guardrail.dry_run)
    before = next(
        (each for each in look.previous if (each.kind, each.metric, each.action, each.dry_run) == key), None
    )
    verdict = Verdict(
        *key,
        outcome=Outcome.PASS,
        reason="",
        failures=before.failures if before else 0,
        measured_through=before.measured_through if before else None,
    )
    through = reading.measured_through
    if through is None or through <= look.stage_entered:
        through = look.stage_entered
    silence = look.now - through
    if silence > look.policies.no_data_after:
        return replace(
            verdict,
            outcome=Outcome.NO_DATA,
            reason=f"{guardrail.metric}: nothing is measured since {through:%Y-%m-%d %H:%M} UTC, {_minutes(silence)} ago; "
            f"the plan bears {_minutes(look.policies.no_data_after)}",
        )
    if through == look.stage_entered:
        return replace(
            verdict,
            outcome=Outcome.WAITING,
            reason=f"{guardrail.metric}: waiting for what is measured in this stage",
        )
    if guardrail.kind is GuardrailKind.BREAKER:
        return _break(guardrail, reading, verdict)
    if arms:
        return replace(verdict, outcome=arms.outcome, reason=f"{guardrail.metric}: {arms.reason}")
    sharers = look.stages * sum(each.kind is guardrail.kind for each in guardrails)
    return _compare(guardrail, reading, verdict, alpha=guardrail.alpha / sharers)


def _break(guardrail: Guardrail, reading: Reading, verdict: Verdict) -> Verdict:
    """Whether the treatment's rate was too high in each of the newest windows."""
    most = guardrail.max_rate or 0.0
    windows = reading.windows[-guardrail.windows :]
    count, bad = sum(each.count for each in windows), sum(each.bad for each in windows)
    last = "the last window" if guardrail.windows == 1 else f"the last {guardrail.windows} windows"
    failures = len(list(takewhile(lambda each: each.bad > most * each.count, reversed(windows))))
    rate = bad / count if count else 0.0
    judged = replace(
        verdict,
        treatment=rate,
        treated_count=reading.treatment.n,
        failures=failures,
        measured_through=reading.measured_through,
    )
    if count < guardrail.min_samples:
        return replace(
            judged,
            outcome=Outcome.INCONCLUSIVE,
            reason=f"{guardrail.metric}: only {count} samples in {last}, {guardrail.min_samples} are needed",
        )
    return replace(
        judged,
        outcome=Outcome.FAIL if failures else Outcome.PASS,
        reason=f"{guardrail.metric}: {rate:.2%} of {count} in {last}, the plan bears {most:.2%}"
        + (f"; {failures} of {guardrail.windows} in a row are over it" if guardrail.windows > 1 else ""),
    )


def _compare(guardrail: Guardrail, reading: Reading, verdict: Verdict, *, alpha: float) -> Verdict:
    """Whether the treatment surely does worse than the control group."""
    treatment, control, through = reading.treatment, reading.control, reading.measured_through
    judged = replace(
        verdict,
        treatment=_shown(guardrail, treatment),
        control=_shown(guardrail, control),
        treated_count=treatment.n,
        control_count=control.n,
        measured_through=through,
    )
    least = max(guardrail.min_samples, LEAST_ENTERPRISES)
    if min(treatment.n, control.n) < least:
        return replace(
            judged,
            outcome=Outcome.INCONCLUSIVE,
            reason=f"{guardrail.metric}: too few enterprises, {treatment.n} in the stage and {control.n} in the control group; "
            f"{least} are needed in each",
        )
    lower = lower_bound(treatment, control, alpha=alpha)
    # The same data is not a second failure, however often it is looked at.
    newer = through != verdict.measured_through
    failures = max(verdict.failures + newer, 1) if lower > 0 else 0
    said = (
        f"{guardrail.metric}: {judged.treatment:.2%} of {treatment.n} enterprises in the stage, "
        f"{judged.control:.2%} of {control.n} in the control group"
    )
    if failures:
        said += f"; surely worse by {lower:.2%} or more, {failures} of {guardrail.windows} times in a row"
    return replace(
        judged,
        outcome=Outcome.FAIL if failures else Outcome.PASS,
        lower=lower,
        failures=failures,
        reason=said + (f" (alpha {alpha:.2g})" if failures else "; no harm is sure"),
    )


def _shown(guardrail: Guardrail, arm: Arm) -> float | None:
    """An arm's mean as the metric has it: a rate of success is what is not bad."""
    if not arm.n:
        return None
    return 1 - arm.mean if METRICS[guardrail.metric] is Worse.DOWN else arm.mean


def _minutes(duration: timedelta) -> str:
    return f"{duration // timedelta(minutes=1)} min"
