"""What an ops team sees of the stack: rules that hold, panels with data, pages, traces and logs."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from rich.console import Console

from deploy.compose.stack import Stack
from deploy.grafana.__main__ import table
from deploy.grafana.check import Shown, check
from deploy.grafana.promql import Prometheus, boards
from deploy.local.programs import SERVICES
from deploy.local.stubs import ROOT
from tests.compose.conftest import Note
from tests.compose.outside import Outside

SECONDS = 240
"""How long to wait for scrapes and rules, which come every 10 to 60 seconds."""


@pytest.fixture(scope="session")
def promtool(stack: Stack, built: str) -> "Promtool":
    """Promtool as it is in the image that runs."""
    return Promtool(stack)


class Promtool:
    """promtool on this checkout's files, which are mounted beside those in the image."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __call__(self, *arguments: str) -> str:
        """What it prints. Raises StackError when it finds something wrong."""
        (container,) = self._stack.containers("prometheus")
        image = self._stack.inspect(container)["Image"]
        return self._stack.docker(
            "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--entrypoint", "promtool",
            "--volume", f"{ROOT / 'deploy' / 'prometheus'}:/checkout:ro", "--workdir", "/checkout", image, *arguments,
        )  # fmt: skip


def test_rules__hold_in_the_image(promtool: Promtool) -> None:
    """The configuration that the image carries is valid, and its rules are those of this checkout."""
    assert "is valid prometheus config" in promtool("check", "config", "/etc/prometheus/prometheus.yml")
    for file in sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")):
        assert "SUCCESS" in promtool("check", "rules", f"/etc/prometheus/rules/{file.name}")
        assert "SUCCESS" in promtool("check", "rules", f"rules/{file.name}")


@pytest.mark.parametrize(
    "file", sorted(p.name for p in (ROOT / "deploy/prometheus/rules/tests").glob("*.yml"))
)
def test_rules__fire_when_they_must(promtool: Promtool, file: str, record_property: Note) -> None:
    """And stay silent when they must: promtool's own tests."""
    told = promtool("test", "rules", f"rules/tests/{file}")
    record_property(f"3. promtool test rules {file}", " ".join(told.split()))

    assert "SUCCESS" in told
    assert "FAILED" not in told


def test_targets__are_all_there(stack: Stack, outside: Outside) -> None:
    """Prometheus finds every process, each replica of the gateway, the broker and the balancer, and all answer."""
    wanted = {f"{service}-{process}" for service in SERVICES for process in ("api", "worker")}
    wanted |= {"publishing-sender", "accounts-webhooks", "gateway-http"}
    deadline = time.monotonic() + SECONDS
    while True:
        up = _query(stack, "up")
        names = [
            f"{each['metric']['service']}-{each['metric']['process']}"
            for each in up
            if each["metric"]["job"] == "numerator"
        ]
        jobs = {each["metric"]["job"] for each in up}
        good = all(each["value"][1] == "1" for each in up)
        replicas = names.count("gateway-http") == len(stack.containers("gateway"))
        if good and replicas and set(names) == wanted and jobs >= {"rabbitmq", "rabbitmq-queues", "balancer"}:
            break
        assert time.monotonic() < deadline, up
        time.sleep(1)  # between two looks; the deadline ends them


def test_panels__all_have_data(stack: Stack, outside: Outside, record_property: Note) -> None:
    """
    While the story is told, no panel of any board is empty.

    It is told at least twice: what was counted once has no rate yet.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        stack.compose("run", "--rm", "--no-deps", "--no-TTY", "story")
        shown = asyncio.run(_check(stack))
        empty = [each for each in shown if not each.good]
        if not empty:
            break
        assert time.monotonic() < deadline, "\n".join(
            f"{each.board}: {each.panel}: {each.problem}" for each in empty
        )

    Console(width=160).print(table(shown))
    record_property("3. Panels", f"{len(shown)} queries of {len(boards())} boards, none without data")
    assert len(shown) == sum(
        len(panel.get("targets", ())) for board in boards().values() for panel in board["panels"]
    )


def test_pages__show_the_boards(stack: Stack, outside: Outside) -> None:
    """The viewer has a page for each board, and each page has values."""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{stack.settings.numerator_dashboards_port}", timeout=30
    ) as viewer:
        for uid, board in boards().items():
            page = viewer.get(f"/d/{uid}").raise_for_status().text
            assert all(f"<h3>{panel['title']}" in page for panel in board["panels"] if panel["type"] != "row")
            assert "Prometheus does not answer" not in page
        assert "Prometheus does not answer" not in viewer.get("/alerts").raise_for_status().text


def test_traces__lead_from_the_gateway_to_the_network(stack: Stack, outside: Outside) -> None:
    """A publication's trace passes gateway, api, worker and sender; its log lines are found by it."""
    began = time.time_ns()
    outside.story.await_deliveries(outside.publish("A post whose way can be followed"))
    schedule = "POST /v1/{name=enterprises/*/publications/*}:schedule"
    wanted = {"gateway-http", "publishing-api", "publishing-worker", "publishing-sender"}
    with httpx.Client(base_url=_traces_url(stack), timeout=30) as receiver:
        deadline = time.monotonic() + 60
        while True:
            traces = receiver.get("/traces", params={"service": "publishing-sender"}).json()["traces"]
            found = [
                each["trace"]
                for each in traces
                if each["name"] == schedule and each["start"] > began and wanted <= set(each["services"])
            ]
            logs = receiver.get("/logs", params={"trace_id": found[0]}).json()["logs"] if found else []
            if {"request.answered", "delivery.attempted"} <= {line["event"] for line in logs}:
                break
            assert time.monotonic() < deadline, (traces, logs)
            time.sleep(0.5)  # between two looks; the deadline ends them

        tree = receiver.get(f"/traces/{found[0]}", headers={"accept": "text/plain"}).text
    assert f"gateway-http server: {schedule}" in tree
    assert "publishing-sender client: publish mastodon" in tree


def test_exemplars__name_traces_that_are_kept(stack: Stack, outside: Outside) -> None:
    """A measurement in Prometheus leads to its trace at the receiver."""
    deadline = time.monotonic() + SECONDS
    while True:
        exemplars = asyncio.run(_exemplars(stack))
        if any(
            trace and httpx.get(f"{_traces_url(stack)}/traces/{trace}").status_code == 200
            for _, _, trace in exemplars[-20:]
        ):
            break
        assert time.monotonic() < deadline, exemplars
        time.sleep(1)  # between two looks; the deadline ends them


def _url(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.settings.numerator_prometheus_port}"


def _traces_url(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.settings.numerator_otlp_port}"


def _query(stack: Stack, expr: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{_url(stack)}/api/v1/query", params={"query": expr}, timeout=10)
    return list(answer.raise_for_status().json()["data"]["result"])


async def _check(stack: Stack) -> list[Shown]:
    prometheus = Prometheus(_url(stack))
    try:
        return await check(prometheus, list(boards().values()))
    finally:
        await prometheus.close()


async def _exemplars(stack: Stack) -> list[tuple[float, float, str]]:
    prometheus = Prometheus(_url(stack))
    try:
        now = time.time()
        return sorted(await prometheus.exemplars("rpc_server_call_duration_seconds_bucket", now - 600, now))
    finally:
        await prometheus.close()
