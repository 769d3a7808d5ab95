"""Serves `webhooks.proto`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.empty_pb2 import Empty
from numerator.accounts.v1 import webhooks_pb2 as pb
from numerator.accounts.v1 import webhooks_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.accounts import store
from services.accounts.model import etag_of
from services.accounts.model.webhooks import (
    OVERLAP,
    Attempt,
    Delivery,
    DeliveryState,
    Endpoint,
    EndpointState,
)
from services.accounts.rpc import after, page
from services.accounts.store import webhooks as rows
from services.accounts.usecases import webhooks
from services.accounts.usecases.secrets import Vault
from services.chassis.database import Database
from services.chassis.errors import invalid
from services.chassis.outgoing_rules import OutgoingRules
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp

_ALL = frozenset({"*"})


class WebhookServicer(pb_grpc.WebhookServiceServicer):
    """Serves `numerator.accounts.v1.WebhookService`."""

    def __init__(self, database: Database, vault: Vault, rules: OutgoingRules) -> None:
        self._database = database
        self._vault = vault
        self._rules = rules

    # Endpoints

    def CreateWebhookEndpoint(
        self, request: pb.CreateWebhookEndpointRequest, context: grpc.ServicerContext
    ) -> pb.WebhookEndpoint:
        call = current_call()
        webhooks.check_url(self._rules, request.url)
        secrets: list[SecretStr] = []

        def create() -> pb.WebhookEndpoint:
            endpoint, secret = webhooks.create_endpoint(
                tx,
                self._vault,
                request.parent,
                url=request.url,
                event_types=frozenset(request.event_types),
                description=request.description,
                caller=call.principal,
            )
            secrets.append(secret)
            return _endpoint(endpoint)

        with self._database.transaction(call.scope) as tx:
            reply = tx.once(request, create)
        return _with_secret(reply, secrets)

    def GetWebhookEndpoint(
        self, request: pb.GetWebhookEndpointRequest, context: grpc.ServicerContext
    ) -> pb.WebhookEndpoint:
        with self._database.transaction(current_call().scope) as tx:
            return _endpoint(rows.get_endpoint(tx, request.name))

    def ListWebhookEndpoints(
        self, request: pb.ListWebhookEndpointsRequest, context: grpc.ServicerContext
    ) -> pb.ListWebhookEndpointsResponse:
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = rows.list_endpoints(tx, request.parent, after=after(request), limit=size + 1)
        items, token = page(found, size, request)
        return pb.ListWebhookEndpointsResponse(webhook_endpoints=map(_endpoint, items), next_page_token=token)

    def UpdateWebhookEndpoint(
        self, request: pb.UpdateWebhookEndpointRequest, context: grpc.ServicerContext
    ) -> pb.WebhookEndpoint:
        call = current_call()
        if request.HasField("url"):
            webhooks.check_url(self._rules, request.url)
        wanted = frozenset(request.event_types)

        def update() -> pb.WebhookEndpoint:
            endpoint = webhooks.update_endpoint(
                tx,
                request.name,
                url=request.url if request.HasField("url") else None,
                event_types=frozenset() if wanted == _ALL else wanted or None,
                description=request.description if request.HasField("description") else None,
                state=EndpointState(pb.WebhookEndpoint.State.Name(request.state)) if request.state else None,
                etag=request.etag,
                caller=call.principal,
            )
            return _endpoint(endpoint)

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, update)

    def DeleteWebhookEndpoint(
        self, request: pb.DeleteWebhookEndpointRequest, context: grpc.ServicerContext
    ) -> Empty:
        call = current_call()

        def delete() -> Empty:
            webhooks.delete_endpoint(tx, request.name, etag=request.etag, caller=call.principal)
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, delete)

    def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: grpc.ServicerContext
    ) -> pb.WebhookEndpoint:
        call = current_call()
        overlap = timedelta(hours=request.overlap_hours) if request.HasField("overlap_hours") else OVERLAP
        secrets: list[SecretStr] = []

        def rotate() -> pb.WebhookEndpoint:
            endpoint, secret = webhooks.rotate_secret(
                tx, self._vault, request.name, overlap=overlap, etag=request.etag, caller=call.principal
            )
            secrets.append(secret)
            return _endpoint(endpoint)

        with self._database.transaction(call.scope) as tx:
            reply = tx.once(request, rotate)
        return _with_secret(reply, secrets)

    # Deliveries

    def TestWebhookEndpoint(
        self, request: pb.TestWebhookEndpointRequest, context: grpc.ServicerContext
    ) -> pb.WebhookDelivery:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request, lambda: _delivery(webhooks.send_ping(tx, request.name, caller=call.principal))
            )

    def ReplayWebhookEndpoint(
        self, request: pb.ReplayWebhookEndpointRequest, context: grpc.ServicerContext
    ) -> pb.ReplayWebhookEndpointResponse:
        call = current_call()
        start, end = (
            datetime.fromtimestamp(each.seconds, UTC) + timedelta(microseconds=each.nanos // 1000)
            for each in (request.start_time, request.end_time)
        )
        if end <= start:
            raise invalid("end_time", "must be after start_time", reason="TIME_ORDER")

        def replay() -> pb.ReplayWebhookEndpointResponse:
            replayed = webhooks.replay_endpoint(
                tx,
                request.name,
                start,
                end,
                include_delivered=request.include_delivered,
                caller=call.principal,
            )
            return pb.ReplayWebhookEndpointResponse(replayed_count=replayed)

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, replay)

    def GetWebhookDelivery(
        self, request: pb.GetWebhookDeliveryRequest, context: grpc.ServicerContext
    ) -> pb.WebhookDelivery:
        with self._database.transaction(current_call().scope) as tx:
            delivery = rows.get_delivery(tx, request.name)
            return _delivery(delivery, rows.list_attempts(tx, request.name))

    def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: grpc.ServicerContext
    ) -> pb.ListWebhookDeliveriesResponse:
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = rows.list_deliveries(
                tx,
                request.parent,
                endpoint=request.endpoint,
                state=DeliveryState(pb.WebhookDelivery.State.Name(request.state)) if request.state else None,
                before=after(request) if request.page_token else None,
                limit=size + 1,
            )
        items, token = page(found, size, request)
        listed = []
        for item in items:
            shown = _delivery(item)
            shown.ClearField("payload")
            listed.append(shown)
        return pb.ListWebhookDeliveriesResponse(webhook_deliveries=listed, next_page_token=token)

    def ReplayWebhookDelivery(
        self, request: pb.ReplayWebhookDeliveryRequest, context: grpc.ServicerContext
    ) -> pb.WebhookDelivery:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request, lambda: _delivery(webhooks.replay_delivery(tx, request.name, caller=call.principal))
            )


def _with_secret(reply: pb.WebhookEndpoint, secrets: Sequence[SecretStr]) -> pb.WebhookEndpoint:
    """Only now: what is kept for a repetition must not hold the secret."""
    for secret in secrets:
        reply.secret = secret.get_secret_value()
    return reply


def _endpoint(model: Endpoint) -> pb.WebhookEndpoint:
    """An endpoint, without its secret."""
    shown = pb.WebhookEndpoint(
        name=model.name,
        url=model.url,
        event_types=sorted(model.event_types),
        description=model.description,
        state=pb.WebhookEndpoint.State.Value(model.state),
        create_time=stamp(model.create_time),
        update_time=stamp(model.update_time),
        etag=etag_of(model.revision),
    )
    if model.disabled_by:
        shown.disabled_by = pb.WebhookEndpoint.DisabledBy.Value(model.disabled_by)
    if model.failing_since:
        shown.failing_since.CopyFrom(stamp(model.failing_since))
    if model.old_secret_expire_time:
        shown.old_secret_expire_time.CopyFrom(stamp(model.old_secret_expire_time))
    return shown


def _delivery(model: Delivery, attempts: Sequence[Attempt] = ()) -> pb.WebhookDelivery:
    shown = pb.WebhookDelivery(
        name=model.name,
        endpoint=model.endpoint,
        webhook_id=model.webhook_id,
        event_type=model.event_type,
        event_time=stamp(model.event_time),
        state=pb.WebhookDelivery.State.Value(model.state),
        reason=model.reason,
        attempts=[
            pb.WebhookDelivery.Attempt(
                attempt_time=stamp(each.time),
                status_code=each.status,
                duration_millis=round(each.duration.total_seconds() * 1000),
                error=each.error,
            )
            for each in attempts
        ],
        payload=model.payload,
        create_time=stamp(model.create_time),
    )
    if model.due_time:
        shown.next_attempt_time.CopyFrom(stamp(model.due_time))
    return shown
