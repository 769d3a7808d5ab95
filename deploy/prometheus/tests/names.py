"""Which metrics PromQL asks for, and which there are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "rules"

FOREIGN = re.compile(r"(rabbitmq|haproxy|prometheus|process|scrape)_\w+|up|ALERTS")
"""What others expose: RabbitMQ's plugin, HAProxy's exporter, Prometheus itself, and what it adds to each target."""

_KEYWORDS = {
    "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "inf", "nan",
}  # fmt: skip
_SKIPPED = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"                                             # texts
    | \{[^{}]*\}                                                  # selectors
    | \[[^\[\]]*\]                                                # ranges
    | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)  # lists of labels
    | \boffset\s+\w+
    """,
    re.VERBOSE,
)


def metrics_in(expr: str) -> set[str]:
    """The names of the metrics that an expression asks for."""
    # Texts first: a selector's may hold braces.
    rest = _SKIPPED.sub(" ", re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr))
    words = re.finditer(r"(?<![\w.$])[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()", rest)
    return {word[0] for word in words} - _KEYWORDS


def rules() -> Iterator[dict[str, Any]]:
    """All rules, recording and alerting."""
    for file in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def documented() -> set[str]:
    """The names that our processes expose, by the tables of docs/telemetry.md."""
    found: set[str] = set()
    text = (ROOT / "docs" / "telemetry.md").read_text()
    for name, kind in re.findall(r"^\| `[\w.]+` \| `(\w+)` \| (\w+)", text, re.MULTILINE):
        found |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return found


def unknown(expr: str) -> set[str]:
    """What an expression asks for that nobody exposes and no rule records."""
    known = documented() | {rule["record"] for rule in rules() if "record" in rule}
    return {name for name in metrics_in(expr) - known if not FOREIGN.fullmatch(name)}
