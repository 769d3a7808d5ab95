"""PostgreSQL dies under requests: callers are told to come back, and soon everything is as they were told."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from uuid import uuid4

import httpx

from deploy.demo.client import Json, eventually
from tests.chaos.ledger import Ledger
from tests.world import World

_THREADS = 8
_CALM_SECONDS = 2.0
"""So long without an error: recovered."""
_GIVE_UP_SECONDS = 60
_PAUSE = 0.05
"""Between two requests of a thread; callers who are told to wait a second would hide how fast we are back."""


@dataclass
class Restarts:
    """What came of a series of restarts."""

    requests: int = 0
    writes: Ledger = field(default_factory=Ledger)
    errors: Counter[str] = field(default_factory=Counter)
    broken_promises: Counter[str] = field(default_factory=Counter)
    """Errors other than 503 with a reason and Retry-After."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each death until the last error."""
    slowest: float = 0.0
    """Seconds of the slowest request."""

    @property
    def flawless(self) -> bool:
        """Whether errors were as promised, and every write that was accepted is there once."""
        return not self.broken_promises and self.writes.flawless and bool(self.writes.acknowledged)

    def __str__(self) -> str:
        recoveries = ", ".join(f"{seconds:.1f}" for seconds in self.recoveries)
        told = ", ".join(f"{count} × {what}" for what, count in self.errors.most_common()) or "none"
        wrong = ", ".join(f"{count} × {what}" for what, count in self.broken_promises.most_common()) or "none"
        return (
            f"{len(self.recoveries)} restarts under {self.requests:,} requests, recovered after {recoveries} s; "
            f"errors: {told}; other than promised: {wrong}; writes: {self.writes}; slowest answer {self.slowest:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    route: str
    ended: float
    fine: bool


class _Load:
    """Eight callers, each with all routes in an order of its own."""

    def __init__(self, world: World, restarts: Restarts, seed: int) -> None:
        self._http: httpx.Client = world.story.owner._http
        self._enterprise = world.story.enterprise
        self._restarts = restarts
        self._seed = seed
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.mark = f"restart {Random(f'{seed} {time.time()}').getrandbits(32):08x}"
        self.answers: list[_Answer] = []

    def reads(self) -> dict[str, Callable[[], httpx.Request]]:
        """One of each service that keeps anything in the database, and the public page."""
        at = f"/v1/{self._enterprise}"
        build = self._http.build_request
        question = {"metrics": ["exposures"]}
        return {
            "accounts": lambda: build("GET", f"{at}/accounts"),
            "edition": lambda: build("GET", "/v1/edition"),
            "publications": lambda: build("GET", f"{at}/publications", params={"pageSize": 5}),
            "audiences": lambda: build("GET", f"{at}/audiences", params={"pageSize": 5}),
            "campaigns": lambda: build("GET", f"{at}/campaigns", params={"pageSize": 5}),
            "numbers": lambda: build("POST", f"{at}/analytics:query", json=question),
            "page": lambda: build("GET", f"/pages/{self._enterprise.partition('/')[2]}"),
        }

    @property
    def routes(self) -> set[str]:
        """All of them, the write too."""
        return {*self.reads(), "write"}

    def run(self, number: int) -> None:
        """What one caller does until told to stop; a write that it has begun is brought to its end."""
        random = Random(f"{self._seed} {number}")
        writes = 0
        while not self._stopping.is_set():
            reads = list(self.reads().items())
            random.shuffle(reads)
            for route, request in reads:
                self._ask(route, request())
                time.sleep(_PAUSE)
            writes += 1
            self._write(f"{self.mark} {number}-{writes}")

    def stop(self) -> None:
        self._stopping.set()

    def _write(self, text: str) -> None:
        key = {"idempotency-key": str(uuid4())}
        self._restarts.writes.attempted.add(text)
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            request = self._http.build_request(
                "POST", f"/v1/{self._enterprise}/publications", json={"text": text}, headers=key
            )
            if self._ask("write", request):
                self._restarts.writes.acknowledged.add(text)
                return
            time.sleep(_PAUSE)

    def _ask(self, route: str, request: httpx.Request) -> bool:
        began = time.monotonic()
        try:
            answer = self._http.send(request)
            fine, problem = answer.is_success, "" if answer.is_success else _problem(answer)
            promised = fine or _as_promised(answer)
        except httpx.HTTPError as error:
            fine, promised, problem = False, False, type(error).__name__
        ended = time.monotonic()
        with self._lock:
            self.answers.append(_Answer(route, ended, fine))
            self._restarts.requests += 1
            self._restarts.slowest = max(self._restarts.slowest, ended - began)
            if not fine:
                self._restarts.errors[problem] += 1
            if not promised:
                self._restarts.broken_promises[f"{route}: {problem}"] += 1
        return fine

    def since(self, moment: float) -> list[_Answer]:
        with self._lock:
            return [each for each in self.answers if each.ended > moment]


def restart_database(world: World, times: int, *, seed: int, say: Callable[[str], None] = print) -> Restarts:
    """
    Let PostgreSQL die at once (SIGQUIT, `-m immediate`), `times` times, under eight callers; its supervisor starts it.

    Args:
        world: prepared.
        times: how often.
        seed: of the order of the requests, and of when it dies.
        say: told of each death.
    """
    restarts = Restarts()
    random = Random(seed)
    load = _Load(world, restarts, seed)
    with ThreadPoolExecutor(_THREADS) as pool:
        callers = [pool.submit(load.run, number) for number in range(_THREADS)]
        try:
            for _ in range(times):
                begin = time.monotonic()
                eventually(lambda begin=begin: _all_fine(load, begin) or None, what="answers of all routes")
                time.sleep(random.uniform(0, 0.5))  # a random moment
                killed = time.monotonic()
                old = world.platform.kill("postgres", signal.SIGQUIT)
                restarts.recoveries.append(_await_calm(world, load, killed, old))
                say(
                    f"    PostgreSQL died at once; the last error came {restarts.recoveries[-1]:.1f} s after it"
                )
        finally:
            load.stop()
    for caller in callers:
        caller.result()
    restarts.writes.seen = Counter(_written(world, load.mark))
    return restarts


def _await_calm(world: World, load: _Load, killed: float, old: int) -> float:
    """Wait until all routes answer, and go on to; returns the seconds from the death to the last error."""
    last_error = killed

    def calm() -> bool:
        nonlocal last_error
        answers = load.since(killed)
        last_error = max((each.ended for each in answers if not each.fine), default=last_error)
        quiet = time.monotonic() - max(last_error, killed) > _CALM_SECONDS
        back = world.platform.states()["postgres"].pid not in (0, old)
        return back and quiet and {each.route for each in answers if each.ended > last_error} == load.routes

    eventually(lambda: calm() or None, what="recovery from the restart", seconds=_GIVE_UP_SECONDS)
    return last_error - killed


def _all_fine(load: _Load, begin: float) -> bool:
    return {each.route for each in load.since(begin) if each.fine} == load.routes


def _problem(answer: httpx.Response) -> str:
    return f"{answer.status_code} {_body(answer).get('reason', 'without a reason')}"


def _as_promised(answer: httpx.Response) -> bool:
    return (
        answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        and answer.headers.get("retry-after", "").isdecimal()
        and bool(_body(answer).get("reason"))
    )


def _body(answer: httpx.Response) -> Json:
    is_problem = answer.headers.get("content-type", "").startswith("application/problem+json")
    return dict(answer.json()) if is_problem else {}


def _written(world: World, mark: str) -> Iterator[str]:
    """The texts of this run's publications, as the public API lists them."""
    for each in world.story.owner.list(
        f"/v1/{world.story.enterprise}/publications", "publications", pageSize=500
    ):
        if each["text"].startswith(mark):
            yield each["text"]
