"""The table of an area: what, target, measured, verdict."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One promise: what it is, what was promised, what was measured now, and whether that holds."""

    what: str
    target: str
    measured: str
    holds: bool


Check = Callable[[], Iterable[Row]]


def verify(area: str, checks: Iterable[tuple[str, Check]], console: Console | None = None) -> int:
    """
    Run the checks one after another, and print their rows as they come and at last as one table.

    A check that fails to measure is a row that does not hold, with the error; the others go on. Returns the exit code.
    """
    console = console or Console()
    rows: list[Row] = []
    began = time.monotonic()
    for title, check in checks:
        console.print(f"[cyan]…[/] {title}", highlight=False)
        started = time.monotonic()
        try:
            for row in check():
                rows.append(row)
                _tell(console, row)
        except Exception as error:  # noqa: BLE001 -- whatever goes wrong in one measurement, the others are still worth having
            console.print_exception(max_frames=4)
            rows.append(Row(title, "is measured", f"{type(error).__name__}: {error}", holds=False))
            _tell(console, rows[-1])
        console.print(f"  {time.monotonic() - started:.0f} s", style="dim")
    table = Table(title=f"verify-{area}", title_justify="left", show_lines=True)
    for column in ("what", "target", "measured", "verdict"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            row.what, row.target, row.measured, "[green]holds[/]" if row.holds else "[red]falls short[/]"
        )
    console.print(table)
    short = sum(not row.holds for row in rows)
    console.print(
        f"{len(rows) - short} of {len(rows)} hold; {time.monotonic() - began:.0f} s", highlight=False
    )
    return 1 if short else 0


def _tell(console: Console, row: Row) -> None:
    mark = "[green]✓[/]" if row.holds else "[red]✗[/]"
    console.print(f"  {mark} {row.what}: {row.measured}", highlight=False)
