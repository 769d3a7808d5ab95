"""What all answers are shown with: colours, tables, times."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gateway.cli.client import Json

_COLOURS = {
    "RUNNING": "green", "ACTIVE": "green", "PASS": "green", "APPROVED": "green", "APPLIED": "green", "OPEN": "green",
    "VERIFIED": "green", "PENDING": "yellow",
    "PAUSED": "yellow", "WAITLISTED": "yellow", "INCONCLUSIVE": "yellow", "NO_DATA": "yellow", "WAITING": "yellow",
    "IN_REVIEW": "yellow", "SUSPENDED": "yellow",
    "KILLED": "bold red", "ROLLED_BACK": "red", "REVOKED": "red", "FAIL": "red", "SRM": "red", "DENY": "red",
    "MULTIPLE_EXPOSURE": "red", "REJECTED": "red", "CONFLICTED": "red",
}  # fmt: skip
_UNSET = "STATE_UNSPECIFIED"


def ago(time: str) -> str:
    """How long ago a time is, as `2h 5m ago`."""
    return f"{age(time)} ago"


def when(time: str, before: str = "in") -> str:
    """When a time is, seen from now: `in 3d 4h`, or `2m ago`."""
    ahead = datetime.fromisoformat(time) - datetime.now(UTC)
    return f"{before} {span(ahead)}" if ahead > timedelta(0) else f"{span(-ahead)} ago"


def age(time: str) -> str:
    """How long ago a time is, as `2h 5m`; no time for one that our clock has not reached."""
    return span(max(datetime.now(UTC) - datetime.fromisoformat(time), timedelta(0)))


def span(length: timedelta) -> str:
    """A length of time in its two largest units."""
    seconds = int(length.total_seconds())
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m" if minutes else f"{seconds}s"


def table(
    head: Sequence[str], rows: Iterable[Sequence[RenderableType]], *, none: str = "none"
) -> RenderableType:
    """Rows under a head; the words `none` where there is no row."""
    made = Table(*head, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        made.add_row(*row)
    return made if made.row_count else Text(none)


def pairs(facts: Iterable[tuple[str, RenderableType]]) -> RenderableType:
    """Names and what they stand for, one below the other."""
    made = Table.grid(padding=(0, 2))
    for name, fact in facts:
        made.add_row(Text(name, "dim"), fact)
    return made


def state(rollout: Json) -> Text:
    """A rollout's state; a kill goes before it."""
    its = rollout["state"]
    return coloured("KILLED", f"KILLED ({its})") if rollout["killed"] else coloured(word(its))


def coloured(what: str, text: str = "") -> Text:
    """A text, or the state or outcome `what` itself, in the colour that `what` has on a terminal."""
    return Text(text or what, _COLOURS.get(what, ""))


def word(value: str) -> str:
    """An enum's value; a dash for none."""
    return "-" if value == _UNSET else value


def tick(holds: bool) -> Text:  # noqa: FBT001 -- what it shows is a truth value
    """Whether something holds."""
    return Text("✓", "green") if holds else Text("✗", "red")


def percent(basis_points: int) -> str:
    """Basis points as people write them: 500 is 5%."""
    return f"{basis_points / 100:g}%"


def some(count: int, thing: str) -> str:
    """So many of something."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
