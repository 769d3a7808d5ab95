"""The check finds panels that show nothing, and does not take a zero for nothing."""

from typing import Any

import httpx
import pytest

from deploy.grafana.check import check
from deploy.grafana.promql import Prometheus, PrometheusError
from deploy.grafana.tests.fakes import failing, prometheus

BOARD = {
    "title": "Board",
    "panels": [
        {"type": "row", "title": "Row"},
        {"type": "stat", "title": "zero", "targets": [{"expr": "zero[$__rate_interval]"}]},
        {"type": "stat", "title": "empty", "targets": [{"expr": "empty"}]},
        {"type": "stat", "title": "nan", "targets": [{"expr": "nan"}]},
        {"type": "stat", "title": "two", "targets": [{"expr": "zero[5m]"}, {"expr": "wrong("}]},
    ],
}


def answer(path: str, parameters: dict[str, str]) -> Any:
    assert path == "/api/v1/query"
    match parameters["query"]:
        case "zero[5m]":
            return {"resultType": "vector", "result": [{"metric": {}, "value": [1, "0"]}]}
        case "empty":
            return {"resultType": "vector", "result": []}
        case "nan":
            return {"resultType": "vector", "result": [{"metric": {}, "value": [1, "NaN"]}]}
        case query:
            return failing(f"parse error in {query}")


async def test_check__names_the_queries_that_show_nothing() -> None:
    """Nothing, no number and a mistake are no data; zero is; Grafana's variables are put in."""
    shown = await check(prometheus(answer), [BOARD])

    assert [(each.panel, each.good) for each in shown] == [
        ("zero", True), ("empty", False), ("nan", False), ("two", True), ("two", False),
    ]  # fmt: skip
    assert shown[-1].problem == "parse error in wrong("
    assert shown[0].values == [0]


async def test_prometheus__that_is_away__is_an_error() -> None:
    """Whoever asks is told, and no empty answer is made up."""
    gone = Prometheus("http://127.0.0.1:1")
    with pytest.raises(PrometheusError, match="does not answer"):
        await gone.now("up")
    await gone.close()

    with pytest.raises(PrometheusError, match="does not answer"):
        await prometheus(lambda *_: httpx.Response(502, text="<html>")).now("up")


async def test_prometheus__scalars__are_values_too() -> None:
    """An expression may be a number."""
    (series,) = await prometheus(lambda *_: {"resultType": "scalar", "result": [5, "3.5"]}).now("3.5")

    assert series.points == [(5.0, 3.5)]
