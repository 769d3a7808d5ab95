"""Analytics' worker: what the other services tell, as facts and as numbers of guardrails."""

from datetime import UTC, timedelta

from numerator.events.v1.accounts_pb2 import AccountBound, AccountReauthRequired
from numerator.events.v1.analytics_pb2 import ConsumerProbed
from numerator.events.v1.placement_pb2 import ExposureRecorded, RegistrationCreated
from numerator.events.v1.publishing_pb2 import (
    DeliveryFailed,
    DeliveryPublished,
    InteractionAnswered,
    InteractionKind,
    InteractionReceived,
)

from services.analytics import guardrails, usecases
from services.analytics.model import Fact, Guardrail, Kind, Source, post_id
from services.analytics.settings import Settings
from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.messaging.entrypoint import event_handler, every
from services.chassis.messaging.envelope import Event
from services.chassis.names import enterprise_of


class Worker:
    """
    Turns events into facts and numbers of guardrails, and tells the latter.

    A fact's id is the name of what happened, so that it counts once in whatever event it is told. A guardrail counts
    events, each once.
    """

    name = "analytics"

    def __init__(self, settings: Settings) -> None:
        self._window = settings.window
        self._tell_every = timedelta(seconds=settings.tell_seconds)

    @event_handler(DeliveryPublished)
    def on_delivery_published(self, tx: Transaction, event: Event[DeliveryPublished]) -> None:
        told = event.message
        fact = Fact(
            id=post_id(told.network_post_id),
            kind=Kind.POST,
            time=told.publish_time.ToDatetime(tzinfo=UTC),
            post=told.network_post_id,
            publication=told.delivery.partition("/deliveries/")[0],
            account=told.account,
        )
        enterprise = _tenant(told.delivery)
        guardrails.count(tx, Guardrail.PUBLISH_ERRORS, enterprise, event.time, bad=False, window=self._window)
        usecases.remember_post(tx, enterprise, fact)

    @event_handler(DeliveryFailed)
    def on_delivery_failed(self, tx: Transaction, event: Event[DeliveryFailed]) -> None:
        enterprise = _tenant(event.message.delivery)
        guardrails.count(tx, Guardrail.PUBLISH_ERRORS, enterprise, event.time, bad=True, window=self._window)

    @event_handler(AccountBound)
    def on_account_bound(self, tx: Transaction, event: Event[AccountBound]) -> None:
        enterprise = _tenant(event.message.account)
        guardrails.count(
            tx, Guardrail.BINDING_SUCCESS, enterprise, event.time, bad=False, window=self._window
        )

    @event_handler(AccountReauthRequired)
    def on_account_reauth_required(self, tx: Transaction, event: Event[AccountReauthRequired]) -> None:
        enterprise = _tenant(event.message.account)
        guardrails.count(tx, Guardrail.BINDING_SUCCESS, enterprise, event.time, bad=True, window=self._window)

    @event_handler(InteractionReceived)
    def on_interaction_received(self, tx: Transaction, event: Event[InteractionReceived]) -> None:
        told = event.message
        fact = Fact(
            id=told.interaction,
            kind=Kind(InteractionKind.Name(told.kind).lower()),
            time=told.interaction_time.ToDatetime(tzinfo=UTC),
            person=told.author,
            publication=told.delivery.partition("/deliveries/")[0],
            account=told.account,
        )
        usecases.remember(tx, _tenant(told.interaction), [fact])

    @event_handler(InteractionAnswered)
    def on_interaction_answered(self, tx: Transaction, event: Event[InteractionAnswered]) -> None:
        told = event.message
        answered, asked = (
            told.answer_time.ToDatetime(tzinfo=UTC),
            told.interaction_time.ToDatetime(tzinfo=UTC),
        )
        fact = Fact(
            id=f"{told.interaction}#answer",
            kind=Kind.ANSWER,
            time=answered,
            account=told.account,
            value=max(0.0, (answered - asked).total_seconds()),
        )
        usecases.remember(tx, _tenant(told.interaction), [fact])

    @event_handler(ExposureRecorded)
    def on_exposure_recorded(self, tx: Transaction, event: Event[ExposureRecorded]) -> None:
        told = event.message
        fact = Fact(
            id=f"exposure:{told.decision}",
            kind=Kind.EXPOSURE,
            time=told.exposure_time.ToDatetime(tzinfo=UTC),
            person=told.user,
            placement=told.placement,
            campaign=told.placement.partition("/placements/")[0],
        )
        usecases.remember(tx, _tenant(told.placement), [fact])

    @event_handler(RegistrationCreated)
    def on_registration_created(self, tx: Transaction, event: Event[RegistrationCreated]) -> None:
        told = event.message
        fact = Fact(
            id=told.registration,
            kind=Kind.REGISTRATION,
            time=told.create_time.ToDatetime(tzinfo=UTC),
            person=told.user,
            placement=told.placement,
            campaign=told.placement.partition("/placements/")[0],
        )
        usecases.remember(tx, _tenant(told.registration), [fact])

    @event_handler(ConsumerProbed)
    def on_consumer_probed(self, tx: Transaction, event: Event[ConsumerProbed]) -> None:
        guardrails.heard(tx, event.message.probe_time.ToDatetime(tzinfo=UTC))

    @every(0.5)
    def tell(self, database: Database) -> None:
        for source in Source:
            backlog = True
            while backlog:
                with database.transaction(PLATFORM) as tx:
                    backlog = guardrails.tell(tx, source, window=self._window, every=self._tell_every)

    @every(3600)
    def purge(self, database: Database) -> None:
        removed = 1
        while removed:
            with database.transaction(PLATFORM) as tx:
                removed = guardrails.purge(tx)


def _tenant(name: str) -> str:
    """The enterprise to which a resource belongs; events of tenants name one."""
    enterprise = enterprise_of(name)
    if enterprise is None:
        raise ValueError(f"{name} belongs to no enterprise")
    return enterprise
