"""`PublishingService`: publications, deliveries, interactions."""

from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
from numerator.publishing.v1 import publishing_pb2 as pb
from numerator.publishing.v1 import publishing_pb2_grpc as pb_grpc

from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call
from services.publishing import store, usecases
from services.publishing.model.callers import Caller
from services.publishing.model.deliveries import DELIVERY, Delivery, DeliveryState
from services.publishing.model.freezes import FROZEN
from services.publishing.model.interactions import INTERACTION, Interaction
from services.publishing.model.publications import (
    ENTERPRISE,
    PUBLICATION,
    PlanEntry,
    Publication,
    Variant,
    publication_state,
)
from services.publishing.rpc import Servicer, enterprise_in, page, present_caller, timestamp

_BATCH = 500


class PublishingServicer(Servicer, pb_grpc.PublishingServiceServicer):
    """Serves `numerator.publishing.v1.PublishingService`."""

    def CreatePublication(
        self, request: pb.CreatePublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise = enterprise_in(ENTERPRISE, request.parent, "parent")
        draft, caller = request.publication, present_caller()
        return self._write(
            request,
            lambda tx: _publication(
                usecases.create_publication(
                    tx,
                    enterprise,
                    text=draft.text,
                    variants=[Variant(tuple(each.accounts), each.text) for each in draft.variants],
                    accounts=draft.accounts,
                    exclude_accounts=draft.exclude_accounts,
                    schedule_time=_time(draft),
                    caller=caller,
                )
            ),
        )

    def GetPublication(
        self, request: pb.GetPublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise = enterprise_in(PUBLICATION, request.name)
        with self._database.transaction(current_call().scope) as tx:
            return _publication(usecases.get_publication(tx, enterprise, request.name, present_caller()))

    def ListPublications(
        self, request: pb.ListPublicationsRequest, context: grpc.ServicerContext
    ) -> pb.ListPublicationsResponse:
        enterprise, caller = enterprise_in(ENTERPRISE, request.parent, "parent"), present_caller()
        with self._database.transaction(current_call().scope) as tx:
            found, token = page(
                request, lambda after, limit: store.publications(tx, enterprise, after, limit, caller)
            )
        return pb.ListPublicationsResponse(
            publications=[_publication(each) for each in found], next_page_token=token
        )

    def PlanPublication(
        self, request: pb.PlanPublicationRequest, context: grpc.ServicerContext
    ) -> pb.PlanPublicationResponse:
        enterprise = enterprise_in(PUBLICATION, request.name)
        with self._database.transaction(current_call().scope) as tx:
            entries = usecases.plan_publication(tx, enterprise, request.name, present_caller())
        return pb.PlanPublicationResponse(entries=[_plan_entry(entry) for entry in entries])

    def SchedulePublication(
        self, request: pb.SchedulePublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise, caller = enterprise_in(PUBLICATION, request.name), present_caller()
        at = _time(request)
        return self._write(
            request,
            lambda tx: _publication(usecases.schedule_publication(tx, enterprise, request.name, at, caller)),
        )

    def CancelPublication(
        self, request: pb.CancelPublicationRequest, context: grpc.ServicerContext
    ) -> pb.Publication:
        enterprise, caller = enterprise_in(PUBLICATION, request.name), present_caller()
        return self._write(
            request,
            lambda tx: _publication(usecases.cancel_publication(tx, enterprise, request.name, caller)),
        )

    def GetDelivery(self, request: pb.GetDeliveryRequest, context: grpc.ServicerContext) -> pb.Delivery:
        enterprise = enterprise_in(DELIVERY, request.name)
        with self._database.transaction(current_call().scope) as tx:
            return _delivery(usecases.get_delivery(tx, enterprise, request.name, present_caller()))

    def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: grpc.ServicerContext
    ) -> pb.ListDeliveriesResponse:
        enterprise, caller = enterprise_in(PUBLICATION, request.parent, "parent"), present_caller()
        size, after = page_size(request.page_size), decode_token(request.page_token, (str,), query=request)
        with self._database.transaction(current_call().scope) as tx:
            usecases.get_publication(tx, enterprise, request.parent, caller)
            found = store.deliveries(
                tx, enterprise, request.parent, str(after[0]) if after else "", size + 1, caller
            )
        token = encode_token((found[size - 1].account,), query=request) if len(found) > size else ""
        return pb.ListDeliveriesResponse(
            deliveries=[_delivery(each) for each in found[:size]], next_page_token=token
        )

    def WatchDeliveries(
        self, request: pb.WatchDeliveriesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchDeliveriesResponse]:
        enterprise, caller = enterprise_in(PUBLICATION, request.parent, "parent"), present_caller()
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            usecases.get_publication(tx, enterprise, request.parent, caller)
            begin = tx.last_change(usecases.DELIVERIES)
        if not request.after_sequence:
            for delivery in self._all_deliveries(enterprise, request.parent, caller):
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
                    seen = store.delivery(tx, enterprise, change.key, caller)
                if seen:
                    yield pb.WatchDeliveriesResponse(sequence=change.sequence, delivery=_delivery(seen))

    def _all_deliveries(self, enterprise: str, publication: str, caller: Caller) -> Iterator[Delivery]:
        after = ""
        while True:
            with self._database.transaction(current_call().scope) as tx:
                found = store.deliveries(tx, enterprise, publication, after, _BATCH, caller)
            yield from found
            if len(found) < _BATCH:
                return
            after = found[-1].account

    def GetInteraction(
        self, request: pb.GetInteractionRequest, context: grpc.ServicerContext
    ) -> pb.Interaction:
        enterprise = enterprise_in(INTERACTION, request.name)
        with self._database.transaction(current_call().scope) as tx:
            return _interaction(usecases.get_interaction(tx, enterprise, request.name, present_caller()))

    def ListInteractions(
        self, request: pb.ListInteractionsRequest, context: grpc.ServicerContext
    ) -> pb.ListInteractionsResponse:
        enterprise, caller = enterprise_in(ENTERPRISE, request.parent, "parent"), present_caller()
        with self._database.transaction(current_call().scope) as tx:
            found, token = page(
                request, lambda after, limit: store.interactions(tx, enterprise, after, limit, caller)
            )
        return pb.ListInteractionsResponse(
            interactions=[_interaction(each) for each in found], next_page_token=token
        )

    def WatchInteractions(
        self, request: pb.WatchInteractionsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchInteractionsResponse]:
        enterprise, caller = enterprise_in(ENTERPRISE, request.parent, "parent"), present_caller()
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
                seen = caller.everywhere or caller.sees(store.groups_of(tx, enterprise, interaction.account))
            if seen:
                yield pb.WatchInteractionsResponse(
                    sequence=change.sequence, interaction=_interaction(interaction)
                )

    def AnswerInteraction(
        self, request: pb.AnswerInteractionRequest, context: grpc.ServicerContext
    ) -> pb.Interaction:
        enterprise, caller = enterprise_in(INTERACTION, request.name), present_caller()
        return self._write(
            request,
            lambda tx: _interaction(
                usecases.answer_interaction(tx, enterprise, request.name, request.text, caller)
            ),
        )


def _publication(publication: Publication) -> pb.Publication:
    counts = publication.counts
    return pb.Publication(
        name=publication.name,
        text=publication.text,
        variants=[pb.Variant(accounts=each.accounts, text=each.text) for each in publication.variants],
        accounts=publication.accounts,
        exclude_accounts=publication.exclude_accounts,
        schedule_time=timestamp(publication.schedule_time),
        state=pb.Publication.State.Value(publication_state(publication)),
        delivery_counts=pb.Publication.DeliveryCounts(
            queued=counts.get(DeliveryState.QUEUED, 0),
            sending=counts.get(DeliveryState.SENDING, 0) + counts.get(DeliveryState.PENDING_REMOTE, 0),
            published=counts.get(DeliveryState.PUBLISHED, 0),
            unconfirmed=counts.get(DeliveryState.UNCONFIRMED, 0),
            failed=counts.get(DeliveryState.FAILED, 0),
            cancelled=counts.get(DeliveryState.CANCELLED, 0),
        ),
        create_time=timestamp(publication.create_time),
        update_time=timestamp(publication.update_time),
        creator=publication.creator,
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
        reason=FROZEN if delivery.freeze else delivery.reason,
        freeze=delivery.freeze,
        network_post_id=delivery.network_post_id,
        url=delivery.url,
        attempt_count=delivery.attempts,
        due_time=timestamp(delivery.due_time),
        next_time=timestamp(delivery.next_time),
        publish_time=timestamp(delivery.publish_time),
        create_time=timestamp(delivery.create_time),
        update_time=timestamp(delivery.update_time),
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
        interaction_time=timestamp(interaction.interaction_time),
        create_time=timestamp(interaction.create_time),
        update_time=timestamp(interaction.update_time),
    )


def _time(message: pb.Publication | pb.SchedulePublicationRequest) -> datetime | None:
    return message.schedule_time.ToDatetime(UTC) if message.HasField("schedule_time") else None
