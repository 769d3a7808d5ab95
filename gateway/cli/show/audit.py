"""The audit trail."""

import json
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.names import brief
from gateway.cli.show.parts import ago, coloured, some, table

_LONG = 60
"""Characters of a detail from which on it is cut."""


def events(answer: Json) -> Iterator[RenderableType]:
    """What was done, newest first."""
    yield table(
        ("number", "when", "who", "what", "of", "detail"),
        (
            (
                each["sequence"], ago(each["time"]), each["actor"], each["cause"],
                " ".join(brief(name) for name in (each["rollout"], each["enterprise"]) if name) or "-",
                _detail(json.loads(each["detail"] or "{}")),
            )
            for each in answer["events"]
        ),
        none="nothing was done yet",
    )  # fmt: skip


def _detail(detail: Json) -> str:
    """Why, and what changed, of an audit event, cut where it is long; -o json has it all."""
    changed = [
        f"{each['path'].lstrip('/')}: {each.get('before', 'none')} -> {each.get('value', 'none')}"
        for each in detail.get("changed", [])
    ]
    rest = [
        f"{key}: {value}" for key, value in detail.items() if key != "reason" and isinstance(value, str | int)
    ]
    parts = [detail.get("reason", ""), *changed, *detail.get("differences", []), *rest]
    return "; ".join(part if len(part) <= _LONG else f"{part[:_LONG]}…" for part in parts if part)


def verification(answer: Json) -> Iterator[RenderableType]:
    """Whether the audit trail is as it was written."""
    for each in answer["mistakes"]:
        yield Text(f"event {each['sequence']}: {each['what']}", "red")
    verdict = (
        coloured("PASS", "as it was written") if answer["ok"] else coloured("FAIL", "NOT as it was written")
    )
    counts = f"{some(int(answer['checkedCount']), 'event')} computed anew, {answer['anchoredCount']} anchors compared"
    yield Text.assemble("the trail is ", verdict, f": {counts}, head {answer['head'][:12] or '-'}")
