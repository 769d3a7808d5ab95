"""Placement's worker: audiences as they are built, people who withdraw, what people see of enterprises."""

from numerator.events.v1.accounts_pb2 import (
    EnterpriseRegistered,
    EnterpriseVerificationRevoked,
    EnterpriseVerified,
)
from numerator.events.v1.targeting_pb2 import (
    AudienceArchived,
    AudienceComputed,
    AudienceMembersListed,
    ConsentWithdrawn,
)

from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.messaging.entrypoint import event_handler, every
from services.chassis.messaging.envelope import Event
from services.placement import usecases


class Worker:
    """Keeps what decisions and pages need. Queues keep no order among each other, so no handler relies on one."""

    name = "placement"

    @event_handler(EnterpriseRegistered)
    def on_enterprise_registered(self, tx: Transaction, event: Event[EnterpriseRegistered]) -> None:
        usecases.name_enterprise(tx, event.message.enterprise, event.message.display_name)

    @event_handler(EnterpriseVerified)
    def on_enterprise_verified(self, tx: Transaction, event: Event[EnterpriseVerified]) -> None:
        usecases.verify_enterprise(tx, event.message.enterprise, verified=True, since=event.time)

    @event_handler(EnterpriseVerificationRevoked)
    def on_verification_revoked(self, tx: Transaction, event: Event[EnterpriseVerificationRevoked]) -> None:
        usecases.verify_enterprise(tx, event.message.enterprise, verified=False, since=event.time)

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

    @every(3600)
    def purge(self, database: Database) -> None:
        removed = 1
        while removed:
            with database.transaction(PLATFORM) as tx:
                removed = usecases.purge(tx)
