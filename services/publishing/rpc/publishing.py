"""The gRPC face of publishing: proto to model and back, nothing else."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.publishing.v1 import publishing_pb2 as pb
from numerator.publishing.v1 import publishing_pb2_grpc as pb_grpc

from services.chassis.database import Database, Transaction
from services.chassis.names import NamePattern, enterprise_of
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call
from services.publishing import store, usecases
from services.publishing.model.deliveries import DELIVERY, Delivery, DeliveryState
from services.publishing.model.interactions import INTERACTION, Interaction
from services.publishing.model.publications import (
    ENTERPRISE,
    PUBLICATION,
    PlanEntry,
    Publication,
    Variant,
    publication_state,
)

M = TypeVar("M", bound=Message)
Listed = TypeVar("Listed", Publication, Interaction)

_BATCH = 500


class PublishingServicer(pb_grpc.PublishingServiceServicer):
    """Serves `numerator.publishing.v1.PublishingService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def CreatePublication(
        self, request: pb.CreatePublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise = _enterprise(ENTERPRISE, request.parent, "parent")
        draft = request.publication
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(
                request,
                lambda: _publication(
                    usecases.create_publication(
                        tx,
                        enterprise,
                        text=draft.text,
                        variants=[Variant(tuple(each.accounts), each.text) for each in draft.variants],
                        accounts=draft.accounts,
                        exclude_accounts=draft.exclude_accounts,
                        schedule_time=_time(draft, "schedule_time"),
                    )
                ),
            )

    def GetPublication(
        self, request: pb.GetPublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise = _enterprise(PUBLICATION, request.name)
        with self._database.transaction(current_call().scope) as tx:
            return _publication(usecases.get_publication(tx, enterprise, request.name))

    def ListPublications(
        self, request: pb.ListPublicationsRequest, context: grpc.ServicerContext
    ) -> pb.ListPublicationsResponse:
        enterprise = _enterprise(ENTERPRISE, request.parent, "parent")
        with self._database.transaction(current_call().scope) as tx:
            found, token = _page(
                request, lambda after, limit: store.publications(tx, enterprise, after, limit)
            )
        return pb.ListPublicationsResponse(
            publications=[_publication(each) for each in found], next_page_token=token
        )

    def PlanPublication(
        self, request: pb.PlanPublicationRequest, context: grpc.ServicerContext
    ) -> pb.PlanPublicationResponse:
        enterprise = _enterprise(PUBLICATION, request.name)
        with self._database.transaction(current_call().scope) as tx:
            entries = usecases.plan_publication(tx, enterprise, request.name)
        return pb.PlanPublicationResponse(entries=[_plan_entry(entry) for entry in entries])

    def SchedulePublication(
        self, request: pb.SchedulePublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise = _enterprise(PUBLICATION, request.name)
        at = _time(request, "schedule_time")
        return self._write(
            request,
            lambda tx: _publication(usecases.schedule_publication(tx, enterprise, request.name, at)),
        )

    def CancelPublication(
        self, request: pb.CancelPublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise = _enterprise(PUBLICATION, request.name)
        return self._write(
            request, lambda tx: _publication(usecases.cancel_publication(tx, enterprise, request.name))
        )

    def GetDelivery(self, request: pb.GetDeliveryRequest, context: grpc.ServicerContext) -> pb.Delivery:
        enterprise = _enterprise(DELIVERY, request.name)
        with self._database.transaction(current_call().scope) as tx:
            return _delivery(usecases.get_delivery(tx, enterprise, request.name))

    def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: grpc.ServicerContext
    ) -> pb.ListDeliveriesResponse:
        enterprise = _enterprise(PUBLICATION, request.parent, "parent")
        size, after = page_size(request.page_size), decode_token(request.page_token, query=request)
        with self._database.transaction(current_call().scope) as tx:
            usecases.get_publication(tx, enterprise, request.parent)
            found = store.deliveries(tx, enterprise, request.parent, str(after[0]) if after else "", size + 1)
        token = encode_token((found[size - 1].account,), query=request) if len(found) > size else ""
        return pb.ListDeliveriesResponse(
            deliveries=[_delivery(each) for each in found[:size]], next_page_token=token
        )

    def WatchDeliveries(
        self, request: pb.WatchDeliveriesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchDeliveriesResponse]:
        enterprise = _enterprise(PUBLICATION, request.parent, "parent")
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            usecases.get_publication(tx, enterprise, request.parent)
            begin = tx.last_change(usecases.DELIVERIES)
        if not request.after_sequence:
            for delivery in self._all_deliveries(enterprise, request.parent):
                yield pb.WatchDeliveriesResponse(sequence=begin, delivery=_delivery(delivery))
        for change in self._database.watch(
            usecases.DELIVERIES,
            call.scope,
            after=request.after_sequence or begin,
            timeout=call.remaining(),
            active=lambda: call.remaining() > 0,
        ):
            if change.body["publication"] == request.parent:
                with self._database.transaction(call.scope) as tx:
                    delivery = usecases.get_delivery(tx, enterprise, change.key)
                yield pb.WatchDeliveriesResponse(sequence=change.sequence, delivery=_delivery(delivery))

    def _all_deliveries(self, enterprise: str, publication: str) -> Iterator[Delivery]:
        after = ""
        while True:
            with self._database.transaction(current_call().scope) as tx:
                found = store.deliveries(tx, enterprise, publication, after, _BATCH)
            yield from found
            if len(found) < _BATCH:
                return
            after = found[-1].account

    def GetInteraction(
        self, request: pb.GetInteractionRequest, context: grpc.ServicerContext
    ) -> pb.Interaction:
        enterprise = _enterprise(INTERACTION, request.name)
        with self._database.transaction(current_call().scope) as tx:
            return _interaction(usecases.get_interaction(tx, enterprise, request.name))

    def ListInteractions(
        self, request: pb.ListInteractionsRequest, context: grpc.ServicerContext
    ) -> pb.ListInteractionsResponse:
        enterprise = _enterprise(ENTERPRISE, request.parent, "parent")
        with self._database.transaction(current_call().scope) as tx:
            found, token = _page(
                request, lambda after, limit: store.interactions(tx, enterprise, after, limit)
            )
        return pb.ListInteractionsResponse(
            interactions=[_interaction(each) for each in found], next_page_token=token
        )

    def WatchInteractions(
        self, request: pb.WatchInteractionsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchInteractionsResponse]:
        enterprise = _enterprise(ENTERPRISE, request.parent, "parent")
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            begin = tx.last_change(usecases.INTERACTIONS)
        for change in self._database.watch(
            usecases.INTERACTIONS,
            call.scope,
            after=request.after_sequence or begin,
            timeout=call.remaining(),
            active=lambda: call.remaining() > 0,
        ):
            with self._database.transaction(call.scope) as tx:
                interaction = usecases.get_interaction(tx, enterprise, change.key)
            yield pb.WatchInteractionsResponse(
                sequence=change.sequence, interaction=_interaction(interaction)
            )

    def AnswerInteraction(
        self, request: pb.AnswerInteractionRequest, context: grpc.ServicerContext
    ) -> pb.Interaction:
        enterprise = _enterprise(INTERACTION, request.name)
        return self._write(
            request,
            lambda tx: _interaction(usecases.answer_interaction(tx, enterprise, request.name, request.text)),
        )

    def _write(self, request: Message, make: Callable[[Transaction], M]) -> M:
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(request, lambda: make(tx))


def _enterprise(pattern: NamePattern, name: str, field: str = "name") -> str:
    pattern.parse(name, field)
    return str(enterprise_of(name))


def _page(
    request: pb.ListPublicationsRequest | pb.ListInteractionsRequest,
    read: Callable[[tuple[datetime, str] | None, int], Sequence[Listed]],
) -> tuple[Sequence[Listed], str]:
    """One page of a list that is sorted by create time and name, and the token of the next."""
    size, after = page_size(request.page_size), decode_token(request.page_token, query=request)
    found = read((datetime.fromisoformat(str(after[0])), str(after[1])) if after else None, size + 1)
    if len(found) <= size:
        return found, ""
    last = found[size - 1]
    return found[:size], encode_token((last.create_time.isoformat(), last.name), query=request)


def _publication(publication: Publication) -> pb.Publication:
    counts = publication.counts
    return pb.Publication(
        name=publication.name,
        text=publication.text,
        variants=[pb.Variant(accounts=each.accounts, text=each.text) for each in publication.variants],
        accounts=publication.accounts,
        exclude_accounts=publication.exclude_accounts,
        schedule_time=_timestamp(publication.schedule_time),
        state=pb.Publication.State.Value(publication_state(publication)),
        delivery_counts=pb.Publication.DeliveryCounts(
            queued=counts.get(DeliveryState.QUEUED, 0),
            sending=counts.get(DeliveryState.SENDING, 0) + counts.get(DeliveryState.PENDING_REMOTE, 0),
            published=counts.get(DeliveryState.PUBLISHED, 0),
            unconfirmed=counts.get(DeliveryState.UNCONFIRMED, 0),
            failed=counts.get(DeliveryState.FAILED, 0),
            cancelled=counts.get(DeliveryState.CANCELLED, 0),
        ),
        create_time=_timestamp(publication.create_time),
        update_time=_timestamp(publication.update_time),
    )


def _plan_entry(entry: PlanEntry) -> pb.PlanEntry:
    return pb.PlanEntry(
        account=entry.account,
        handle=entry.handle,
        rule=pb.PlanEntry.Rule.Value(entry.rule),
        text=entry.text,
        problems=[
            pb.PlanEntry.Problem(reason=each.reason, description=each.description) for each in entry.problems
        ],
    )


def _delivery(delivery: Delivery) -> pb.Delivery:
    return pb.Delivery(
        name=delivery.name,
        account=delivery.account,
        text=delivery.text,
        rule=pb.PlanEntry.Rule.Value(delivery.rule),
        state=pb.Delivery.State.Value(delivery.state),
        reason=delivery.reason,
        network_post_id=delivery.network_post_id,
        url=delivery.url,
        attempt_count=delivery.attempts,
        due_time=_timestamp(delivery.due_time),
        next_time=_timestamp(delivery.next_time),
        publish_time=_timestamp(delivery.publish_time),
        create_time=_timestamp(delivery.create_time),
        update_time=_timestamp(delivery.update_time),
    )


def _interaction(interaction: Interaction) -> pb.Interaction:
    return pb.Interaction(
        name=interaction.name,
        kind=pb.Interaction.Kind.Value(interaction.kind),
        state=pb.Interaction.State.Value(interaction.state),
        account=interaction.account,
        delivery=interaction.delivery,
        author=interaction.author,
        author_display_name=interaction.author_display_name,
        author_followers=interaction.author_followers,
        text=interaction.text,
        url=interaction.url,
        answer=interaction.answer,
        interaction_time=_timestamp(interaction.interaction_time),
        create_time=_timestamp(interaction.create_time),
        update_time=_timestamp(interaction.update_time),
    )


def _time(message: pb.Publication | pb.SchedulePublicationRequest, field: str) -> datetime | None:
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(UTC) if message.HasField("schedule_time") else None


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
