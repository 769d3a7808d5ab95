"""What the keys of a plan's file mean, and which plans contradict themselves."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from services.chassis.buckets import BUCKETS
from services.chassis.names import NamePattern
from services.rollout.model import EDITION_FLAG
from services.rollout.plan.reading import Mistakes, Section, Value, WrongError, did_you_mean, document, shown
from services.rollout.plan.scalars import (
    IDENTIFIER,
    duration,
    duration_of,
    identifier,
    moment,
    percent,
    window,
    word,
)
from services.rollout.plan.shape import (
    CHECKS,
    METRICS,
    Action,
    Audience,
    AudienceKind,
    FailMode,
    Guardrail,
    GuardrailKind,
    Hold,
    Limits,
    Narrowing,
    Plan,
    Policies,
    Segment,
    Stage,
    Worse,
)
from services.rollout.predicates import check_rule

MOST_STAGES = 20
MOST_ALPHA = 0.2
"""The most false alarms, as a chance, that all guardrails of a plan together may cost."""

_KEYS = (
    "rollout", "flag", "eligible", "requires", "control_share", "segments", "stages", "limits", *CHECKS, "on",
    "narrowing", "start", "approvals", "fail_mode",
)  # fmt: skip
_STAGE_KEYS = ("ring", "audience", "percent", "quota", "ramp", "hold", "limits")
_STAGE_HINTS = {
    "id": "write ring",
    "tenants": "write audience: {tenants: [...]}",
    "segment": "write audience: {segment: ...}",
}
_LIMIT_KEYS = ("requests_per_min", "bound_accounts", "live_placements")
_LIMIT_HINTS = {"publish_per_min": "all requests are counted together: write requests_per_min"}
_BREAKER_KEYS = ("metric", "max", "windows", "min_samples", "action", "dry_run")
_BREAKER_HINTS = dict.fromkeys(
    ("worse", "vs", "alpha"), "a breaker knows only a max, whatever the control does"
)
_CHECK_KEYS = ("metric", "worse", "vs", "alpha", "windows", "min_samples", "action", "dry_run")
_CHECK_HINTS = {"max": "only breakers have one; this compares with the control"}

_ENTERPRISE = NamePattern("enterprises/{enterprise}")
_ALPHA = re.compile(r"0?\.\d{1,6}", re.ASCII)
_NO_DATA = re.compile(r"(\S+)(?: after (\S+))?")
_SELECTOR = re.compile(r"ring(<=|>=|==|<|>)(\d{1,2})", re.ASCII)
_ORDERS: Mapping[str, Callable[[int, int], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


def parse(text: str) -> Plan:
    """
    The plan that a YAML text says.

    Raises:
        ServiceError: INVALID_ARGUMENT, with a violation for each mistake (MOST_MISTAKES at most): its path, as
            `stages[3].percent`, and a description that begins with the line, as `line 12: `.
    """
    mistakes = Mistakes()
    root = document(text, mistakes)
    plan = root.read(_plan, None) if root else None
    mistakes.tell()
    assert plan is not None
    return replace(plan, text=text)


@dataclass(frozen=True, slots=True)
class _ReadStage:
    """A stage, and where it stands."""

    stage: Stage
    section: Section


def _plan(value: Value) -> Plan:
    top = value.section(_KEYS)
    segments: Mapping[str, Segment] = top.get("segments", _segments, {})
    stages: list[_ReadStage] = top.need("stages", _stages, [], "stages: [{ring: 0, percent: 5%}, ...]")
    limits: Mapping[str, Limits] = top.get("limits", lambda each: _limits_by_stage(each, stages), {})
    checks: list[list[Guardrail]] = [top.get(key, _checks_of(kind), []) for key, kind in CHECKS.items()]
    approvals = top.get("approvals", lambda each: each.section(("start", "change")), None)
    plan = Plan(
        rollout=top.need("rollout", identifier, "", "rollout: enterprise-edition"),
        flag=top.get("flag", identifier, EDITION_FLAG),
        eligible=top.get("eligible", _rule, {"==": [{"var": "verified"}, True]}),
        requires=top.get("requires", _flags, ()),
        control_share=top.get("control_share", lambda each: percent(each, least=0, most=BUCKETS // 2), 0),
        segments=segments,
        stages=tuple(
            replace(each.stage, limits=limits.get(each.stage.id, each.stage.limits)) for each in stages
        ),
        guardrails=tuple(check for of_kind in checks for check in of_kind),
        policies=replace(
            top.get("on", _policies, Policies()),
            narrowing=top.get("narrowing", word(Narrowing), Narrowing.KEEP),
        ),
        start_at=top.get("start", moment, None),
        approvals_to_start=approvals.get("start", lambda each: each.whole(0, 10), 0) if approvals else 0,
        approvals_to_change=approvals.get("change", lambda each: each.whole(0, 10), 0) if approvals else 0,
        fail_mode=top.get("fail_mode", word(FailMode), FailMode.LAST_GOOD),
    )
    _check_stages(stages, segments)
    _check_plan(plan, top)
    return plan


# What contradicts itself. Nothing is said of values that are wrong already: their defaults would only confuse.


def _check_stages(stages: Iterable[_ReadStage], segments: Mapping[str, Segment]) -> None:
    lines: dict[str, int] = {}
    widest = largest = 0
    for stage, section in ((each.stage, each.section) for each in stages):
        mistakes, path = section.value.mistakes, section.value.path
        if stage.id in lines:
            section.wrong(
                "ring", f"is the id {stage.id} of the stage in line {lines[stage.id]}, too: ids must differ"
            )
        elif stage.id:
            lines[stage.id] = section.value.line
        name = stage.audience.segment
        if name and name not in segments and not mistakes.within(f"segments.{name}"):
            section.wrong(
                "audience",
                f"asks for the segment {name}, which is not there: {did_you_mean(name, segments)}"
                f"add it, as segments: {{{name}: [enterprises/a]}}",
            )
        if "ramp" in section.entries and "percent" not in section.entries:
            section.wrong("ramp", "climbs to a percent: give percent, too")
        if stage.audience.kind is AudienceKind.EVERYONE and not mistakes.within(f"{path}.percent"):
            if stage.basis_points < widest:
                section.wrong(
                    "percent", f"takes less than a stage before it: give at least {widest / 100:g}%"
                )
            widest = max(widest, stage.basis_points)
        if stage.quota:
            if stage.quota < largest:
                section.wrong("quota", f"takes less than a stage before it: give at least {largest}")
            largest = max(largest, stage.quota)


def _check_plan(plan: Plan, top: Section) -> None:
    if plan.flag in plan.requires:
        top.wrong("requires", f"must not hold {plan.flag}, the flag that the plan itself opens")
    guardrails = [each for each in plan.guardrails if each.kind is GuardrailKind.GUARDRAIL]
    if sum(each.alpha for each in guardrails) > MOST_ALPHA + 1e-9:
        top.wrong(
            "guardrails", f"have alphas of more than {MOST_ALPHA} together: that is too many false alarms"
        )
    compared = next((key for key in ("guardrails", "signals") if key in top.entries), None)
    if compared and not plan.control_share and not top.value.mistakes.within("control_share"):
        top.wrong(compared, "compare with a control group, and there is none: add control_share, as 10%")


# Stages


def _stages(value: Value) -> list[_ReadStage]:
    items = value.items()
    if not 1 <= len(items) <= MOST_STAGES:
        raise WrongError(f"must have 1 to {MOST_STAGES} stages, not {len(items)}")
    found = (item.read(_stage, None) for item in items)
    return [each for each in found if each is not None]


def _stage(value: Value) -> _ReadStage:
    keys = value.section(_STAGE_KEYS, _STAGE_HINTS)
    stage = Stage(
        id=keys.need("ring", _ring, "", "ring: 3, or ring: 0-internal"),
        audience=keys.get("audience", _audience, Audience()),
        basis_points=keys.get("percent", percent, BUCKETS),
        quota=keys.get("quota", Value.whole, 0),
        hold=keys.get("hold", _hold, Hold()),
        limits=keys.get("limits", _limits, Limits()),
        ramp=keys.get("ramp", duration, timedelta(0)),
    )
    return _ReadStage(stage, keys)


def _ring(value: Value) -> str:
    text = value.text()
    if text == "start":
        raise WrongError("must not be start: so the gate before the first stage is called")
    return f"ring-{text}" if text.isdecimal() and text.isascii() else identifier(value)


def _audience(value: Value) -> Audience:
    if not value.is_mapping:
        value.one_of({"everyone": AudienceKind.EVERYONE})
        return Audience()
    keys = value.section(("segment", "waitlist", "tenants"))
    if len(keys.entries) != 1:
        raise WrongError("must have exactly one of segment, waitlist and tenants; or be everyone")
    if "segment" in keys.entries:
        return Audience(AudienceKind.SEGMENT, segment=keys.get("segment", identifier, ""))
    if "tenants" in keys.entries:
        return Audience(AudienceKind.TENANTS, tenants=keys.get("tenants", _tenants, frozenset()))
    waitlists = {"invited": AudienceKind.INVITED, "joined": AudienceKind.JOINED}
    return Audience(keys.get("waitlist", lambda each: each.one_of(waitlists), AudienceKind.INVITED))


def _hold(value: Value) -> Hold:
    keys = value.section(("time", "exposures", "approvals", "window"))
    if not keys.entries:
        raise WrongError("is empty: say what to wait for, or leave hold out to wait for a person")
    return Hold(
        time=keys.get("time", duration, timedelta(0)),
        exposures=keys.get("exposures", Value.whole, 0),
        approvals=keys.get("approvals", lambda each: each.whole(1, 10), 0),
        window=keys.get("window", window, None),
    )


def _limits(value: Value) -> Limits:
    keys = value.section(_LIMIT_KEYS, _LIMIT_HINTS)
    return Limits(*(keys.get(key, Value.whole, 0) for key in _LIMIT_KEYS))


def _limits_by_stage(value: Value, stages: Iterable[_ReadStage]) -> Mapping[str, Limits]:
    """For each stage that has no limits of its own, those of the first selector that it meets."""
    found: dict[str, Limits] = {}
    ids = [each.stage.id for each in stages]
    own = {each.stage.id for each in stages if "limits" in each.section.entries}
    default_before = False
    for selector, entry in value.entries().items():
        selected: list[str] = entry.read(partial(_selected, selector, ids), [])
        if default_before:
            entry.wrong("stands behind default, which takes all: put default last")
        default_before = default_before or selector == "default"
        limits = entry.read(_limits, Limits())
        for stage in selected:
            if stage not in own:
                found.setdefault(stage, limits)
    return found


def _selected(selector: str, ids: list[str], value: Value) -> list[str]:
    if selector == "default":
        return ids
    if selector in ids:
        return [selector]
    ring = _SELECTOR.fullmatch(selector)
    if not ring:
        known = ", ".join(ids)
        raise WrongError(f"selects nothing: write ring<=2, a stage's id ({known}) or default")
    selected = [each for ordinal, each in enumerate(ids) if _ORDERS[ring[1]](ordinal, int(ring[2]))]
    if not selected and not value.mistakes.within("stages"):
        raise WrongError(f"selects no stage: they are numbered 0 to {len(ids) - 1}")
    return selected


# Checks and policies


def _checks_of(kind: GuardrailKind) -> Callable[[Value], list[Guardrail]]:
    def checks(value: Value) -> list[Guardrail]:
        convert = _breaker if kind is GuardrailKind.BREAKER else lambda each: _compared(each, kind)
        found = (item.read(convert, None) for item in value.items())
        return [each for each in found if each is not None]

    return checks


def _breaker(value: Value) -> Guardrail:
    keys = value.section(_BREAKER_KEYS, _BREAKER_HINTS)
    metric = keys.need("metric", _metric, "", "metric: publish.error_rate")
    if METRICS.get(metric) is Worse.DOWN:
        keys.wrong(
            "metric", f"gets worse when it falls, and a breaker acts above max: put {metric} under guardrails"
        )
    return Guardrail(
        kind=GuardrailKind.BREAKER,
        metric=metric,
        worse=Worse.UP,
        vs_control=False,
        max_rate=keys.need("max", percent, 0, "max: 5%") / BUCKETS,
        alpha=0.0,
        min_samples=keys.get("min_samples", Value.whole, 200),
        windows=keys.get("windows", lambda each: each.whole(1, 100), 2),
        action=keys.need("action", word(Action), Action.WARN, "action: rollback, pause or warn"),
        dry_run=keys.get("dry_run", Value.truth, False),
    )


def _compared(value: Value, kind: GuardrailKind) -> Guardrail:
    keys = value.section(_CHECK_KEYS, _CHECK_HINTS)
    metric = keys.need("metric", _metric, "", "metric: publish.error_rate")
    worse = keys.need("worse", word(Worse), Worse.UP, "worse: up or worse: down")
    if (
        metric in METRICS
        and worse is not METRICS[metric]
        and not value.mistakes.within(f"{value.path}.worse")
    ):
        keys.wrong("worse", f"must be {METRICS[metric].lower()} for {metric}")
    keys.get("vs", lambda each: each.one_of({"control": None}), None)
    needed = kind is GuardrailKind.GUARDRAIL
    return Guardrail(
        kind=kind,
        metric=metric,
        worse=worse,
        vs_control=True,
        max_rate=None,
        alpha=keys.need("alpha", _alpha, 0.0, "alpha: 0.05") if needed else keys.get("alpha", _alpha, 0.05),
        min_samples=keys.get("min_samples", lambda each: each.whole(0), 0),
        windows=keys.get("windows", lambda each: each.whole(1, 100), 1),
        action=keys.need("action", word(Action), Action.WARN, "action: rollback, pause or warn"),
        dry_run=keys.get("dry_run", Value.truth, False),
    )


def _metric(value: Value) -> str:
    return value.one_of({metric: metric for metric in METRICS})


def _alpha(value: Value) -> float:
    text = value.text()
    if not _ALPHA.fullmatch(text) or not 0 < float(text) < 0.5:  # noqa: PLR2004 -- a coin's toss
        raise WrongError(f"must be a number above 0 and below 0.5, as 0.05, not {shown(text)}")
    return float(text)


def _policies(value: Value) -> Policies:
    keys = value.section(("no_data", "srm", "inconclusive"))
    default = Policies()
    action, after = keys.get("no_data", _no_data, (default.no_data_action, default.no_data_after))
    return Policies(
        no_data_action=action,
        no_data_after=after,
        srm=keys.get("srm", word(Action), default.srm),
        inconclusive=keys.get("inconclusive", word(Action), default.inconclusive),
    )


def _no_data(value: Value) -> tuple[Action, timedelta]:
    text = value.text()
    found = _NO_DATA.fullmatch(text)
    actions = {each.lower(): each for each in Action}
    if not found or found[1] not in actions:
        raise WrongError(
            f"must be rollback, pause or warn, and how soon, as pause after 30m, not {shown(text)}"
        )
    return actions[found[1]], duration_of(found[2]) if found[2] else Policies().no_data_after


# Sets of enterprises


def _segments(value: Value) -> dict[str, Segment]:
    segments = {}
    for name, entry in value.entries().items():
        if not IDENTIFIER.fullmatch(name):
            entry.wrong("must have a name of a-z, 0-9 and hyphen, of at most 63 characters")
        segments[name] = entry.read(_segment, Segment())
    return segments


def _segment(value: Value) -> Segment:
    return Segment(rule=_rule(value)) if value.is_mapping else Segment(tenants=_tenants(value))


def _tenants(value: Value) -> frozenset[str]:
    return frozenset(_distinct(value, _tenant, "name enterprises, as [enterprises/a]"))


def _tenant(value: Value) -> str:
    if not _ENTERPRISE.matches(value.text()):
        raise WrongError(f"must be the name of an enterprise, as enterprises/a, not {shown(value.text())}")
    return value.text()


def _flags(value: Value) -> tuple[str, ...]:
    return tuple(sorted(_distinct(value, identifier, "name flags, or leave it out")))


def _distinct(value: Value, convert: Callable[[Value], str], hint: str) -> set[str]:
    found: set[str] = set()
    for item in value.items():
        each = item.read(convert, "")
        if each in found and each:
            item.wrong(f"is there twice: leave the second {each} out")
        found.add(each)
    if not found:
        raise WrongError(f"is empty: {hint}")
    return found


def _rule(value: Value) -> Mapping[str, Any]:
    lines: dict[str, int] = {}
    rule = value.json(lines)
    for violation in check_rule(rule, value.path):
        line = lines.get(violation.field, value.line)
        value.mistakes.add(line, violation.field, violation.description)
    return rule if isinstance(rule, dict) else {}
