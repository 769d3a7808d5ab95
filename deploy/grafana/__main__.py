"""`python -m deploy.grafana {write,check,serve}`: the boards as files, as pages, and whether each panel has data."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
import uvicorn
from rich.console import Console
from rich.table import Table

from deploy.grafana.check import Shown, check
from deploy.grafana.promql import DASHBOARDS, Prometheus, boards
from deploy.grafana.settings import ViewerSettings
from deploy.grafana.viewer import Viewer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def write() -> None:
    """Generate dashboards/*.json anew."""
    # Here, because only generating needs Grafana's SDK, which the image has not.
    from deploy.grafana.boards import BOARDS

    for file in DASHBOARDS.glob("*.json"):
        file.unlink()
    for board in BOARDS:
        (DASHBOARDS / f"{board.uid}.json").write_text(board.json(), encoding="utf-8")


@app.command("check")
def check_panels(url: Annotated[str, typer.Argument()] = "http://127.0.0.1:9090") -> None:
    """Ask a Prometheus for every panel's values. Exit code 1 if one shows nothing."""
    shown = asyncio.run(_check(url))
    empty = [each for each in shown if not each.good]
    console = Console(highlight=False)
    console.print(table(shown))
    console.print(f"{len(shown)} queries, {len(empty)} without data")
    raise typer.Exit(1 if empty else 0)


@app.command()
def serve() -> None:
    """Show the boards as web pages. Settings: `settings.py`."""
    settings = ViewerSettings()
    viewer = Viewer(settings, Prometheus(settings.prometheus_url), boards())
    uvicorn.run(
        viewer.application(),
        host=settings.host,
        port=settings.port,
        ws="none",
        access_log=False,
        timeout_graceful_shutdown=5,
    )


def table(shown: Sequence[Shown]) -> Table:
    """What each panel shows, for people."""
    found = Table("board", "panel", "values now")
    for each in shown:
        found.add_row(each.board, each.panel, _told(each))
    return found


async def _check(url: str) -> list[Shown]:
    prometheus = Prometheus(url)
    try:
        return await check(prometheus, list(boards().values()))
    finally:
        await prometheus.close()


def _told(shown: Shown) -> str:
    if not shown.good:
        return f"[red]{shown.problem or 'no data'}[/]"
    most = " ".join(f"{value:.4g}" for value in shown.values[:5])
    return most + (f" … ({len(shown.values)})" if len(shown.values) > 5 else "")


if __name__ == "__main__":
    app()
