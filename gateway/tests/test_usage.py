"""What enterprises ask is counted, and reported so that analytics can count it once."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from numerator.analytics.v1 import analytics_pb2 as pb

from gateway import usage
from gateway.catalogue import Shape
from gateway.errors import Problem
from gateway.tests.test_api import BOXES
from gateway.usage import PATIENCE, SLOW_SECONDS, Usage
from services.chassis.testing.measures import counted
from services.chassis.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

X, Y = "enterprises/x", "enterprises/y"
DROPPED = "numerator_gateway_usage_dropped_total"


class Analytics:
    """Takes reports, or not, as the test says."""

    def __init__(self):
        self.reports = []
        self.asked = asyncio.Event()
        self.away = False
        self.silent = False

    async def record(self, report):
        self.reports.append(pb.RecordUsageRequest.FromString(report.SerializeToString()))
        self.asked.set()
        if self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise Problem(503, "UNAVAILABLE", "away")
        return pb.RecordUsageResponse()

    def told(self):
        """The last report: requests, server errors and slow ones, by enterprise and interval."""
        return {
            (each.enterprise, each.time.ToDatetime(tzinfo=UTC)): (
                each.requests,
                each.server_errors,
                each.slow,
            )
            for each in self.reports[-1].usages
        }


@pytest.fixture
def analytics():
    return Analytics()


@pytest.fixture
def counts(analytics, clock):
    return Usage(analytics.record, clock, 5)


def ask(counts, enterprise=X, status=200, seconds=0.1, shape=Shape.UNARY):
    counts.answered({"enterprise": enterprise, "shape": shape}, status, seconds)


# --- what is counted


async def test_report__by_enterprise_and_interval(counts, analytics, clock):
    """Requests, server errors, slow ones; what is told is told once, and a quiet time is told too. Who is refused does not count."""
    for status, seconds in ((200, SLOW_SECONDS), (404, 0.31), (500, 0.1), (503, 9)):
        ask(counts, status=status, seconds=seconds)
    ask(counts, Y)
    ask(counts, Y, status=403)
    clock.advance(timedelta(seconds=4))
    ask(counts)
    clock.advance(timedelta(seconds=1))
    ask(counts)

    await counts.report()
    told = analytics.told()
    await counts.report()

    noon = datetime(2026, 1, 15, 12, tzinfo=UTC)
    assert told == {(X, noon): (5, 2, 2), (Y, noon): (1, 0, 0), (X, noon + timedelta(seconds=5)): (1, 0, 0)}
    assert analytics.told() == {}
    assert analytics.reports[-1].through_time.ToDatetime(tzinfo=UTC) == clock.now()


@pytest.mark.parametrize("shape", [Shape.EVENTS, Shape.UPLOAD])
async def test_streams_and_uploads__are_never_slow(counts, analytics, shape):
    """They may take their time; their errors count."""
    ask(counts, status=500, seconds=60, shape=shape)

    await counts.report()

    assert list(analytics.told().values()) == [(1, 1, 0)]


async def test_requests__of_enterprises_only(make_gateway, services, member, monkeypatch):
    """Of members and clients, whatever becomes of them; not of strangers and operators, nor without a route."""
    monkeypatch.setattr(
        usage, "SLOW_SECONDS", 0.9
    )  # a busy machine takes more than 0.3; the one that waits takes 1

    async def login(name, secret):
        grant = {"grant_type": "client_credentials", "client_id": name, "client_secret": secret}
        answer = await gateway.http.post("/oauth2/token", data=grant)
        return {"authorization": f"Bearer {answer.json()['access_token']}"}

    async with make_gateway(usage_seconds=60) as gateway:
        client, ops = await login("app", "s3:cr et"), await login("ops", "secret")
        for headers in (member, client, ops, {}):
            await gateway.http.get("/v1/boxes/b", headers=headers)
        await gateway.http.get("/nowhere", headers=member)
        await gateway.http.get("/healthz", headers=member)
        await gateway.http.get(f"{BOXES}?colour=red", headers=member)
        await gateway.http.post(f"{BOXES}/b:open", json={"key": "crash"}, headers=member)
        await gateway.http.post(f"{BOXES}/b:open", json={"key": "wait"}, headers=member)
        async with gateway.http.stream("GET", f"{BOXES}:watch", headers=member) as stream:
            async for _ in stream.aiter_bytes():
                pass

    assert services.analytics.counted() == {X: (6, 2, 1)}


# --- how it is reported


async def test_report__that_failed__is_sent_again_as_it_was(counts, analytics, clock):
    """The same report under the same id, and what came meanwhile in the next one."""
    ask(counts)
    analytics.away = True
    for _ in range(3):
        assert not await counts.report()
        clock.advance(timedelta(seconds=5))
        ask(counts)
    analytics.away = False

    assert await counts.report()
    assert analytics.reports == [analytics.reports[0]] * 4
    assert await counts.report()
    assert analytics.reports[4].request_id != analytics.reports[0].request_id
    assert analytics.reports[4].replica == analytics.reports[0].replica
    assert list(analytics.told().values()) == [(1, 0, 0)] * 3


async def test_reports__of_two_gateways__with_lost_answers__are_exact(make_gateway, services, member):
    """Analytics has taken reports and nobody knows it: by the reports' ids it counts every request once."""
    services.analytics.lost = 5
    async with make_gateway(usage_seconds=0.02) as one, make_gateway(usage_seconds=0.02) as other:
        for _ in range(20):
            for gateway in (one, other):
                await gateway.http.get("/v1/boxes/b", headers=member)
        await asyncio.to_thread(eventually, lambda: not services.analytics.lost)

    reports = services.analytics.reports
    assert len({each.replica for each in reports}) == 2
    assert len(reports) > len({each.request_id for each in reports})
    assert services.analytics.counted()[X][0] == 40


async def test_counts__are_bounded(counts, analytics, monkeypatch):
    """While analytics is away the oldest make room, and are counted as dropped."""
    monkeypatch.setattr(usage, "MOST_COUNTS", 2)
    analytics.away = True
    ask(counts)
    await counts.report()
    with counted(2, DROPPED):
        for enterprise in (X, X, Y, "enterprises/z"):
            ask(counts, enterprise)
    analytics.away = False
    await counts.report()

    await counts.report()

    assert [enterprise for enterprise, _ in analytics.told()] == [Y, "enterprises/z"]


async def test_report__that_nobody_takes__is_dropped_in_the_end(counts, analytics, clock):
    """Long before analytics would no longer know that it had it."""
    ask(counts)
    analytics.away = True
    await counts.report()
    clock.advance(PATIENCE)
    await counts.report()
    with counted(1, DROPPED):
        clock.advance(timedelta(seconds=1))
        await counts.report()

    assert [len(each.usages) for each in analytics.reports] == [1, 1, 0]
    assert len({each.request_id for each in analytics.reports}) == 2


# --- the end


async def test_end__what_is_left_is_reported(counts, analytics):
    """What was not taken, or was under way, and what came after it."""
    ask(counts)
    analytics.silent = True
    under_way = asyncio.create_task(counts.report())
    await analytics.asked.wait()
    under_way.cancel()
    await asyncio.gather(under_way, return_exceptions=True)
    ask(counts, Y)
    analytics.silent = False

    await counts.finish()

    assert analytics.reports[0] == analytics.reports[1]
    assert [enterprise for enterprise, _ in analytics.told()] == [Y]
    assert len(analytics.reports) == 3


async def test_end__does_not_wait_for_ever(counts, analytics, monkeypatch):
    """An analytics service that says nothing does not keep the gateway from ending."""
    monkeypatch.setattr(usage, "_LAST_SECONDS", 0.05)
    analytics.silent = True

    await asyncio.wait_for(counts.finish(), 5)

    assert len(analytics.reports) == 1
