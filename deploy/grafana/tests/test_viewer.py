"""The pages show what Prometheus says, escape it, and stay up without it."""

import time
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from deploy.grafana.promql import boards
from deploy.grafana.settings import ViewerSettings
from deploy.grafana.tests.fakes import failing, prometheus
from deploy.grafana.viewer import RANGES, Viewer

EVIL = "<script>alert(1)</script>"
TRACE = "0af7651916cd43dd8448eb211c80319c"
ALERT = {
    "labels": {"alertname": "DeadLetters", "severity": "ticket"},
    "annotations": {"summary": f"3 letters {EVIL}", "runbook": "docs/runbook.md#deadletters"},
    "state": "firing",
    "activeAt": "2026-11-23T16:54:45.1Z",
}


def answer(path: str, parameters: dict[str, str]) -> Any:
    now = time.time()
    match path:
        case "/api/v1/alerts":
            return {
                "alerts": [
                    {**ALERT, "state": "pending", "labels": {"alertname": "A", "severity": "page"}},
                    ALERT,
                ]
            }
        case "/api/v1/query_exemplars":
            # Beyond the range of a window, a text that is no trace id must not become a link.
            found = [
                {"labels": {"trace_id": trace}, "value": "0.1", "timestamp": now - 600}
                for trace in (TRACE, '"><x')
            ]
            return [{"seriesLabels": {}, "exemplars": found}]
        case _:
            assert parameters["query"].count("$__") == 0
            end, step = float(parameters["end"]), float(parameters["step"])
            points = [[end - n * step, "0.25"] for n in range(20, -1, -1)]
            labels = {"service": EVIL, "rpc_method": EVIL, "http_route": EVIL}
            return {"resultType": "matrix", "result": [{"metric": labels, "values": points}]}


def viewer(given: Any = answer, **settings: Any) -> httpx.AsyncClient:
    """A client of a viewer whose Prometheus answers as `given`."""
    made = Viewer(ViewerSettings(**settings), prometheus(given), boards())
    return httpx.AsyncClient(base_url="http://viewer", transport=httpx.ASGITransport(made.application()))


@pytest.mark.parametrize("uid", boards())
async def test_board__shows_every_panel(uid: str) -> None:
    """Each panel of each board is there with a value, and the page is well-formed."""
    page = await viewer().get(f"/d/{uid}")

    tree = ET.fromstring(page.text.removeprefix("<!doctype html>"))
    titles = [panel["title"] for panel in boards()[uid]["panels"] if panel["type"] != "row"]
    shown = [(heading.text or "").strip() for heading in tree.iter("h3")]
    assert shown == titles
    assert "no data" not in page.text
    assert {tuple(sorted(section.attrib)) for section in tree.iter("section")} == {("class",)}


async def test_board__escapes_what_prometheus_says() -> None:
    """A label's value cannot become a part of the page, and the page may load and run nothing."""
    answered = await viewer().get("/d/numerator-overview")

    assert EVIL not in answered.text
    assert "&lt;script&gt;" in answered.text
    assert answered.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")


async def test_board__links_measurements_to_their_traces() -> None:
    """Only what is a trace id, and only when it is known where traces are shown."""
    with_traces = (await viewer(traces_url="http://traces/").get("/d/numerator-placement")).text

    assert f'href="http://traces/traces/{TRACE}"' in with_traces
    assert '"><x' not in with_traces
    without = (await viewer().get("/d/numerator-placement")).text
    assert f"trace {TRACE}" in without
    assert "/traces/" not in without


async def test_board__without_prometheus__says_so() -> None:
    """Every panel says what is wrong; the page is there."""

    def away(*_: object) -> httpx.Response:
        raise httpx.ConnectError("refused")

    page = await viewer(away).get("/d/numerator-overview")

    assert page.status_code == 200
    assert "Prometheus does not answer: ConnectError" in page.text
    assert "parse error" in (await viewer(lambda *_: failing("parse error")).get("/d/numerator-broker")).text


async def test_board__without_data__says_so() -> None:
    """An empty answer is no zero."""
    empty = {"resultType": "matrix", "result": []}

    page = viewer(
        lambda path, _: {"alerts": []} if path == "/api/v1/alerts" else [] if "exemplars" in path else empty
    )

    assert (await page.get("/d/numerator-overview")).text.count("no data") == sum(
        panel["type"] != "row" for panel in boards()["numerator-overview"]["panels"]
    )


async def test_alerts__are_listed_with_what_to_do() -> None:
    """Firing ones first, their number in the head of every page."""
    page = (await viewer().get("/alerts")).text

    assert page.index("DeadLetters") < page.index(">A<")
    assert "docs/runbook.md#deadletters" in page
    assert "2026-11-23 16:54:45 UTC" in page
    assert EVIL not in page
    assert '<b class="badge">1</b>' in page
    assert '<b class="badge">1</b>' in (await viewer().get("/d/numerator-broker")).text
    assert "Nothing fires" in (await viewer(lambda *_: {"alerts": []}).get("/alerts")).text
    assert "parse error" in (await viewer(lambda *_: failing("parse error")).get("/alerts")).text


@pytest.mark.parametrize("span", RANGES)
async def test_ranges__ask_for_a_screenful(span: str) -> None:
    """However long the range, the answer is a few hundred points, at whole steps."""
    asked: list[dict[str, str]] = []

    def note(path: str, parameters: dict[str, str]) -> Any:
        if path == "/api/v1/query_range":
            asked.append(parameters)
        return answer(path, parameters)

    assert (await viewer(note).get("/d/numerator-broker", params={"range": span})).status_code == 200
    first = {key: float(asked[0][key]) for key in ("start", "end", "step")}
    assert first["end"] - first["start"] == RANGES[span]
    assert 80 <= RANGES[span] / first["step"] <= 200
    assert first["end"] % first["step"] < 1e-3


async def test_pages__that_are_not_there() -> None:
    """The first page is the overview; the unknown is 404, and a range that is none is 400."""
    client = viewer()

    assert (await client.get("/", follow_redirects=False)).headers["location"] == "/d/numerator-overview"
    assert (await client.get("/d/../etc")).status_code == 404
    assert (await client.get("/d/nothing")).status_code == 404
    assert (await client.get("/d/numerator-broker", params={"range": "1y"})).status_code == 400
    assert (await client.get("/healthz")).text == "ok\n"
    assert "text/css" in (await client.get("/style.css")).headers["content-type"]
