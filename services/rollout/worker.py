"""Rollout's worker: what accounts tells of enterprises, to use cases."""

from numerator.events.v1.accounts_pb2 import (
    EnterpriseRegistered,
    EnterpriseVerificationRevoked,
    EnterpriseVerified,
)

from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.messaging.entrypoint import event_handler, every
from services.chassis.messaging.envelope import Event
from services.rollout import metrics, usecases


class Worker:
    """Decides admissions as enterprises come, are verified, or lose it. A decision looks at all enterprises: scope PLATFORM."""

    name = "rollout"

    @event_handler(EnterpriseRegistered, scope=PLATFORM)
    def on_enterprise_registered(self, tx: Transaction, event: Event[EnterpriseRegistered]) -> None:
        usecases.remember_enterprise(tx, event.message.enterprise, verified=False, told=event.time)

    @event_handler(EnterpriseVerified, scope=PLATFORM)
    def on_enterprise_verified(self, tx: Transaction, event: Event[EnterpriseVerified]) -> None:
        usecases.remember_enterprise(tx, event.message.enterprise, verified=True, told=event.time)

    @event_handler(EnterpriseVerificationRevoked, scope=PLATFORM)
    def on_enterprise_verification_revoked(
        self, tx: Transaction, event: Event[EnterpriseVerificationRevoked]
    ) -> None:
        usecases.remember_enterprise(tx, event.message.enterprise, verified=False, told=event.time)

    @every(10)
    def measure(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            metrics.read(tx)
