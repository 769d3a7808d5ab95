"""
The boards as web pages, for stacks that have no Grafana.

Reads the same JSON as Grafana does and asks Prometheus the same questions; knows the kinds of panels of `panels.py`
and no others. Read only: drawn on the server, no scripts, nothing from elsewhere.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.grafana import charts
from deploy.grafana.charts import Frame
from deploy.grafana.promql import Prometheus, PrometheusError, ready
from deploy.grafana.settings import ViewerSettings

RANGES: Mapping[str, int] = {"15m": 900, "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800}
_TEMPLATES = Path(__file__).with_name("templates")
_POINTS = 160
_LEAST_STEP = 10
_TRACE = re.compile(r"[0-9a-f]{32}")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Viewer:
    """Renders boards with what Prometheus says now."""

    def __init__(
        self, settings: ViewerSettings, prometheus: Prometheus, boards: Mapping[str, dict[str, Any]]
    ) -> None:
        self._settings = settings
        self._prometheus = prometheus
        self._boards = boards
        self._pages = Environment(
            loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._home),
                Route("/d/{uid}", self._board),
                Route("/alerts", self._alerts),
                Route("/style.css", _style),
                Route("/healthz", _health),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self._prometheus.close()

    async def _home(self, _: Request) -> Response:
        return RedirectResponse(f"/d/{next(iter(self._boards))}")

    async def _board(self, request: Request) -> Response:
        board = self._boards.get(request.path_params["uid"])
        if board is None:
            raise HTTPException(404, "there is no such board")
        span = _span(request)
        end = time.time()
        step = max(_LEAST_STEP, RANGES[span] / _POINTS)
        end -= end % step  # whole steps, so that a line does not change its shape from one look to the next
        frame = Frame(end - RANGES[span], end, step)
        panels, firing = await asyncio.gather(
            asyncio.gather(*(self._panel(panel, frame) for panel in board["panels"])), self._firing()
        )
        return self._page("board.html", board=board, panels=panels, span=span, firing=firing)

    async def _alerts(self, request: Request) -> Response:
        problem, alerts = "", []
        try:
            alerts = await self._prometheus.alerts()
        except PrometheusError as error:
            problem = str(error)
        alerts.sort(key=lambda alert: (alert["state"] != "firing", alert["labels"]["alertname"]))
        firing = sum(alert["state"] == "firing" for alert in alerts)
        return self._page("alerts.html", alerts=alerts, problem=problem, span=_span(request), firing=firing)

    def _page(self, template: str, **values: Any) -> Response:
        page = self._pages.get_template(template).render(
            boards=self._boards.values(), ranges=RANGES, refresh=self._settings.refresh_seconds,
            traces_url=self._settings.traces_url.rstrip("/"), height=charts.HEIGHT, **values,
        )  # fmt: skip
        return HTMLResponse(page, headers=_HEADERS)

    async def _firing(self) -> int | None:
        """How many alerts fire; None when nobody knows."""
        try:
            alerts = await self._prometheus.alerts()
        except PrometheusError:
            return None
        return sum(1 for alert in alerts if alert["state"] == "firing")

    async def _panel(self, panel: dict[str, Any], frame: Frame) -> dict[str, Any]:
        shown = {
            "title": panel["title"],
            "kind": panel["type"],
            "width": panel["gridPos"]["w"],
            "problem": "",
        }
        if panel["type"] == "row":
            return shown
        shown["help"] = panel["description"]
        try:
            series = [
                (charts.legend(target["legendFormat"], each.labels), each)
                for target in panel["targets"]
                for each in await self._prometheus.over(
                    _expr(target, frame), frame.start, frame.end, frame.step
                )
            ]
            exemplars = [
                exemplar
                for target in panel["targets"]
                if target.get("exemplar")
                for exemplar in await self._prometheus.exemplars(_expr(target, frame), frame.start, frame.end)
                if _TRACE.fullmatch(exemplar[2])
            ]
        except PrometheusError as error:
            return shown | {"problem": str(error)}
        defaults = panel["fieldConfig"]["defaults"]
        if panel["type"] == "timeseries":
            return shown | {
                "chart": charts.chart(series, frame, defaults["unit"], exemplars, columns=shown["width"])
            }
        points = series[0][1].points if series else []
        if not points or points[-1][0] < frame.recent:
            return shown | {"value": "", "color": "", "spark": ""}
        value = points[-1][1]
        return shown | {
            "value": charts.amount(value, defaults["unit"]),
            "color": charts.color(value, defaults["thresholds"]["steps"]),
            "spark": charts.spark(points, frame),
        }


def _expr(target: dict[str, Any], frame: Frame) -> str:
    return ready(target["expr"], f"{max(60, round(4 * frame.step))}s")


def _span(request: Request) -> str:
    span = request.query_params.get("range", "1h")
    if span not in RANGES:
        raise HTTPException(400, f"range must be one of {', '.join(RANGES)}")
    return span


async def _style(_: Request) -> Response:
    return FileResponse(_TEMPLATES / "style.css", headers={"Cache-Control": "max-age=3600"})


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")
