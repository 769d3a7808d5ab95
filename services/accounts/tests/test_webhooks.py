"""Webhooks: signatures, schedules and payloads; endpoints and deliveries as callers see them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from numerator.accounts.v1 import webhooks_pb2 as pb
from numerator.accounts.v1 import webhooks_pb2_grpc as pb_grpc
from numerator.events.v1 import accounts_pb2, placement_pb2, publishing_pb2
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from services.accounts.model.webhooks import (
    GIVEN_UP_AFTER,
    LONGEST_RETRY_AFTER,
    MAX_ENDPOINTS,
    PING,
    PUBLIC_EVENTS,
    RETRIES,
    Attempt,
    Delivery,
    DeliveryState,
    DisabledBy,
    Endpoint,
    EndpointState,
    new_signing_secret,
    payload,
    signature_headers,
)
from services.accounts.store import webhooks as rows
from services.accounts.tests.world import Company, World, field_reasons_of, reason_of
from services.accounts.usecases import webhooks
from services.accounts.usecases.secrets import Vault
from services.chassis.database import PLATFORM, Tenant
from services.chassis.events import event_type
from services.chassis.ids import new_id
from services.chassis.messaging.envelope import Event
from services.chassis.testing.rpc import client, operator
from services.chassis.testing.servers import ROOT
from services.chassis.timestamps import stamp

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
URL = "https://hooks.example/in"

# Signatures


def test_signature__is_that_of_the_standards_vector() -> None:
    """The example that the standard's own libraries test with."""
    headers = signature_headers(
        [SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_signature__is_taken_by_the_standards_own_library(text: str) -> None:
    """Whatever is said, and by each of two secrets; another secret, or one other byte, is refused."""
    secrets = [new_signing_secret() for _ in range(3)]
    body = json.dumps({"data": text}).encode()
    headers = signature_headers(secrets[:2], new_id(), datetime.now(UTC), body)
    for secret in secrets[:2]:
        assert Webhook(secret.get_secret_value()).verify(body, headers) == {"data": text}
    for secret, changed in ((secrets[2], body), (secrets[0], body + b" ")):
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(secret.get_secret_value()).verify(changed, headers)


# Payloads


def test_payload__says_what_happened_without_secrets() -> None:
    """The token that an account's binding carries to publishing does not leave."""
    bound = accounts_pb2.AccountBound(
        account="enterprises/x/accounts/y",
        network="mastodon",
        labels=["brand"],
        sealed_token=b"canary",
    )
    told = payload(bound, NOON)
    assert json.loads(told) == {
        "type": "accounts.account.bound",
        "timestamp": "2026-01-15T12:00:00Z",
        "data": {"account": "enterprises/x/accounts/y", "network": "mastodon", "labels": ["brand"]},
    }


def test_public_events__are_listed_field_by_field() -> None:
    """Each listed field exists, none holds bytes, and what is left out is left out on purpose."""
    left_out = set[str]()
    for kind, public in PUBLIC_EVENTS.items():
        fields = dict(kind.DESCRIPTOR.fields_by_name)
        assert public <= fields.keys()
        assert not any(fields[name].type == FieldDescriptor.TYPE_BYTES for name in public)
        left_out |= {f"{event_type(kind)}.{name}" for name in fields.keys() - public}
    assert left_out == {
        "accounts.account.bound.sealed_token",
        "accounts.account.bound.placement_version",
        "accounts.account.bound.token_version",
        "accounts.account.placed.placement_version",
        # Who did it: the audit trail says so, to whom it concerns.
        "publishing.freeze.set.creator",
        "publishing.freeze.lifted.lifter",
        "targeting.audience.computed.parts",
        # What our staff thinks of an enterprise.
        "accounts.enterprise.changed.tier",
        "accounts.enterprise.changed.attributes",
        "accounts.enterprise.verified.tier",
        "accounts.enterprise.verified.attributes",
        "accounts.enterprise.verification_revoked.tier",
        "accounts.enterprise.verification_revoked.attributes",
    }, (
        "a new field of an event: list it in PUBLIC_EVENTS and docs/webhooks.md if partners may see it, else here"
    )


# Schedules


def delivery(**fields: object) -> Delivery:
    values = {
        "name": "enterprises/x/webhookDeliveries/d", "endpoint": "enterprises/x/webhookEndpoints/e", "webhook_id": "i",
        "event_type": "test.ping", "event_time": NOON, "payload": "{}", "create_time": NOON, "due_time": NOON,
    }  # fmt: skip
    return Delivery(**(values | fields))


def endpoint(**fields: object) -> Endpoint:
    return Endpoint("enterprises/x/webhookEndpoints/e", URL, frozenset(), "", NOON, NOON, **fields)


def attempt(status: int, retry_after: timedelta | None = None, time: datetime = NOON) -> Attempt:
    error = "" if 200 <= status < 300 else "HTTP_STATUS" if status else "TIMEOUT"
    return Attempt(time, timedelta(seconds=1), status, error, retry_after)


@given(st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_delivery__is_tried_for_days_and_then_given_up(numbers: list[float]) -> None:
    """Pauses grow, each with jitter; ten attempts in all, over more than a day and at most four."""
    now, tried = NOON, delivery()
    for number in range(1, len(RETRIES) + 2):
        tried = tried.after(attempt(500), now, lambda: numbers[number])  # noqa: B023 -- called at once
        assert tried.tries == number
        if tried.state is DeliveryState.PENDING:
            assert RETRIES[number - 1] / 2 <= tried.due_time - now <= RETRIES[number - 1]
            now = tried.due_time
    assert (tried.state, tried.reason, tried.due_time) == (DeliveryState.FAILED, "ATTEMPTS_EXHAUSTED", None)
    assert timedelta(days=1) < now - NOON < timedelta(days=4)


def test_delivery__taken() -> None:
    """Any 2xx, also after failures."""
    taken = delivery(tries=3).after(attempt(204), NOON, lambda: 0.5)
    assert (taken.state, taken.due_time, taken.tries) == (DeliveryState.DELIVERED, None, 4)


def test_endpoint__rests_as_a_whole() -> None:
    """Two failures may be chance; from the third on it rests, at most five minutes, until something is taken."""
    now, failing, rests = NOON, endpoint(), []
    for _ in range(12):
        failing = failing.after(attempt(0), now, lambda: 1.0)
        rests.append((failing.rest_until - now).total_seconds() if failing.rest_until else 0)
        now += timedelta(seconds=rests[-1])
    assert rests == [0, 0, 5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert failing.failing_since == NOON
    assert failing.after(attempt(200), now, lambda: 1.0) == endpoint()


@pytest.mark.parametrize(
    ("asked", "rests"),
    [
        (timedelta(seconds=90), timedelta(seconds=90)),
        (timedelta(days=3), LONGEST_RETRY_AFTER),
        (timedelta(), None),
    ],
)
def test_endpoint__rests_for_as_long_as_it_asks(asked: timedelta, rests: timedelta | None) -> None:
    """`Retry-After`, within bounds."""
    after = endpoint().after(attempt(429, asked), NOON, lambda: 1.0)
    assert after.rest_until == (NOON + rests if rests else None)


def test_endpoint__is_disabled() -> None:
    """By 410 at once, and by five days in which it took nothing."""
    gone = endpoint().after(attempt(410), NOON, lambda: 1.0)
    assert (gone.state, gone.disabled_by) == (EndpointState.DISABLED, DisabledBy.GONE)
    failing = endpoint().after(attempt(500), NOON, lambda: 1.0)
    soon = failing.after(attempt(500), NOON + GIVEN_UP_AFTER - timedelta(seconds=1), lambda: 1.0)
    assert soon.state is EndpointState.ENABLED
    late = soon.after(attempt(0), NOON + GIVEN_UP_AFTER, lambda: 1.0)
    assert (late.state, late.disabled_by) == (EndpointState.DISABLED, DisabledBy.FAILING)
    enabled = late.updated(NOON, url=None, event_types=None, description=None, state=EndpointState.ENABLED)
    assert (enabled.disabled_by, enabled.failures, enabled.failing_since) == (None, 0, None)


# Endpoints as callers see them


def as_(world: World, principal: object) -> pb_grpc.WebhookServiceStub:
    return pb_grpc.WebhookServiceStub(world.running.as_(principal))


def create(world: World, company: Company, **fields: object) -> pb.WebhookEndpoint:
    request = pb.CreateWebhookEndpointRequest(parent=company.name, **({"url": URL} | fields))
    return as_(world, company.owner).CreateWebhookEndpoint(request)


def tell(world: World, company: Company, message: object, *, event_id: str = "") -> int:
    """What the worker does with an event."""
    told = Event(
        event_id or new_id(), event_type(type(message)), "subject", company.name, world.clock.now(), message
    )
    with world.database.transaction(Tenant(company.name)) as tx:
        return webhooks.tell(tx, told)


def signing(world: World, name: str) -> list[str]:
    """The secrets that sign for an endpoint, newest first."""
    with world.database.transaction(PLATFORM) as tx:
        kept = rows.lock_secrets(tx, [name])
        return [
            secret.get_secret_value() for each in kept for secret in webhooks._opened(Vault(world.kms), each)
        ]


def test_create__shows_the_secret_once(world: World) -> None:
    """Only the answer that made it has the secret; the database has it sealed."""
    company = world.register()
    made = create(
        world, company, request_id="r1", event_types=["placement.campaign.started"], description="CRM"
    )
    assert made.secret.startswith("whsec_")
    assert (made.state, list(made.event_types)) == (
        pb.WebhookEndpoint.ENABLED,
        ["placement.campaign.started"],
    )
    again = create(
        world, company, request_id="r1", event_types=["placement.campaign.started"], description="CRM"
    )
    assert (again.name, again.secret) == (made.name, "")
    stub = as_(world, company.owner)
    assert stub.GetWebhookEndpoint(pb.GetWebhookEndpointRequest(name=made.name)).secret == ""
    listed = stub.ListWebhookEndpoints(pb.ListWebhookEndpointsRequest(parent=company.name))
    assert [(each.name, each.secret) for each in listed.webhook_endpoints] == [(made.name, "")]
    assert signing(world, made.name) == [made.secret]
    (row,) = world.rows("webhook_secrets")
    assert made.secret.encode() not in bytes(row["sealed"])
    assert [row["subject"] for row in world.audited("webhook_endpoint.created")] == [made.name]


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"url": "http://hooks.example/"}, {"url": "URL_REFUSED"}),
        ({"url": "https://127.0.0.1/"}, {"url": "ADDRESS_REFUSED"}),
        ({"url": "https://[fd00::1]/"}, {"url": "ADDRESS_REFUSED"}),
        ({"url": "https://0x7f000001/"}, {"url": "URL_REFUSED"}),
        ({"event_types": ["rollout.snapshot.published"]}, {"event_types": "EVENT_TYPE_UNKNOWN"}),
    ],
)
def test_create__refuses(world: World, fields: dict[str, object], reasons: dict[str, str]) -> None:
    """URLs that we would not call, and events that are nobody's business; the field is named."""
    company = world.register()
    with pytest.raises(grpc.RpcError) as refused:
        create(world, company, **fields)
    assert field_reasons_of(refused.value) == reasons


def test_create__so_many(world: World) -> None:
    """An enterprise has fifty endpoints at most."""
    company = world.register()
    for _ in range(MAX_ENDPOINTS):
        create(world, company)
    with pytest.raises(grpc.RpcError) as refused:
        create(world, company)
    assert reason_of(refused.value) == "TOO_MANY_ENDPOINTS"


def test_update__changes_what_is_given(world: World) -> None:
    """And nothing else; with a stale etag nothing at all."""
    company = world.register()
    made, stub = create(world, company, description="CRM"), as_(world, company.owner)
    changed = stub.UpdateWebhookEndpoint(
        pb.UpdateWebhookEndpointRequest(
            name=made.name, event_types=["accounts.account.bound"], etag=made.etag
        )
    )
    assert (changed.url, changed.description) == (URL, "CRM")
    assert list(changed.event_types) == ["accounts.account.bound"]
    all_of_them = stub.UpdateWebhookEndpoint(
        pb.UpdateWebhookEndpointRequest(name=made.name, event_types=["*"])
    )
    assert not all_of_them.event_types
    with pytest.raises(grpc.RpcError) as refused:
        stub.UpdateWebhookEndpoint(pb.UpdateWebhookEndpointRequest(name=made.name, url=URL, etag=made.etag))
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    with pytest.raises(grpc.RpcError) as refused:
        stub.UpdateWebhookEndpoint(pb.UpdateWebhookEndpointRequest(name=made.name, url="https://localhost/"))
    assert field_reasons_of(refused.value) == {"url": "URL_REFUSED"}


def test_disable__fails_what_waits(world: World) -> None:
    """Nothing is told to a disabled endpoint, and what waited can be replayed when it is enabled again."""
    company = world.register()
    made, stub = create(world, company), as_(world, company.owner)
    campaign = placement_pb2.CampaignStarted(campaign=f"{company.name}/campaigns/c")
    assert tell(world, company, campaign) == 1
    disabled = stub.UpdateWebhookEndpoint(
        pb.UpdateWebhookEndpointRequest(name=made.name, state=pb.WebhookEndpoint.DISABLED)
    )
    assert disabled.disabled_by == pb.WebhookEndpoint.USER
    assert tell(world, company, campaign) == 0
    (waited,) = stub.ListWebhookDeliveries(
        pb.ListWebhookDeliveriesRequest(parent=company.name)
    ).webhook_deliveries
    assert (waited.state, waited.reason) == (pb.WebhookDelivery.FAILED, "ENDPOINT_DISABLED")
    for call in (
        lambda: stub.TestWebhookEndpoint(pb.TestWebhookEndpointRequest(name=made.name)),
        lambda: stub.ReplayWebhookDelivery(pb.ReplayWebhookDeliveryRequest(name=waited.name)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert reason_of(refused.value) == "ENDPOINT_DISABLED"
    stub.UpdateWebhookEndpoint(
        pb.UpdateWebhookEndpointRequest(name=made.name, state=pb.WebhookEndpoint.ENABLED)
    )
    replayed = stub.ReplayWebhookDelivery(pb.ReplayWebhookDeliveryRequest(name=waited.name))
    assert (replayed.state, replayed.reason) == (pb.WebhookDelivery.PENDING, "")


def test_delete__forgets_all(world: World) -> None:
    """With its secrets and deliveries."""
    company = world.register()
    made, stub = create(world, company), as_(world, company.owner)
    stub.TestWebhookEndpoint(pb.TestWebhookEndpointRequest(name=made.name))
    stub.DeleteWebhookEndpoint(pb.DeleteWebhookEndpointRequest(name=made.name))
    assert not any(map(world.rows, ("webhook_endpoints", "webhook_secrets", "webhook_deliveries")))
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetWebhookEndpoint(pb.GetWebhookEndpointRequest(name=made.name))
    assert reason_of(refused.value) == "NOT_FOUND"


def test_rotate__keeps_the_secret_before_for_a_day(world: World) -> None:
    """Two sign, newest first; then one. A second rotation ends the oldest at once, and so does an overlap of nothing."""
    company = world.register()
    made, stub = create(world, company), as_(world, company.owner)
    second = stub.RotateWebhookSecret(pb.RotateWebhookSecretRequest(name=made.name, request_id="r1"))
    assert (
        stub.RotateWebhookSecret(pb.RotateWebhookSecretRequest(name=made.name, request_id="r1")).secret == ""
    )
    assert signing(world, made.name) == [second.secret, made.secret]
    assert second.old_secret_expire_time == stamp(world.clock.now() + timedelta(hours=24))
    world.clock.advance(timedelta(hours=24))
    assert signing(world, made.name) == [second.secret]
    third = stub.RotateWebhookSecret(pb.RotateWebhookSecretRequest(name=made.name))
    fourth = stub.RotateWebhookSecret(pb.RotateWebhookSecretRequest(name=made.name))
    assert signing(world, made.name) == [fourth.secret, third.secret]
    fifth = stub.RotateWebhookSecret(pb.RotateWebhookSecretRequest(name=made.name, overlap_hours=0))
    assert signing(world, made.name) == [fifth.secret]
    assert not fifth.HasField("old_secret_expire_time")


def test_tell__makes_one_delivery_for_each_endpoint_that_wants_it(world: World) -> None:
    """By event type; disabled ones and other enterprises' get none."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    everything = create(world, company)
    campaigns = create(world, company, event_types=["placement.campaign.started"])
    create(world, company, event_types=["publishing.delivery.published"])
    create(world, other)
    assert tell(world, company, placement_pb2.CampaignStarted(campaign=f"{company.name}/campaigns/c")) == 2
    listed = as_(world, company.owner).ListWebhookDeliveries(
        pb.ListWebhookDeliveriesRequest(parent=company.name)
    )
    assert {each.endpoint for each in listed.webhook_deliveries} == {everything.name, campaigns.name}
    assert len({each.webhook_id for each in listed.webhook_deliveries}) == 1
    assert not world.rows("webhook_deliveries", other.name)


def test_deliveries__are_listed_in_pages(world: World) -> None:
    """Newest first, by endpoint and state; payload and attempts are shown by Get."""
    company = world.register()
    first, second = create(world, company), create(world, company)
    stub = as_(world, company.owner)
    pings = []
    for made in (first, second, first):
        world.clock.advance(timedelta(seconds=1))
        pings.append(stub.TestWebhookEndpoint(pb.TestWebhookEndpointRequest(name=made.name)).name)
    seen, token = [], ""
    while True:
        answer = stub.ListWebhookDeliveries(
            pb.ListWebhookDeliveriesRequest(parent=company.name, page_size=2, page_token=token)
        )
        seen += [each.name for each in answer.webhook_deliveries]
        token = answer.next_page_token
        if not token:
            break
    assert seen == pings[::-1]
    of_one = pb.ListWebhookDeliveriesRequest(parent=company.name, endpoint=first.name)
    assert [each.name for each in stub.ListWebhookDeliveries(of_one).webhook_deliveries] == [
        pings[2],
        pings[0],
    ]
    taken = pb.ListWebhookDeliveriesRequest(parent=company.name, state=pb.WebhookDelivery.DELIVERED)
    assert not stub.ListWebhookDeliveries(taken).webhook_deliveries
    shown = stub.GetWebhookDelivery(pb.GetWebhookDeliveryRequest(name=pings[0]))
    assert json.loads(shown.payload)["type"] == "test.ping"
    assert not any(each.payload for each in answer.webhook_deliveries)


def test_replay__of_a_span_of_time(world: World) -> None:
    """What FAILED in it, and on demand what was DELIVERED; the bounds count as they say."""
    company = world.register()
    made, stub = create(world, company), as_(world, company.owner)
    start = world.clock.now()
    states = (DeliveryState.FAILED, DeliveryState.DELIVERED, DeliveryState.FAILED)
    for state in states:
        tell(world, company, publishing_pb2.DeliveryFailed(delivery="d", account="a", reason="X"))
        with world.database.transaction(PLATFORM) as tx:
            tx.execute(
                "update webhook_deliveries set state = %s, due_time = null where state = 'PENDING'", (state,)
            )
        world.clock.advance(timedelta(minutes=1))

    def replay(minutes: int, **fields: object) -> int:
        request = pb.ReplayWebhookEndpointRequest(
            name=made.name,
            start_time=stamp(start),
            end_time=stamp(start + timedelta(minutes=minutes)),
            **fields,
        )
        return stub.ReplayWebhookEndpoint(request).replayed_count

    assert [replay(2), replay(2, include_delivered=True), replay(9), replay(9)] == [1, 1, 1, 0]
    with pytest.raises(grpc.RpcError) as refused:
        replay(0)
    assert field_reasons_of(refused.value) == {"end_time": "TIME_ORDER"}


def test_purge__after_thirty_days(world: World) -> None:
    """Deliveries go with their events."""
    company = world.register()
    create(world, company)
    tell(world, company, placement_pb2.CampaignEnded(campaign="c"))
    for age, left in ((timedelta(days=30), 1), (timedelta(seconds=1), 0)):
        world.clock.advance(age)
        with world.database.transaction(PLATFORM) as tx:
            webhooks.purge(tx)
        assert len(world.rows("webhook_deliveries")) == left


def test_rights__of_clients_and_others(world: World) -> None:
    """Scopes for apps; operators look only; other members and enterprises get nothing."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    made = create(world, company)
    name = f"{company.name}/clients/c"
    reader = as_(world, client(company.name, ["webhooks.read"], name))
    get, test = pb.GetWebhookEndpointRequest(name=made.name), pb.TestWebhookEndpointRequest(name=made.name)
    assert reader.GetWebhookEndpoint(get).name == made.name
    assert as_(world, operator()).GetWebhookEndpoint(get).name == made.name
    writer = as_(world, client(company.name, ["webhooks.write"], name))
    assert writer.TestWebhookEndpoint(test).endpoint == made.name
    for stub, reason in (
        (reader, "PERMISSION_DENIED"),
        (as_(world, operator()), "PERMISSION_DENIED"),
        (as_(world, other.owner), "NOT_FOUND"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub.TestWebhookEndpoint(test)
        assert refused.value.code().name == reason


@pytest.mark.parametrize("method", pb.DESCRIPTOR.services_by_name["WebhookService"].methods_by_name)
def test_rights__in_some_groups_only__open_nothing(world: World, method: str) -> None:
    """An endpoint hears of all accounts: who reaches some of them neither manages one nor reads what it was told."""
    company = world.register()
    made = create(world, company)
    ping = as_(world, company.owner).TestWebhookEndpoint(pb.TestWebhookEndpointRequest(name=made.name)).name
    kind = pb.DESCRIPTOR.services_by_name["WebhookService"].methods_by_name[method].input_type
    fields: dict[str, object] = {
        "parent": company.name,
        "name": ping if "Delivery" in method else made.name,
        "url": URL,
        "start_time": stamp(world.clock.now()),
        "end_time": stamp(world.clock.now() + timedelta(hours=1)),
    }
    request = getattr(pb, kind.name)(
        **{key: fields[key] for key in fields.keys() & kind.fields_by_name.keys()}
    )
    groups = frozenset({"north"})
    partly = {"webhooks.read": groups, "webhooks.write": groups, "OWNER": groups, "ADMIN": groups}
    for principal in (client(company.name), company.owner):
        caller = replace(principal, roles=frozenset(), grants=partly)
        with pytest.raises(grpc.RpcError) as refused:
            getattr(as_(world, caller), method)(request)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("kind", PUBLIC_EVENTS)
def test_tell__of_every_type__reaches_its_own_enterprise_alone(
    world: World, kind: Callable[[], object]
) -> None:
    """Whatever it tells of; and an event of no enterprise reaches nobody."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    create(world, company)
    create(world, other, event_types=[event_type(kind)])
    assert tell(world, company, kind()) == 1
    assert [row["enterprise"] for row in world.rows("webhook_deliveries")] == [company.name]
    nobodys = Event(new_id(), event_type(kind), "subject", None, world.clock.now(), kind())
    with world.database.transaction(PLATFORM) as tx:
        assert webhooks.tell(tx, nobodys) == 0


@pytest.mark.parametrize("tenant_check", [True, False])
def test_calls__answer_as_if_others_did_not_exist(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """Every method, with the check of the calls and with row-level security alone."""
    world = serve(tenant_check=tenant_check)
    victim, spy = world.register(), world.register(email="owner@kunlun.example")
    made = create(world, victim)
    ping = as_(world, victim.owner).TestWebhookEndpoint(pb.TestWebhookEndpointRequest(name=made.name)).name
    now = stamp(world.clock.now())
    later = stamp(world.clock.now() + timedelta(hours=1))
    stub = as_(world, spy.owner)
    for call in (
        lambda: stub.CreateWebhookEndpoint(pb.CreateWebhookEndpointRequest(parent=victim.name, url=URL)),
        lambda: stub.GetWebhookEndpoint(pb.GetWebhookEndpointRequest(name=made.name)),
        lambda: stub.ListWebhookEndpoints(pb.ListWebhookEndpointsRequest(parent=victim.name)),
        lambda: stub.UpdateWebhookEndpoint(pb.UpdateWebhookEndpointRequest(name=made.name, url=URL)),
        lambda: stub.DeleteWebhookEndpoint(pb.DeleteWebhookEndpointRequest(name=made.name)),
        lambda: stub.RotateWebhookSecret(pb.RotateWebhookSecretRequest(name=made.name)),
        lambda: stub.TestWebhookEndpoint(pb.TestWebhookEndpointRequest(name=made.name)),
        lambda: stub.ReplayWebhookEndpoint(
            pb.ReplayWebhookEndpointRequest(name=made.name, start_time=now, end_time=later)
        ),
        lambda: stub.GetWebhookDelivery(pb.GetWebhookDeliveryRequest(name=ping)),
        lambda: stub.ListWebhookDeliveries(pb.ListWebhookDeliveriesRequest(parent=victim.name)),
        lambda: stub.ReplayWebhookDelivery(pb.ReplayWebhookDeliveryRequest(name=ping)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert reason_of(refused.value) == "NOT_FOUND"
    assert len(world.rows("webhook_endpoints")) == len(world.rows("webhook_deliveries")) == 1


# What partners read

DOCUMENT = (ROOT / "docs" / "webhooks.md").read_text()


def test_document__lists_all_types_and_fields() -> None:
    """As they are posted."""
    listed = dict(re.findall(r"^\| `([a-z_.]+\.[a-z_.]+)` \| (.*) \|$", DOCUMENT, re.MULTILINE))
    posted = {
        event_type(kind): [field.json_name for field in kind.DESCRIPTOR.fields if field.name in public]
        for kind, public in PUBLIC_EVENTS.items()
    }
    assert {kind: fields.split(", ") for kind, fields in listed.items()} == posted | {PING: ["endpoint"]}


def test_document__verifies_what_we_sign() -> None:
    """The ten lines for partners, run as they stand."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    secrets, body = [new_signing_secret(), new_signing_secret()], b'{"a": 1}'
    headers = signature_headers(secrets, "id", datetime.now(UTC), body)
    for secret in secrets:
        assert names["is_ours"](secret.get_secret_value(), headers, body)
    assert not names["is_ours"](new_signing_secret().get_secret_value(), headers, body)
    assert not names["is_ours"](secrets[0].get_secret_value(), headers, body + b" ")
    old = signature_headers(secrets, "id", datetime.now(UTC) - timedelta(minutes=6), body)
    assert not names["is_ours"](secrets[0].get_secret_value(), old, body)
