"""Rollout's worker: what accounts and analytics tell, and what the clock brings, to use cases."""

from datetime import UTC, timedelta

from numerator.events.v1.accounts_pb2 import (
    EnterpriseChanged,
    EnterpriseRegistered,
    EnterpriseVerificationRevoked,
    EnterpriseVerified,
)
from numerator.events.v1.analytics_pb2 import GuardrailMeasured

from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.chassis.messaging.entrypoint import event_handler, every
from services.chassis.messaging.envelope import Event
from services.rollout import audit, measurements, metrics, scheduler, serving, usecases
from services.rollout.guardrails import Sample
from services.rollout.settings import Settings

_log = get_logger(__name__)


class Worker:
    """Decides as enterprises come, are verified, or lose it, and as time goes by, over all of them: scope PLATFORM."""

    name = "rollout"

    def __init__(self, settings: Settings) -> None:
        self._look_every = timedelta(seconds=settings.look_seconds)
        audit.anchor_to(settings.audit_anchors)

    @event_handler(EnterpriseRegistered, scope=PLATFORM)
    def on_enterprise_registered(self, tx: Transaction, event: Event[EnterpriseRegistered]) -> None:
        told = event.message
        said = {"industry": told.industry, "region": told.region}
        attributes = {key: value for key, value in said.items() if value}
        usecases.remember_enterprise(
            tx, told.enterprise, verified=False, told=event.time, attributes=attributes
        )

    @event_handler(EnterpriseChanged, scope=PLATFORM)
    def on_enterprise_changed(self, tx: Transaction, event: Event[EnterpriseChanged]) -> None:
        usecases.remember_enterprise(
            tx,
            event.message.enterprise,
            verified=event.message.verified,
            told=event.time,
            attributes=_attributes(event.message),
        )

    @event_handler(EnterpriseVerified, scope=PLATFORM)
    def on_enterprise_verified(self, tx: Transaction, event: Event[EnterpriseVerified]) -> None:
        usecases.remember_enterprise(
            tx,
            event.message.enterprise,
            verified=True,
            told=event.time,
            attributes=_attributes(event.message),
        )

    @event_handler(EnterpriseVerificationRevoked, scope=PLATFORM)
    def on_enterprise_verification_revoked(
        self, tx: Transaction, event: Event[EnterpriseVerificationRevoked]
    ) -> None:
        usecases.remember_enterprise(
            tx,
            event.message.enterprise,
            verified=False,
            told=event.time,
            attributes=_attributes(event.message),
        )

    @event_handler(GuardrailMeasured, scope=PLATFORM)
    def on_guardrail_measured(self, tx: Transaction, event: Event[GuardrailMeasured]) -> None:
        told = event.message
        measurements.record(
            tx,
            told.metric,
            through=told.measured_through.ToDatetime(UTC) if told.HasField("measured_through") else None,
            window_start=told.window_start.ToDatetime(UTC) if told.HasField("window_start") else None,
            window=timedelta(seconds=told.window_seconds),
            samples={each.enterprise: Sample(each.count, each.bad) for each in told.samples},
        )

    @every(1)
    def move(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            scheduler.expire(tx)
            scheduler.apply_due_changes(tx)
            names = [rollout.name for rollout in scheduler.rollouts(tx)]
        for name in names:
            try:
                with database.transaction(PLATFORM) as tx:
                    scheduler.step(tx, name, look_every=self._look_every)
            except ServiceError as error:  # the others go on; this one is tried again in a second
                _log.warning("rollout.step_failed", rollout=name, reason=error.reason)
                metrics.stepped(error.reason)
            else:
                metrics.stepped("OK")

    @every(10)
    def measure(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            metrics.read(tx, {each.name: usecases.gates_of(tx, each) for each in scheduler.rollouts(tx)})
            audit.anchor_head(tx)

    @every(60)
    def publish(self, database: Database) -> None:
        """Another release may compile another document of the same rollouts."""
        with database.transaction(PLATFORM) as tx:
            usecases.publish(tx)

    @every(600)
    def forget(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            serving.forget_old(tx)
        while self._prune(database):
            pass

    def _prune(self, database: Database) -> int:
        with database.transaction(PLATFORM) as tx:
            return measurements.prune(tx)


def _attributes(
    told: EnterpriseChanged | EnterpriseVerified | EnterpriseVerificationRevoked,
) -> dict[str, str]:
    """What rules may ask of what accounts told."""
    said = {**told.attributes, "industry": told.industry, "region": told.region, "tier": told.tier}
    return {key: value for key, value in said.items() if value}
