"""The sender of webhooks, against servers that answer, refuse, hang and disappear."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from typing import Any

import pika
import pytest
from numerator.events.v1.accounts_pb2 import AccountBound, WebhookEndpointDisabled
from numerator.events.v1.placement_pb2 import CampaignStarted
from standardwebhooks.webhooks import Webhook

from services.accounts import metrics
from services.accounts.model.webhooks import Attempt, DeliveryState, EndpointState
from services.accounts.store import webhooks as rows
from services.accounts.tests.measure_webhooks import measure
from services.accounts.tests.partners import (
    Partner,
    endpoint,
    enterprise,
    environment,
    partner,
    start,
    tell,
    url_of,
)
from services.accounts.usecases import webhooks
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import MasterKey, MasterKeys
from services.accounts.webhooks import Sender, SenderOptions, _retry_after
from services.accounts.worker import Worker
from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Tenant
from services.chassis.messaging import topology
from services.chassis.outgoing import OutgoingClient
from services.chassis.outgoing_rules import OutgoingRules
from services.chassis.principal import Principal
from services.chassis.testing.broker import Broker
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.measures import counted, measured
from services.chassis.testing.outcomes import told
from services.chassis.testing.waiting import eventually

LOCAL = OutgoingRules(private_networks=(IPv4Network("127.0.0.0/8"),), plain_http=True, any_port=True)
CAMPAIGN = CampaignStarted(campaign="enterprises/x/campaigns/c")


class Situation:
    """A database with an enterprise, a partner, and a sender that takes one step at a time."""

    def __init__(self, database: TemporaryDatabase, receiver: Partner) -> None:
        self.database = database
        self.partner = receiver
        self.master_key = os.urandom(32)
        self.vault = Vault(MasterKeys(MasterKey(self.master_key)))
        self.enterprise = enterprise(database)
        self.rules = LOCAL

    def endpoint(self, path: str) -> tuple[str, str]:
        """A new endpoint of the partner: name and secret."""
        made, secret = endpoint(self.database, self.vault, self.enterprise, self.partner.url + path)
        return made.name, secret

    def tell(self) -> str:
        """Tell of an event; returns its id."""
        return tell(self.database, self.enterprise, CAMPAIGN)

    def sender(self, client: OutgoingClient, options: SenderOptions | None = None) -> Sender:
        """A sender."""
        return Sender(self.database, self.vault, client, options or SenderOptions(), SystemClock())

    async def step(self, *, failing: bool = False, patience: float = 5) -> int:
        """Send what is due now; returns to how many endpoints."""
        async with OutgoingClient(self.rules, timeout=timedelta(seconds=patience)) as client:
            sender = self.sender(client)
            assignments, _wait = await sender._lease(100, failing=failing)
            await asyncio.gather(*map(sender._work, assignments))
        return len(assignments)

    def rows(self, table: str) -> list[Mapping[str, Any]]:
        """All rows of a table."""
        with self.database.transaction(PLATFORM) as tx:
            return list(tx.execute(f"select * from {table}").fetchall())

    def change(self, statement: str) -> None:
        """Change rows."""
        with self.database.transaction(PLATFORM) as tx:
            tx.execute(statement)


@pytest.fixture
def situation(make_database: Callable[..., TemporaryDatabase]) -> Iterator[Situation]:
    """By the real clock."""
    with partner() as receiver:
        yield Situation(make_database("accounts", max_size=12), receiver)


async def test_delivery__is_signed_and_taken(situation: Situation) -> None:
    """The standard's own library takes it; the log tells."""
    _, secret = situation.endpoint("/200")
    event = situation.tell()
    assert await situation.step() == 1
    (request,) = situation.partner.requests
    assert Webhook(secret).verify(request.body, dict(request.headers))["data"] == {
        "campaign": CAMPAIGN.campaign
    }
    assert request.headers["webhook-id"] == event
    assert request.headers["content-type"] == "application/json"
    (delivery,), (attempt,) = situation.rows("webhook_deliveries"), situation.rows("webhook_attempts")
    assert (delivery["state"], delivery["tries"], delivery["due_time"]) == ("DELIVERED", 1, None)
    assert (attempt["status"], attempt["error"]) == (200, "")
    assert await situation.step() == 0


async def test_delivery__during_a_rotation_has_two_signatures(situation: Situation) -> None:
    """Receivers with the old secret, and with the new one, take it."""
    name, old = situation.endpoint("/200")
    caller = Principal("MEMBER", "m", situation.enterprise)
    with situation.database.transaction(Tenant(situation.enterprise)) as tx:
        _, new = webhooks.rotate_secret(
            tx, situation.vault, name, overlap=timedelta(hours=1), etag="", caller=caller
        )
    situation.tell()
    await situation.step()
    (request,) = situation.partner.requests
    assert len(request.headers["webhook-signature"].split()) == 2
    for secret in (old, new.get_secret_value()):
        Webhook(secret).verify(request.body, dict(request.headers))


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/500", 500, "HTTP_STATUS"),
        ("/400", 400, "HTTP_STATUS"),
        ("/302", 302, "HTTP_STATUS"),
        ("/later", 503, "HTTP_STATUS"),
        ("/hang", 0, "TIMEOUT"),
    ],
)
async def test_delivery__that_fails_is_tried_again(
    situation: Situation, path: str, status: int, error: str
) -> None:
    """Whatever the failure; a redirect is one, and is not followed."""
    situation.endpoint(path)
    situation.tell()
    await situation.step(patience=0.5)
    (delivery,), (attempt,) = situation.rows("webhook_deliveries"), situation.rows("webhook_attempts")
    assert (delivery["state"], delivery["tries"]) == ("PENDING", 1)
    assert (attempt["status"], attempt["error"]) == (status, error)
    (kept,) = situation.rows("webhook_endpoints")
    assert (kept["failures"], kept["lease_until"]) == (1, None)
    assert kept["due_time"] >= delivery["due_time"]
    assert not situation.partner.of("/moved")
    rest = kept["rest_until"] - attempt["time"] if kept["rest_until"] else timedelta()
    assert (timedelta(seconds=119) < rest < timedelta(seconds=125)) == (path == "/later")


async def test_delivery__succeeds_later(situation: Situation) -> None:
    """With the same id; the endpoint is well again."""
    situation.endpoint("/200")
    situation.partner.answers["/200"] = ["500", "500"]
    situation.tell()
    for _ in range(3):
        situation.change("update webhook_deliveries set due_time = now() where state = 'PENDING'")
        situation.change("update webhook_endpoints set due_time = now() where due_time is not null")
        assert await situation.step() + await situation.step(failing=True) == 1
    assert len({each.headers["webhook-id"] for each in situation.partner.requests}) == 1
    (delivery,), (kept,) = situation.rows("webhook_deliveries"), situation.rows("webhook_endpoints")
    assert (delivery["state"], delivery["tries"]) == ("DELIVERED", 3)
    assert (kept["failures"], kept["failing_since"]) == (0, None)
    assert [each["status"] for each in situation.rows("webhook_attempts")] == [500, 500, 200]


async def test_endpoint__that_fails_gets_one_request_at_a_time(situation: Situation) -> None:
    """Ten events wait: the first time two requests at most, then one, then none while it rests."""
    situation.endpoint("/500")
    for _ in range(10):
        situation.tell()
    await situation.step()
    assert len(situation.partner.requests) <= 2
    before = len(situation.partner.requests)
    assert await situation.step() == 0
    assert await situation.step(failing=True) == 1
    assert len(situation.partner.requests) == before + 1
    while situation.rows("webhook_endpoints")[0]["rest_until"] is None:
        assert await situation.step(failing=True) == 1
    assert len(situation.partner.requests) <= 3
    assert await situation.step(failing=True) == 0
    situation.tell()
    assert await situation.step(failing=True) == 0


async def test_metrics__tell_of_attempts_and_ends(situation: Situation) -> None:
    """A first attempt, one more after it, and the end; and for how long something has been due."""
    situation.endpoint("/500")
    situation.tell()
    situation.change("update webhook_endpoints set due_time = due_time - interval '1 minute'")
    attempts, ended = (
        "numerator_accounts_webhook_attempts_total",
        "numerator_accounts_webhook_deliveries_ended_total",
    )

    assert 60 <= oldest_due(situation, "LIVE") < 120
    with counted(1, attempts, outcome="HTTP_STATUS", retry="false"), counted(0, ended):
        await situation.step()
    assert oldest_due(situation, "LIVE") == 0
    situation.change("update webhook_endpoints set rest_until = null, due_time = now() - interval '1 minute'")
    situation.change("update webhook_deliveries set tries = 9, due_time = now()")
    assert 60 <= oldest_due(situation, "FAILING") < 120
    with (
        counted(1, attempts, outcome="HTTP_STATUS", retry="true"),
        counted(1, ended, state="FAILED", reason="ATTEMPTS_EXHAUSTED"),
    ):
        await situation.step(failing=True)


def oldest_due(situation: Situation, endpoint: str) -> float:
    """For how long something has been due for endpoints that are LIVE or FAILING, as the worker tells it."""
    with situation.database.transaction(PLATFORM) as tx:
        metrics.read(tx)
    return measured("numerator_accounts_webhook_oldest_due_seconds", endpoint=endpoint)


async def test_endpoint__that_is_gone_is_disabled(situation: Situation) -> None:
    """By 410: what waits is FAILED, and an event and the audit trail tell so."""
    name, _ = situation.endpoint("/410")
    for _ in range(4):
        situation.tell()
    await situation.step()
    (kept,) = situation.rows("webhook_endpoints")
    assert (kept["state"], kept["disabled_by"], kept["due_time"]) == ("DISABLED", "GONE", None)
    assert {each["state"] for each in situation.rows("webhook_deliveries")} == {"FAILED"}
    assert told(situation.database, WebhookEndpointDisabled) == [
        WebhookEndpointDisabled(endpoint=name, reason="GONE")
    ]
    assert "webhook_endpoint.disabled" in {each["action"] for each in situation.rows("audit")}


async def test_endpoint__that_fails_for_five_days_is_disabled(situation: Situation) -> None:
    """And told of as FAILING."""
    name, _ = situation.endpoint("/500")
    situation.tell()
    await situation.step()
    situation.change(
        "update webhook_endpoints set failing_since = now() - interval '5 days', due_time = now()"
    )
    situation.change("update webhook_deliveries set due_time = now()")
    await situation.step(failing=True)
    assert told(situation.database, WebhookEndpointDisabled) == [
        WebhookEndpointDisabled(endpoint=name, reason="FAILING")
    ]


async def test_lease__that_was_lost_is_taken_over(situation: Situation) -> None:
    """A sender that dies sends nothing more; when its lease has ended another sends the same, and its outcome counts alone."""
    situation.endpoint("/200")
    event = situation.tell()
    now = datetime.now(UTC)

    def lease() -> list[webhooks.Assignment]:
        with situation.database.transaction(PLATFORM) as tx:
            return webhooks.lease(
                tx, situation.vault, failing=False, until=now + timedelta(minutes=1), limit=9, most=9
            )

    (lost,) = lease()
    assert not lease()
    situation.change("update webhook_endpoints set lease_until = now()")
    assert await situation.step() == 1
    assert [each.headers["webhook-id"] for each in situation.partner.requests] == [event]
    failed = Attempt(now, timedelta(), 0, "TIMEOUT")
    with situation.database.transaction(Tenant(situation.enterprise)) as tx:
        assert webhooks.record(tx, lost.lease, [(lost.deliveries[0], failed)], lambda: 0.5) is None
    assert len(situation.rows("webhook_attempts")) == 1
    assert situation.rows("webhook_deliveries")[0]["state"] == "DELIVERED"


async def test_endpoint__disabled_meanwhile_stays_so(situation: Situation) -> None:
    """What a sender finds out about an endpoint that somebody has disabled counts no more."""
    name, _ = situation.endpoint("/200")
    situation.tell()
    with situation.database.transaction(PLATFORM) as tx:
        (leased,) = webhooks.lease(
            tx, situation.vault, failing=False, until=tx.now + timedelta(minutes=1), limit=9, most=9
        )
    with situation.database.transaction(Tenant(situation.enterprise)) as tx:
        disabled = rows.lock_endpoint(tx, name).updated(
            tx.now, url=None, event_types=None, description=None, state=EndpointState.DISABLED
        )
        rows.save_endpoint(tx, disabled)
    taken = Attempt(datetime.now(UTC), timedelta(), 200, "")
    with situation.database.transaction(Tenant(situation.enterprise)) as tx:
        assert webhooks.record(tx, leased.lease, [(leased.deliveries[0], taken)], lambda: 0.5) is None
        assert rows.get_delivery(tx, leased.deliveries[0].name).state is DeliveryState.FAILED


async def test_address__that_is_not_public_gets_nothing(situation: Situation) -> None:
    """Checked at each sending, whatever was checked when the URL was set."""
    situation.endpoint("/200")
    situation.tell()
    situation.rules = replace(LOCAL, private_networks=())
    await situation.step()
    assert not situation.partner.requests
    assert [each["error"] for each in situation.rows("webhook_attempts")] == ["ADDRESS_REFUSED"]


async def test_sender__runs_until_told_to_stop(situation: Situation) -> None:
    """It wakes by the commit of an event; a request under way is finished."""
    situation.endpoint("/200")
    stopping = asyncio.Event()
    async with OutgoingClient(LOCAL) as client:
        running = asyncio.create_task(situation.sender(client).run(stopping))
        await asyncio.to_thread(situation.tell)
        await asyncio.to_thread(lambda: eventually(lambda: situation.partner.requests, timeout=5))
        stopping.set()
        await asyncio.wait_for(running, 10)
    assert [each["state"] for each in situation.rows("webhook_deliveries")] == ["DELIVERED"]


async def test_sender__that_is_killed_sends_again(situation: Situation) -> None:
    """Ended in the middle of a request, it leaves a lease that ends; the next sends the same event with the same id."""
    situation.endpoint("/200")
    situation.partner.answers["/200"] = ["hang"]
    event = situation.tell()
    options = SenderOptions(lease=timedelta(seconds=1))

    def came(number: int) -> bool:
        return len(situation.partner.requests) >= number

    async with OutgoingClient(LOCAL) as client:
        (assignment,), _wait = await situation.sender(client, options)._lease(9, failing=False)
        killed = asyncio.create_task(situation.sender(client, options)._work(assignment))
        await asyncio.to_thread(lambda: eventually(lambda: came(1), timeout=10))
        killed.cancel()
        stopping = asyncio.Event()
        running = asyncio.create_task(situation.sender(client, options).run(stopping))
        await asyncio.to_thread(lambda: eventually(lambda: came(2), timeout=10))
        stopping.set()
        await running
    assert [each.headers["webhook-id"] for each in situation.partner.requests] == [event] * 2
    assert [each["state"] for each in situation.rows("webhook_deliveries")] == ["DELIVERED"]
    with suppress(asyncio.CancelledError):
        await killed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        ("Thu, 15 Jan 2026 12:01:00 GMT", 60),
        ("Thu, 15 Jan 2026 11:00:00 GMT", 0),
        ("99999999999999999999", 1_000_000),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("１２", None),
    ],
)
def test_retry_after__is_read_or_ignored(text: str, seconds: float | None) -> None:
    """Seconds or a date; nonsense is as if nothing was said."""
    now = datetime(2026, 1, 15, 12, tzinfo=UTC)
    found = _retry_after({"Retry-After": text}, now)
    assert found == (None if seconds is None else timedelta(seconds=seconds))


def test_worker__hears_all_public_events() -> None:
    """On one queue."""
    queues = {
        each.queue
        for each in topology.subscriptions(Worker)
        if each.routing_key == "placement.campaign.started"
    }
    assert queues == {"accounts.on_public_event"}
    assert {each.routing_key for each in topology.subscriptions(Worker)} >= {"accounts.account.bound"}


@pytest.mark.slow
def test_processes__tell_partners(situation: Situation, amqp_url: str) -> None:
    """An event on the broker, delivered twice, is one delivery; kill -9 of the sender loses nothing."""
    settings = environment(situation.database, situation.master_key) | {"AMQP_URL": amqp_url}
    assert (
        start(settings | {"DATABASE_ADMIN_URL": url_of(situation.database.admin_url)}, "migrate").wait(60)
        == 0
    )
    _, secret = situation.endpoint("/200")
    situation.partner.answers["/200"] = ["hang"]
    bound = AccountBound(account=f"{situation.enterprise}/accounts/a", sealed_token=b"canary")
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        broker = Broker(connection, "accounts")
        for _ in range(2):
            broker.tell(bound, situation.enterprise, event_id="the-event")
    processes = [start(settings, "worker"), start(settings)]
    try:
        eventually(lambda: situation.partner.requests, timeout=40)
        processes[1].send_signal(signal.SIGKILL)
        processes[1].wait(10)
        processes[1] = start(settings)
        eventually(lambda: len(situation.partner.requests) == 2, timeout=70)
        first, second = situation.partner.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"] == "the-event"
        assert json.loads(second.body)["data"] == {"account": bound.account}
        Webhook(secret).verify(second.body, dict(second.headers))
        assert len(situation.rows("webhook_deliveries")) == 1
        eventually(lambda: situation.rows("webhook_deliveries")[0]["state"] == "DELIVERED", timeout=10)
    finally:
        for process in processes:
            process.terminate()
        assert [process.wait(40) for process in processes] == [0, 0]


@pytest.mark.slow
def test_measure__dead_endpoints_hold_up_nobody(make_database: Callable[..., TemporaryDatabase]) -> None:
    """In small: a hundred endpoints, of which twenty are dead."""
    measured = measure(make_database("accounts", max_size=12), endpoints=100, events=5, per_second=50)
    assert (measured.dead, measured.missing) == (20, 0)
    assert measured.p99 < 2
