"""
A rollout's plan: what its YAML file says, checked and made plain. Pure: no I/O, no clock.

`parse` makes a Plan of a text, or tells all its mistakes by line and path; `diff` tells two plans apart.
"""

from services.rollout.plan.difference import Difference, diff
from services.rollout.plan.parser import parse
from services.rollout.plan.shape import (
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
    Window,
    Worse,
    duration_text,
    percent_text,
)

__all__ = [
    "METRICS",
    "Action",
    "Audience",
    "AudienceKind",
    "Difference",
    "FailMode",
    "Guardrail",
    "GuardrailKind",
    "Hold",
    "Limits",
    "Narrowing",
    "Plan",
    "Policies",
    "Segment",
    "Stage",
    "Window",
    "Worse",
    "diff",
    "duration_text",
    "parse",
    "percent_text",
]
