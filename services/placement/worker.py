"""Placement's worker: audiences as they are built, people who withdraw, names of enterprises."""

from numerator.events.v1.accounts_pb2 import EnterpriseRegistered
from numerator.events.v1.targeting_pb2 import (
    AudienceArchived,
    AudienceComputed,
    AudienceMembersListed,
    ConsentWithdrawn,
)

from services.chassis.database import Transaction
from services.chassis.messaging.entrypoint import event_handler
from services.chassis.messaging.envelope import Event
from services.placement import usecases


class Worker:
    """Keeps what decisions need."""

    name = "placement"

    @event_handler(EnterpriseRegistered)
    def on_enterprise_registered(self, tx: Transaction, event: Event[EnterpriseRegistered]) -> None:
        usecases.remember_enterprise(tx, event.message.enterprise, event.message.display_name)

    @event_handler(AudienceMembersListed)
    def on_audience_members_listed(self, tx: Transaction, event: Event[AudienceMembersListed]) -> None:
        usecases.keep_part(tx, event.message)

    @event_handler(AudienceComputed)
    def on_audience_computed(self, tx: Transaction, event: Event[AudienceComputed]) -> None:
        usecases.complete_audience(tx, event.message)

    @event_handler(AudienceArchived)
    def on_audience_archived(self, tx: Transaction, event: Event[AudienceArchived]) -> None:
        usecases.drop_audience(tx, event.message.audience)

    @event_handler(ConsentWithdrawn)
    def on_consent_withdrawn(self, tx: Transaction, event: Event[ConsentWithdrawn]) -> None:
        usecases.withdraw(tx, event.message.user.removeprefix("users/"))
