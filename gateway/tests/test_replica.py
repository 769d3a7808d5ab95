"""What a gateway tells of itself: versions since when, first uses until they are known, and that it leaves."""

import asyncio
from datetime import UTC, timedelta

import pytest
from numerator.rollout.v1 import serving_pb2 as pb

from gateway import replica
from gateway.errors import Problem
from gateway.replica import Exposures, Heartbeat
from gateway.serving import Knowledge, unpack
from gateway.tests.conftest import log_in
from gateway.tests.snapshots_made import FLAG, document, envelope, knowing, record, rollout
from gateway.tests.test_api import BOXES
from services.chassis.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

X = "enterprises/x"


class Service:
    """Takes reports, or not, as the test says."""

    def __init__(self):
        self.reports = []
        self.away = False
        self.replica_count = 3

    async def report(self, request):
        self.reports.append(request)
        if self.away:
            raise Problem(503, "UNAVAILABLE", "away")
        return pb.ReportReplicaResponse(replica_count=self.replica_count)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def exposures():
    return Exposures()


@pytest.fixture
def make(service, exposures):
    def make(knowledge, set_count=lambda count: None, leaving=lambda: False):
        return Heartbeat(knowledge, exposures, service.report, set_count=set_count, leaving=leaving)

    return make


def told(report):
    return [(each.flag, each.enterprise, each.stage) for each in report.exposures]


# --- reports


async def test_report__versions_since_when(make, service, clock):
    """Both versions, each with the time at which this gateway began to serve it."""
    knowledge = knowing(document(5), record("ACTIVE"), clock=clock)
    began = clock.now()
    clock.advance(timedelta(seconds=7))
    knowledge.take_snapshot(unpack(envelope(document(6))))

    await make(knowledge).once()

    (report,) = service.reports
    assert (report.snapshot_version, report.admissions_version, report.leaving) == (6, 1, False)
    assert report.snapshot_time.ToDatetime(tzinfo=UTC) == clock.now()
    assert report.admissions_time.ToDatetime(tzinfo=UTC) == began


async def test_report__not_before_something_is_served(make, service, clock):
    """A gateway that knows nothing yet serves nothing."""
    await make(Knowledge(clock, 60)).once()
    await make(Knowledge(clock, 60)).leave()

    assert service.reports == []


async def test_report__names(make, clock):
    """Each start has a name of its own, that fits."""
    names = {make(Knowledge(clock, 60)).name for _ in range(3)}

    assert len(names) == 3
    assert max(map(len, names)) <= 100


async def test_report__how_many_there_are(make, service):
    """The answer is handed on; nobody is told that there are no gateways."""
    counts = []
    heartbeat = make(knowing(document()), set_count=counts.append)
    await heartbeat.once()
    service.replica_count = 0
    await heartbeat.once()
    service.away = True
    await heartbeat.once()

    assert counts == [3, 1]


async def test_report__right_after_a_change(make, service, monkeypatch):
    """An operator need not wait for the next second; many changes at once are one report."""
    monkeypatch.setattr(replica, "REPORT_SECONDS", 60)
    knowledge = knowing(document())
    running = asyncio.create_task(make(knowledge).run())
    await asyncio.to_thread(eventually, lambda: service.reports)

    for version in range(2, 12):
        await asyncio.to_thread(knowledge.take_snapshot, unpack(envelope(document(version))))
    await asyncio.to_thread(eventually, lambda: service.reports[-1].snapshot_version == 11)

    assert len(service.reports) < 6
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_report__each_second(make, service, monkeypatch):
    """Also when nothing changes, and when reports fail."""
    monkeypatch.setattr(replica, "REPORT_SECONDS", 0.01)
    service.away = True
    running = asyncio.create_task(make(knowing(document())).run())
    await asyncio.to_thread(eventually, lambda: len(service.reports) > 3)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_leave__says_so_and_waits_for_nobody(make, service, monkeypatch):
    """The last report; a service that is away or silent does not keep the gateway."""
    monkeypatch.setattr(replica, "_LEAVE_SECONDS", 0.05)
    heartbeat = make(knowing(document()), leaving=lambda: True)
    await heartbeat.once()
    await heartbeat.leave()
    service.away = True
    await heartbeat.leave()
    assert [each.leaving for each in service.reports] == [True] * 3

    async def silent(request):
        await asyncio.Event().wait()

    heartbeat._report = silent
    await asyncio.wait_for(heartbeat.leave(), 5)


# --- first uses


async def test_exposures__once_for_each_stage_until_they_are_known(make, service, exposures):
    """A first use is told until it was answered, and no second time; a new stage is a new first use."""
    heartbeat = make(knowing(document()))
    for stage in ("one", "one", "two", "one"):
        exposures.note((FLAG, X, stage))
    service.away = True
    await heartbeat.once()
    service.away = False
    exposures.note((FLAG, X, "three"))
    await heartbeat.once()
    exposures.note((FLAG, X, "one"))
    await heartbeat.once()

    assert [told(each) for each in service.reports] == [
        [(FLAG, X, "one"), (FLAG, X, "two")],
        [(FLAG, X, "one"), (FLAG, X, "two"), (FLAG, X, "three")],
        [],
    ]


async def test_exposures__are_bounded(make, service, exposures, monkeypatch):
    """So many wait, so many go into a report; what did not fit is noted at its next use, and nothing that waits is forgotten."""
    monkeypatch.setattr(replica, "_MOST_WAITING", 4)
    monkeypatch.setattr(replica, "_MOST_IN_A_REPORT", 3)
    monkeypatch.setattr(replica, "_MOST_KNOWN", 5)
    heartbeat = make(knowing(document()))
    uses = [(FLAG, f"enterprises/{n}", "one") for n in range(6)]

    for _ in range(3):
        for use in uses:
            exposures.note(use)
        await heartbeat.once()

    reported = [use for each in service.reports for use in told(each)]
    assert [len(each.exposures) for each in service.reports] == [3, 3, 3]
    assert set(reported) == set(uses)


# --- a whole gateway


async def test_gateway__reports_and_leaves(make_gateway, services):
    """What it serves, who has used the edition in which stage, and at last that it stops; the answer divides the limits."""
    services.rollouts.replica_count = 3
    services.rollouts.snapshot = envelope(document(rollouts={FLAG: rollout(requestsPerMinute=30)}))
    async with make_gateway() as gateway:
        member = await log_in(gateway)
        await asyncio.to_thread(eventually, lambda: services.rollouts.reports)
        answers = [
            await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member) for _ in range(11)
        ]
        await asyncio.to_thread(
            eventually, lambda: [use for each in services.rollouts.reports for use in told(each)]
        )

    *before, last = services.rollouts.reports
    assert [each.status_code for each in answers] == [200] * 10 + [429]
    assert (before[-1].snapshot_version, before[-1].admissions_version) == (1, 1)
    assert [use for each in before for use in told(each)] == [(FLAG, X, "private-beta")]
    assert not any(each.leaving for each in before)
    assert last.leaving
    assert len({each.replica for each in services.rollouts.reports}) == 1
