"""Webhooks: endpoints, what they are told, and what a sender makes of it. `webhooks.py`, the process, does the sending."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from google.protobuf.message import Message
from numerator.events.v1.accounts_pb2 import WebhookEndpointDisabled
from pydantic import SecretStr

from services.accounts import metrics, store
from services.accounts.model import check_etag
from services.accounts.model.webhooks import (
    DELIVERY_NAME,
    ENDPOINT_NAME,
    KEPT,
    MAX_ENDPOINTS,
    PING,
    Attempt,
    Delivery,
    DeliveryState,
    Endpoint,
    EndpointState,
    check_event_types,
    endpoint_disabled,
    new_signing_secret,
    payload,
    ping,
    too_many_endpoints,
)
from services.accounts.store import webhooks as rows
from services.accounts.usecases.secrets import Vault
from services.chassis.database import Transaction
from services.chassis.errors import invalid
from services.chassis.ids import deterministic_id, new_id
from services.chassis.messaging.envelope import Event
from services.chassis.names import enterprise_of
from services.chassis.outgoing_rules import OutgoingError, OutgoingRules
from services.chassis.principal import Principal

CHANGES = "webhooks"
"""The change log by which senders wake."""

ACTOR = "webhooks"
"""How the audit trail names the sender."""

# Endpoints


def check_url(rules: OutgoingRules, url: str) -> None:
    """Raises INVALID_ARGUMENT (`URL_REFUSED`, `ADDRESS_REFUSED`) for a URL that we would not call."""
    try:
        rules.check(url)
    except OutgoingError as error:
        raise invalid("url", error.detail, reason=error.failure) from None


def create_endpoint(
    tx: Transaction,
    vault: Vault,
    enterprise: str,
    *,
    url: str,
    event_types: frozenset[str],
    description: str,
    caller: Principal,
) -> tuple[Endpoint, SecretStr]:
    """
    Keep a new endpoint. Its secret is returned this once.

    Raises INVALID_ARGUMENT (`EVENT_TYPE_UNKNOWN`), NOT_FOUND or FAILED_PRECONDITION (`TOO_MANY_ENDPOINTS`).
    """
    check_event_types(event_types)
    if rows.lock_and_count_endpoints(tx, enterprise) >= MAX_ENDPOINTS:
        raise too_many_endpoints()
    name = ENDPOINT_NAME.format(enterprise=enterprise.rpartition("/")[2], endpoint=new_id())
    endpoint = Endpoint(name, url, event_types, description, create_time=tx.now, update_time=tx.now)
    rows.insert_endpoint(tx, endpoint)
    secret = _new_secret(tx, vault, name, timedelta())
    _audit(tx, caller.subject, "webhook_endpoint.created", name, url=url, event_types=sorted(event_types))
    return endpoint, secret


def update_endpoint(
    tx: Transaction,
    name: str,
    *,
    url: str | None,
    event_types: frozenset[str] | None,
    description: str | None,
    state: EndpointState | None,
    etag: str,
    caller: Principal,
) -> Endpoint:
    """Change an endpoint; None for what stays. Raises INVALID_ARGUMENT, NOT_FOUND or ABORTED (`ETAG_MISMATCH`)."""
    check_event_types(event_types or ())
    before = rows.lock_endpoint(tx, name)
    check_etag(etag, before.revision)
    after = before.updated(tx.now, url=url, event_types=event_types, description=description, state=state)
    rows.save_endpoint(tx, after)
    detail = {"url": after.url, "event_types": sorted(after.event_types), "state": after.state}
    _audit(tx, caller.subject, "webhook_endpoint.updated", name, **detail)
    return after


def delete_endpoint(tx: Transaction, name: str, *, etag: str, caller: Principal) -> None:
    """Forget an endpoint. Raises NOT_FOUND or ABORTED (`ETAG_MISMATCH`)."""
    endpoint = rows.lock_endpoint(tx, name)
    check_etag(etag, endpoint.revision)
    rows.delete_endpoint(tx, name)
    _audit(tx, caller.subject, "webhook_endpoint.deleted", name, url=endpoint.url)


def rotate_secret(
    tx: Transaction, vault: Vault, name: str, *, overlap: timedelta, etag: str, caller: Principal
) -> tuple[Endpoint, SecretStr]:
    """
    Give an endpoint a new secret; the one before also signs for as long as `overlap`.

    Raises NOT_FOUND or ABORTED (`ETAG_MISMATCH`).
    """
    before = rows.lock_endpoint(tx, name)
    check_etag(etag, before.revision)
    secret = _new_secret(tx, vault, name, overlap)
    rows.save_endpoint(tx, replace(before, update_time=tx.now, revision=before.revision + 1))
    _audit(tx, caller.subject, "webhook_endpoint.secret_rotated", name, overlap=str(overlap))
    return rows.get_endpoint(tx, name), secret


def _new_secret(tx: Transaction, vault: Vault, endpoint: str, overlap: timedelta) -> SecretStr:
    secret, version = new_signing_secret(), rows.next_secret_version(tx, endpoint)
    sealed = vault.seal(tx, secret, rows.secret_resource(endpoint, version), rows.SECRET)
    rows.save_secret(tx, endpoint, version, sealed, tx.now + overlap)
    return secret


# Deliveries


def tell(tx: Transaction, event: Event[Message]) -> int:
    """Make a delivery of an event for each endpoint that wants it; returns how many."""
    if event.enterprise is None:
        return 0
    interested = rows.lock_interested(tx, event.enterprise, event.type)
    if interested:
        told = payload(event.message, event.time)
        _deliver(
            tx,
            [
                _delivery(tx, each, event.id, event_type=event.type, time=event.time, told=told)
                for each in interested
            ],
        )
    return len(interested)


def send_ping(tx: Transaction, endpoint: str, *, caller: Principal) -> Delivery:
    """Have a `test.ping` sent. Raises NOT_FOUND or FAILED_PRECONDITION (`ENDPOINT_DISABLED`)."""
    _lock_enabled(tx, endpoint)
    delivery = _delivery(tx, endpoint, new_id(), event_type=PING, time=tx.now, told=ping(endpoint, tx.now))
    _deliver(tx, [delivery])
    _audit(tx, caller.subject, "webhook_endpoint.tested", endpoint)
    return delivery


def replay_delivery(tx: Transaction, name: str, *, caller: Principal) -> Delivery:
    """Have a delivery sent again. Raises NOT_FOUND or FAILED_PRECONDITION (`ENDPOINT_DISABLED`)."""
    delivery = rows.get_delivery(tx, name)
    _lock_enabled(tx, delivery.endpoint)
    rows.replay_delivery(tx, delivery)
    _wake_senders(tx, delivery.endpoint)
    _audit(tx, caller.subject, "webhook_delivery.replayed", name)
    return rows.get_delivery(tx, name)


def replay_endpoint(
    tx: Transaction,
    endpoint: str,
    start: datetime,
    end: datetime,
    *,
    include_delivered: bool,
    caller: Principal,
) -> int:
    """Have a span of time's deliveries sent again. Raises NOT_FOUND or FAILED_PRECONDITION (`ENDPOINT_DISABLED`)."""
    _lock_enabled(tx, endpoint)
    states = [DeliveryState.FAILED, *([DeliveryState.DELIVERED] if include_delivered else [])]
    replayed = rows.replay_deliveries(tx, endpoint, start, end, states)
    _wake_senders(tx, endpoint)
    detail = {"start": start.isoformat(), "end": end.isoformat(), "count": str(replayed)}
    _audit(tx, caller.subject, "webhook_endpoint.replayed", endpoint, **detail)
    return replayed


def purge(tx: Transaction) -> int:
    """Forget old deliveries; needs the platform's scope. Returns how many events there were."""
    return rows.purge(tx, tx.now - KEPT)


def _lock_enabled(tx: Transaction, endpoint: str) -> None:
    if rows.lock_endpoint(tx, endpoint).state is EndpointState.DISABLED:
        raise endpoint_disabled(endpoint)


def _delivery(
    tx: Transaction, endpoint: str, webhook_id: str, *, event_type: str, time: datetime, told: str
) -> Delivery:
    enterprise = ENDPOINT_NAME.parse(endpoint)["enterprise"]
    name = DELIVERY_NAME.format(
        enterprise=enterprise, delivery=deterministic_id("webhook delivery", endpoint, webhook_id)
    )
    return Delivery(name, endpoint, webhook_id, event_type, time, told, create_time=tx.now, due_time=tx.now)


def _deliver(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    rows.insert_deliveries(tx, deliveries)
    _wake_senders(tx, deliveries[0].endpoint)


def _wake_senders(tx: Transaction, endpoint: str) -> None:
    tx.append_change(CHANGES, endpoint, {})


# Sending


@dataclass(frozen=True, slots=True)
class Assignment:
    """
    What a sender is to send to one endpoint.

    Attributes:
        secrets: sign, newest first; empty when they were shredded.
        deliveries: longest due first.
    """

    lease: rows.Lease
    secrets: Sequence[SecretStr]
    deliveries: Sequence[Delivery]


def lease(
    tx: Transaction, vault: Vault, *, failing: bool, until: datetime, limit: int, most: int
) -> list[Assignment]:
    """
    What to send now, for at most `limit` endpoints, `most` deliveries each; needs the platform's scope.

    Nobody else sends to these endpoints before `until`, when the lease ends.
    """
    leases = rows.lease_endpoints(tx, failing=failing, until=until, limit=limit)
    names = [each.endpoint.name for each in leases]
    secrets: dict[str, list[SecretStr]] = {name: [] for name in names}
    for kept in rows.lock_secrets(tx, names) if names else ():
        secrets[kept.endpoint] += _opened(vault, kept)
    deliveries: dict[str, list[Delivery]] = {name: [] for name in names}
    for delivery in rows.due_deliveries(tx, names, most) if names else ():
        deliveries[delivery.endpoint].append(delivery)
    return [
        Assignment(each, secrets[each.endpoint.name], deliveries[each.endpoint.name])
        for each in sorted(leases, key=lambda leased: leased.endpoint.name)
    ]


def _opened(vault: Vault, kept: rows.SealedSecret) -> list[SecretStr]:
    if kept.key.wrapped is None:
        return []
    key = vault.unwrap(enterprise_of(kept.endpoint) or "", kept.key)
    return [key.open(kept.sealed, rows.secret_resource(kept.endpoint, kept.version), rows.SECRET)]


@dataclass(frozen=True, slots=True)
class Recorded:
    """
    What an assignment has come to.

    Attributes:
        endpoint: as it is now.
        due: whether something more is to be sent to it at once.
    """

    endpoint: Endpoint
    due: bool = False


def record(
    tx: Transaction,
    leased: rows.Lease,
    made: Sequence[tuple[Delivery, Attempt]],
    random: Callable[[], float],
) -> Recorded | None:
    """
    Take in what came of an assignment, in the order in which it came, and give the lease back.

    Returns None when the lease had ended, and somebody else may have sent the same.
    """
    before = endpoint = rows.lock_leased(tx, leased)
    if endpoint is None:
        return None
    after = [(delivery.after(attempt, tx.now, random), attempt) for delivery, attempt in made]
    rows.save_attempts(tx, after)
    for _, attempt in made:
        if endpoint.state is EndpointState.ENABLED:
            endpoint = endpoint.after(attempt, tx.now, random)
    if endpoint != before:
        rows.save_endpoint(tx, endpoint)
    metrics.webhook_attempts(tx, made)
    metrics.webhook_deliveries(tx, [delivery for delivery, _ in after])
    if endpoint.disabled_by:
        reason = endpoint.disabled_by
        _audit(tx, ACTOR, "webhook_endpoint.disabled", endpoint.name, reason=reason)
        tx.emit(WebhookEndpointDisabled(endpoint=endpoint.name, reason=reason), subject=endpoint.name)
        return Recorded(endpoint)
    due = rows.release(tx, endpoint)
    return Recorded(endpoint, due=due is not None and due <= tx.now)


def _audit(tx: Transaction, actor: str, action: str, subject: str, **detail: str | Sequence[str]) -> None:
    store.audit(
        tx, enterprise=enterprise_of(subject) or "", actor=actor, action=action, subject=subject, **detail
    )
