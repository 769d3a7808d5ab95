"""Guardrails on the running platform: the live part of row 5 of `make verify-rollout`."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from threading import Event, Lock

import grpc
import psycopg
from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as stubs

from deploy.demo.client import eventually
from deploy.local.platform import Platform
from services.chassis.buckets import bucket_of
from services.chassis.clock import SystemClock
from services.chassis.ids import new_id
from services.chassis.principal import Principal, PrincipalSigner
from services.chassis.rpc.channel import channel
from services.chassis.timestamps import stamp
from tests.verify.rollout_fleet import GATEWAYS, Fleet, Sides
from tests.verify.table import Row

ROLLOUT = "verify-guarded"
ENTERPRISES = 400
USUAL, SEVERE = 0.02, 0.10
"""Error rates."""
CORRELATION = 0.05
"""Of the requests of one enterprise, as in the simulation."""
MOST_TICKS = 3
CONTROL = 5_000  # basis points
NARROW, WIDE = 2_000, 6_000
SILENCE = 10
PLAN = f"""
rollout: {ROLLOUT}
flag: {ROLLOUT}
eligible: {{and: [{{"==": [{{var: verified}}, true]}}, {{"==": [{{var: cohort}}, guarded]}}]}}
control_share: {CONTROL // 100}%
stages:
  - {{ring: narrow, percent: {NARROW // 100}%}}
  - {{ring: wide, percent: {WIDE // 100}%, hold: {{approvals: 1}}}}
  - {{ring: all}}
guardrails: [{{metric: gateway.error_rate, worse: up, vs: control, alpha: 0.05, action: rollback}}]
on: {{no_data: pause after {SILENCE}s, srm: pause, inconclusive: warn}}
"""
_REQUESTS = 10
_REPORT_SECONDS = 0.5
_BUSY = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}


class Traffic:
    """
    Reports to analytics what enterprises have asked, twice a second, as a fourth gateway would.

    Each enterprise has an error rate of its own around the given one. A report that was not answered is sent again.
    """

    def __init__(self, platform: Platform) -> None:
        signer = PrincipalSigner(platform.keys.gateway.read_text())
        clock = SystemClock()
        self._channel = channel(
            platform.url("analytics"),
            services=[pb.DESCRIPTOR.services_by_name["AnalyticsService"]],
            principal_token=lambda: signer.sign(Principal("GATEWAY", "gateway"), clock.now()),
        )
        self._stub = stubs.AnalyticsServiceStub(self._channel)
        self._dice = Random(1)
        self._replica = new_id()
        self._rates: dict[str, float] = {}
        self._lock = Lock()
        self._stop = Event()

    def set(self, mean: float, enterprises: set[str]) -> None:
        """From now on these have error rates around `mean`."""
        spread = 1 / CORRELATION - 1
        drawn = {
            name: self._dice.betavariate(mean * spread, (1 - mean) * spread) for name in sorted(enterprises)
        }
        with self._lock:
            self._rates |= drawn

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Report for the time of the block. Raises what a report failed with."""
        with ThreadPoolExecutor(1) as pool:
            reports = pool.submit(self._run)
            try:
                yield
            finally:
                self._stop.set()
        self._channel.close()
        reports.result()

    def _run(self) -> None:
        while not self._stop.wait(_REPORT_SECONDS):
            report = self._report()
            while not self._sent(report):
                self._stop.wait(_REPORT_SECONDS)

    def _report(self) -> pb.RecordUsageRequest:
        now = stamp(datetime.now(UTC))
        with self._lock:
            rates = dict(self._rates)
        usages = [
            pb.Usage(enterprise=name, time=now, requests=_REQUESTS, server_errors=self._errors(rate))
            for name, rate in rates.items()
        ]
        return pb.RecordUsageRequest(
            replica=self._replica, through_time=now, request_id=new_id(), usages=usages
        )

    def _sent(self, report: pb.RecordUsageRequest) -> bool:
        try:
            self._stub.RecordUsage(report)
        except grpc.RpcError as error:
            if error.code() not in _BUSY or self._stop.is_set():
                raise
            return False
        return True

    def _errors(self, rate: float) -> int:
        return sum(self._dice.random() < rate for _ in range(_REQUESTS))


def guarded(fleet: Fleet) -> Iterator[Row]:
    """The live part of row 5."""
    control, narrow, wide = _arms(fleet.remember("guarded", ENTERPRISES))
    traffic = Traffic(fleet.platform)
    traffic.set(USUAL, control | wide)
    with traffic.flowing():
        fleet.apply(PLAN)
        fleet.do("start", ROLLOUT)
        yield _rolled_back(fleet, traffic, narrow, wide, waiting=False)
        _begin_anew(fleet, traffic, wide)
        yield _rolled_back(fleet, traffic, narrow, wide, waiting=True)
        _begin_anew(fleet, traffic, wide)
        yield _silenced(fleet, narrow)
    fleet.do("rollback", ROLLOUT, reason="the measurement is over", toStart=True)
    fleet.do("archive", ROLLOUT)


def _arms(enterprises: list[str]) -> tuple[set[str], set[str], set[str]]:
    """The control group, and who is in each stage, by the frozen buckets."""
    control = {name for name in enterprises if bucket_of(f"rollouts/{ROLLOUT}/control", name) < CONTROL}
    bucket = {name: bucket_of(f"rollouts/{ROLLOUT}", name) for name in set(enterprises) - control}
    narrow, wide = ({name for name, place in bucket.items() if place < share} for share in (NARROW, WIDE))
    return control, narrow, wide


def _begin_anew(fleet: Fleet, traffic: Traffic, wide: set[str]) -> None:
    traffic.set(USUAL, wide)
    fleet.do("restart", ROLLOUT)


def _rolled_back(fleet: Fleet, traffic: Traffic, narrow: set[str], wide: set[str], *, waiting: bool) -> Row:
    """Widen, let things go wrong at once or while the stage waits, and see how soon and how exactly it is taken back."""
    _passes(fleet)
    fleet.converged()
    anchor = _state(fleet)
    fleet.do("advance", ROLLOUT)
    what = "as soon as the stage is wider"
    if waiting:
        what = "while the stage waits for nothing but its approval"
        eventually(
            lambda: _open_gates(fleet) == {"APPROVALS"} or None, what="the stage waiting for its approval"
        )
    traffic.set(SEVERE, wide)
    began, since = time.monotonic(), datetime.now(UTC)
    eventually(
        lambda: fleet.rollout(ROLLOUT)["state"] == "ROLLED_BACK" or None, what="the rollback", seconds=60
    )
    seconds = time.monotonic() - began
    after = fleet.rollout(ROLLOUT)
    ticks = _ticks(fleet, since)
    fleet.converged()
    exact = _state(fleet) == anchor and anchor[0] == dict.fromkeys(narrow, "narrow")
    return Row(
        f"on the platform: {USUAL:.0%} -> {SEVERE:.0%} errors {what}",
        f"rolled back by the guardrail in at most {MOST_TICKS} ticks; what is served equals the anchor",
        f"{ticks} ticks, {seconds:.1f} s; {len(narrow)} -> {len(wide)} -> {len(anchor[0])} in, "
        f"{'equal to' if exact else 'other than'} the anchor at the service and at {len(GATEWAYS)} gateways; "
        f"{after['reason']}",
        exact and 0 < ticks <= MOST_TICKS and after["cause"] == "GUARDRAIL" and after["stage"] == "narrow",
    )


def _silenced(fleet: Fleet, narrow: set[str]) -> Row:
    """Analytics' worker stands still: nothing is measured any more."""
    _passes(fleet)
    before = _state(fleet)
    fleet.platform.kill("analytics-worker", signal.SIGSTOP)
    began = time.monotonic()
    try:
        eventually(lambda: fleet.rollout(ROLLOUT)["state"] == "PAUSED" or None, what="the pause", seconds=60)
        seconds = time.monotonic() - began
        paused = fleet.rollout(ROLLOUT)
        after = _state(fleet)
    finally:
        fleet.platform.kill("analytics-worker", signal.SIGCONT)
    fleet.do("resume", ROLLOUT)
    _passes(fleet)
    return Row(
        f"on the platform: analytics stopped, and the plan says `no_data: pause after {SILENCE}s`",
        "paused for NO_DATA, nobody changes sides; goes on when there is data",
        f"paused for {paused['cause']} after {seconds:.1f} s; {len(narrow)} in before, "
        f"{len(after[0])} after, {'the same ones' if after == before else 'others'}; resumed: analysis passes",
        paused["cause"] == "NO_DATA" and after == before and seconds >= SILENCE - 2,
    )


def _state(fleet: Fleet) -> tuple[dict[str, str], list[Sides]]:
    """Who is in by which stage, as the service has it, and what each gateway serves."""
    records = fleet.records(ROLLOUT)
    inside = {name: record["stage"] for name, record in records.items() if record["state"] == "ACTIVE"}
    return inside, fleet.served_by_each([ROLLOUT], sorted(records))


def _open_gates(fleet: Fleet) -> set[str]:
    """What holds the stage."""
    gates = fleet.operator.get(f"/v1/rollouts/{ROLLOUT}/status")["gates"]
    return {gate["kind"] for gate in gates if not gate["met"]}


def _passes(fleet: Fleet) -> None:
    """Wait until a look at the stage has found nothing."""
    eventually(lambda: "ANALYSIS" not in _open_gates(fleet) or None, what="a look without findings")


def _ticks(fleet: Fleet, since: datetime) -> int:
    """How many looks were made at data of after a moment; the last one is that of the rollback."""
    with psycopg.connect(fleet.platform.database_url) as connection:
        looks = connection.execute(
            """
            select count(*) from rollout.analyses
            where rollout = %s and stage = 'wide' and (verdicts -> 0 ->> 'measured_through')::timestamptz > %s
            """,
            (f"rollouts/{ROLLOUT}", since),
        ).fetchone()
    return int(looks[0]) if looks else 0
