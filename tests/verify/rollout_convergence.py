"""How soon all gateways serve a change: row 2 of `make verify-rollout`."""

import asyncio
import http.client
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from deploy.demo.client import Gateway, eventually
from deploy.local.stubs import ROOT
from tests.verify.rollout_fleet import ENTERPRISES, GATEWAYS, Fleet
from tests.verify.table import Row

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

FLAGS = 1_000
ROLLOUT, FLAG = "enterprise-edition", "enterprise-beta"
PLAN = f"rollout: {ROLLOUT}\nflag: {FLAG}\nstages: [{{ring: everybody}}]\n"
TOGGLED = "ordinary-500"

P99_SECONDS, MOST_SECONDS, PULL_SECONDS, KILL_SECONDS = 0.25, 1.0, 3.0, 1.0
LOAD = 100
"""Requests a second, over all gateways."""
OUTAGES = 5
KILLS = 10

_PATIENCE = 30.0
_POLL_SECONDS = 0.003

Seen = Callable[[int, bytes], bool]
"""Whether an answer, its status and its body, is that of after the change."""


@dataclass(frozen=True)
class Question:
    """A request that each gateway is asked again and again."""

    method: str
    path: str
    token: str
    body: str | None = None


@dataclass(frozen=True)
class Change:
    """
    A change, on its way.

    Attributes:
        after_commit: seconds from the service's answer, which comes after the commit, until the last gateway serves it.
        after_request: the same from when the change was asked for.
    """

    after_commit: float
    after_request: float


class Watch:
    """Asks all gateways, each on a connection of its own, until all of them say so."""

    def __init__(self, urls: list[str]) -> None:
        self._connections = [http.client.HTTPConnection(urlsplit(url).netloc, timeout=10) for url in urls]
        self._pool = ThreadPoolExecutor(len(urls))

    def measure(self, question: Question, seen: Seen, change: Callable[[], object]) -> Change:
        """Make the change while watching. Raises TimeoutError when a gateway never serves it."""
        watching = [
            self._pool.submit(self._until, connection, question, seen) for connection in self._connections
        ]
        asked = time.monotonic()
        change()
        answered = time.monotonic()
        last = max(each.result() for each in watching)
        return Change(max(0.0, last - answered), last - asked)

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    @staticmethod
    def _until(connection: http.client.HTTPConnection, question: Question, seen: Seen) -> float:
        """When the answer was there that is wanted."""
        headers = {"authorization": f"Bearer {question.token}", "content-type": "application/json"}
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            connection.request(question.method, question.path, question.body, headers)
            answer = connection.getresponse()
            if seen(answer.status, answer.read()):
                return time.monotonic()
            time.sleep(_POLL_SECONDS)  # leaves the gateways room for their work; the deadline ends it
        raise TimeoutError(f"{connection.port} did not serve the change within {_PATIENCE:g} s")


def convergence(fleet: Fleet, changes: int) -> Iterator[Row]:
    """Row 2: changes under load, the kill switch, and changes without a broker."""
    name, owner = _edition(fleet)
    watch = Watch(fleet.urls)
    try:
        yield from _under_load(fleet, watch, name, owner, changes)
        yield from _kill_switch(fleet, watch, name, owner)
        yield from _without_broker(fleet, watch, name)
    finally:
        watch.close()


def _edition(fleet: Fleet) -> tuple[str, Gateway]:
    """A thousand flags, ten thousand enterprises, and a company; all of them are in."""
    fleet.remember("many", ENTERPRISES)
    flags = {f"ordinary-{number}": {"percent": f"{number % 100 + 1}%"} for number in range(FLAGS - 2)}
    flags[TOGGLED] = _toggled("a")
    fleet.operator.post("/v1/flags:apply", {"document": json.dumps({"flags": flags})})
    if fleet.apply(PLAN)["state"] == "DRAFT":
        fleet.do("start", ROLLOUT)
    name, owner = fleet.company()
    fleet.operator.post(f"/v1/{name}:verify", {"note": "certainly"})
    eventually(lambda: owner.get("/v1/edition")["admitted"] or None, what="the company's admission")
    fleet.converged()
    return name, owner


def _toggled(variant: str) -> dict[str, object]:
    return {"variants": {"a": "a", "b": "b"}, "defaultVariant": variant}


def _asked(fleet: Fleet, name: str, flag: str) -> Question:
    """What a flag is for an enterprise."""
    body = json.dumps({"context": {"targetingKey": name}})
    return Question("POST", f"/ofrep/v1/evaluate/flags/{flag}", fleet.operator.token, body)


def _is(value: object) -> Seen:
    return lambda status, body: status == http.client.OK and json.loads(body)["value"] == value


def _under_load(fleet: Fleet, watch: Watch, name: str, owner: Gateway, changes: int) -> Iterator[Row]:
    """Kills and their end, an ordinary flag there and back, an enterprise out and in again; all of them in turn."""
    reason = {"reason": "a measurement"}
    both = {"enterprise": name, **reason}
    kinds: list[tuple[str, object, Callable[[], object]]] = [
        (FLAG, False, lambda: fleet.do("kill", ROLLOUT, **reason)),
        (FLAG, True, lambda: fleet.do("unkill", ROLLOUT)),
        (TOGGLED, "b", lambda: _toggle(fleet, "b")),
        (TOGGLED, "a", lambda: _toggle(fleet, "a")),
        (FLAG, False, lambda: fleet.do("revoke", ROLLOUT, **both)),
        (FLAG, True, lambda: fleet.do("admit", ROLLOUT, **both)),
    ]
    measured: list[Change] = []
    reported: list[int] = []
    with under_load(fleet.urls, owner.token, f"/v1/{name}/accounts?pageSize=1") as sent:
        began, before = time.monotonic(), sent.value
        for number in range(changes):
            flag, value, change = kinds[number % len(kinds)]
            measured.append(watch.measure(_asked(fleet, name, flag), _is(value), change))
            reported.append(_reported(fleet))
            time.sleep(random.uniform(0, 0.1))  # so that changes meet the pull at any moment
        rate = (sent.value - before) / (time.monotonic() - began)
    seconds = sorted(each.after_commit for each in measured)
    p99 = quantiles(seconds, n=100, method="inclusive")[98]
    yield Row(
        f"{changes} changes to the last of {len(GATEWAYS)} gateways, {FLAGS:,} flags, under load",
        f"p99 < {P99_SECONDS * 1e3:.0f} ms, max < {MOST_SECONDS * 1e3:.0f} ms, from the service's answer",
        f"p50 {median(seconds) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {seconds[-1] * 1e3:.0f} ms; from the request "
        f"p50 {median(each.after_request for each in measured) * 1e3:.0f} ms, "
        f"max {max(each.after_request for each in measured) * 1e3:.0f} ms; "
        f"by the gateways' own word, from the decision: p50 {median(reported):.0f} ms, max {max(reported)} ms; "
        f"{rate:.0f} gated requests/s beside",
        p99 < P99_SECONDS and seconds[-1] < MOST_SECONDS,
    )


def _toggle(fleet: Fleet, variant: str) -> None:
    fleet.operator.post("/v1/flags:apply", {"document": json.dumps({"flags": {TOGGLED: _toggled(variant)}})})


def _reported(fleet: Fleet) -> int:
    """The slowest gateway's lag in milliseconds, when all have reported that they serve the newest."""

    def slowest() -> int | None:
        found = fleet.operator.get("/v1/replicas")
        done = found["convergedCount"] == len(found.get("replicas", [])) == len(GATEWAYS)
        return int(found["slowestMs"]) if done else None

    return eventually(slowest, what="the gateways' reports")


def _kill_switch(fleet: Fleet, watch: Watch, name: str, owner: Gateway) -> Iterator[Row]:
    """The command line as a process, its start included; the first time it has to log in, too."""
    question = Question("GET", f"/v1/{name}/accounts?pageSize=1", owner.token)
    measured = []
    for _ in range(KILLS):
        kill = ("rollout", "kill", ROLLOUT, "--reason", "a measurement", "--yes")
        done = watch.measure(
            question,
            lambda status, _body: status == http.client.FORBIDDEN,
            lambda arguments=kill: numerator(fleet, *arguments),
        )
        measured.append(done.after_request)
        fleet.do("unkill", ROLLOUT)
        watch.measure(question, lambda status, _body: status == http.client.OK, lambda: None)
    yield Row(
        f"numerator rollout kill, as a process, {KILLS} times: from its start to 403 at all {len(GATEWAYS)} gateways",
        f"< {KILL_SECONDS * 1e3:.0f} ms",
        f"p50 {median(measured) * 1e3:.0f} ms, max {max(measured) * 1e3:.0f} ms",
        max(measured) < KILL_SECONDS,
    )


def _without_broker(fleet: Fleet, watch: Watch, name: str) -> Iterator[Row]:
    """The broker is killed and stays away; gateways ask the service themselves."""
    measured = []
    fleet.platform.kill("rabbitmq", signal.SIGKILL)
    fleet.platform.stop("rabbitmq")  # else it would be back within seconds
    try:
        values = ["a", *("b" if number % 2 == 0 else "a" for number in range(OUTAGES))]
        for before, after in pairwise(values):
            assert before != after
            measured.append(
                watch.measure(
                    _asked(fleet, name, TOGGLED), _is(after), lambda value=after: _toggle(fleet, value)
                )
            )
            time.sleep(random.uniform(0, 2))  # so that changes come at any moment between two pulls
    finally:
        fleet.platform.start("rabbitmq")
    slowest = max(each.after_commit for each in measured)
    yield Row(
        f"broker killed: {OUTAGES} changes to the last of {len(GATEWAYS)} gateways",
        f"each < {PULL_SECONDS:g} s, by pull",
        ", ".join(f"{each.after_commit:.2f} s" for each in measured),
        slowest < PULL_SECONDS,
    )
    _toggle(fleet, "a")
    fleet.converged()


def numerator(fleet: Fleet, *arguments: str) -> str:
    """Run the command line as an operator does; what it prints. Raises subprocess.CalledProcessError."""
    environment = {
        "NUMERATOR_URL": fleet.urls[0],
        "NUMERATOR_CLIENT_SECRET_FILE": str(fleet.platform.keys.operator_secret),
        "XDG_CACHE_HOME": str(fleet.platform.home / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        cwd=ROOT, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


# The load


@contextmanager
def under_load(urls: list[str], token: str, path: str) -> Iterator["Synchronized[int]"]:
    """Requests at all gateways, from a process of its own, for the time of the block; gives the number of good answers."""
    context = multiprocessing.get_context("spawn")
    answered: Synchronized[int] = context.Value("i", 0)
    process = context.Process(target=_load, args=(urls, token, path, answered), daemon=True)
    process.start()
    try:
        eventually(lambda: answered.value or None, what="the load's first answers")
        yield answered
    finally:
        process.terminate()
        process.join()


def _load(urls: list[str], token: str, path: str, answered: "Synchronized[int]") -> None:
    async def run() -> None:
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}) as session:

            async def ask(url: str) -> None:
                async with session.get(url + path) as answer:
                    await answer.read()
                    answered.value += answer.status in {http.client.OK, http.client.FORBIDDEN}

            async with asyncio.TaskGroup() as group:
                started = asyncio.get_running_loop().time()
                number = 0
                while True:
                    group.create_task(ask(urls[number % len(urls)]))
                    number += 1
                    await asyncio.sleep(max(0.0, started + number / LOAD - asyncio.get_running_loop().time()))

    asyncio.run(run())
