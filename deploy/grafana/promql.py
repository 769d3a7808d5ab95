"""Asking a Prometheus what a panel would ask it."""

import asyncio
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

DASHBOARDS = Path(__file__).with_name("dashboards")
"""Where the generated boards are."""
OVERVIEW = "numerator-overview"
"""The board that comes first."""
_AT_ONCE = 8


class PrometheusError(RuntimeError):
    """Prometheus does not answer, or does not understand the question."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its labels, and its points as (seconds since 1970, value)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """
    A Prometheus server, by its HTTP API.

    Args:
        url: as http://prometheus:9090.
        timeout: seconds for a question.
    """

    def __init__(self, url: str, timeout: float = 10) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def now(self, expr: str) -> list[Series]:
        """An expression's values at this moment. Raises PrometheusError."""
        data = await self._ask("/api/v1/query", {"query": expr})
        if data["resultType"] == "scalar":
            return [Series({}, _points([data["result"]]))]
        return [Series(each["metric"], _points([each["value"]])) for each in data["result"]]

    async def over(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """An expression's values every `step` seconds. Raises PrometheusError."""
        data = await self._ask(
            "/api/v1/query_range", {"query": expr, "start": start, "end": end, "step": step}
        )
        return [Series(each["metric"], _points(each["values"])) for each in data["result"]]

    async def exemplars(self, expr: str, start: float, end: float) -> list[tuple[float, float, str]]:
        """Single measurements of an expression's series: seconds since 1970, value, trace id. Raises PrometheusError."""
        data = await self._ask("/api/v1/query_exemplars", {"query": expr, "start": start, "end": end})
        return [
            (float(each["timestamp"]), float(each["value"]), each["labels"].get("trace_id", ""))
            for series in data
            for each in series["exemplars"]
        ]

    async def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing. Raises PrometheusError."""
        alerts: list[dict[str, Any]] = (await self._ask("/api/v1/alerts", {}))["alerts"]
        return alerts

    async def _ask(self, path: str, parameters: dict[str, Any]) -> Any:
        async with self._room:
            try:
                answer = (
                    await self._client.post(path, data=parameters)
                    if parameters
                    else await self._client.get(path)
                )
                content = answer.json()
            except (httpx.HTTPError, json.JSONDecodeError) as error:
                raise PrometheusError(f"Prometheus does not answer: {type(error).__name__}") from error
        if content.get("status") != "success":
            raise PrometheusError(content.get("error", f"status {answer.status_code}"))
        return content["data"]


def boards(folder: Path = DASHBOARDS) -> dict[str, dict[str, Any]]:
    """The generated boards by their uid; the overview first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    return {
        board["uid"]: board
        for board in sorted(found, key=lambda board: (board["uid"] != OVERVIEW, board["uid"]))
    }


def ready(expr: str, window: str) -> str:
    """An expression as Grafana would send it: with its variables put in."""
    return expr.replace("$__rate_interval", window)


def _points(values: Iterable[tuple[float, str]]) -> list[tuple[float, float]]:
    """Without what is no number: a quotient of nothing by nothing is no measurement."""
    points = ((float(at), float(value)) for at, value in values)
    return [(at, value) for at, value in points if math.isfinite(value)]
