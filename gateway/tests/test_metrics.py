"""What the gateway tells of itself moves with what is asked of it."""

import asyncio

import pytest

from gateway.tests.snapshots_made import document, envelope, record, rollout
from gateway.tests.test_api import BOXES
from services.chassis.testing.measures import counted, measured
from services.chassis.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _measured(*arguments, **labels):
    return await asyncio.to_thread(measured, *arguments, **labels)


async def test_requests__in_progress_are_counted(gateway, services):
    """One more while it runs, and none when it is answered."""
    name = "http_server_active_requests"
    before = await _measured(name, http_request_method="POST")
    slow = asyncio.create_task(gateway.http.post(f"{BOXES}/b:open", json={"key": "wait"}))
    await asyncio.to_thread(eventually, lambda: services.boxes.requests)
    during = await _measured(name, http_request_method="POST")
    services.boxes.slow.set()
    await slow

    assert during == before + 1
    assert await _measured(name, http_request_method="POST") == before


async def test_streams__that_are_open_are_counted(http):
    """While a client reads."""
    before = await _measured("numerator_gateway_streams")
    async with http.stream("GET", f"{BOXES}:watch") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        during = await _measured("numerator_gateway_streams")

    assert during == before + 1
    await asyncio.to_thread(eventually, lambda: measured("numerator_gateway_streams") == before)


async def test_admissions__count_by_verdict_and_reason(gateway, services, member):
    """Who passes, and who does not for which reason."""
    name = "numerator_gateway_admissions_total"
    with counted(1, name, outcome="ADMITTED"), counted(1, name, outcome="REFUSED", reason="NOT_VERIFIED"):
        await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)
        services.rollouts.told.change(record("WAITLISTED", "enterprises/x", reason="NOT_VERIFIED"))
        await asyncio.to_thread(eventually, lambda: gateway.gateway.knowledge.admissions.version == 2)
        await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)


async def test_serving__versions_staleness_and_refusals(gateway, services):
    """What is served, for how long it is not known to be the newest, and documents that were refused."""
    served = gateway.gateway.knowledge.serving
    assert await _measured("numerator_gateway_snapshot_version") >= served.snapshot.version
    assert await _measured("numerator_gateway_admissions_version") >= served.admissions.version
    before = await _measured("numerator_gateway_snapshot_refused_total")
    services.rollouts.snapshot = envelope(
        document(2, rollouts={"enterprise-beta": {**rollout(), "killed": "yes"}})
    )

    await asyncio.to_thread(
        eventually, lambda: measured("numerator_gateway_snapshot_refused_total") > before + 1
    )

    assert gateway.gateway.knowledge.serving.snapshot is served.snapshot
    assert await _measured("numerator_gateway_snapshot_staleness_seconds") > 1


async def test_limits__count_by_which(make_gateway):
    """Of a credential, and of tries to log in."""
    name = "numerator_gateway_limited_total"
    with counted(2, name, limit="credential"), counted(1, name, limit="login"):
        async with make_gateway(credential_rate=1, login_rate=0.01) as gateway:
            for _ in range(4):
                await gateway.http.get("/v1/boxes/b")
            for _ in range(21):
                await gateway.http.post("/v1/sessions", json={"email": "a@b.c", "password": "wrong"})
