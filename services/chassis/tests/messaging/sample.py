"""A worker to test with. What a handler does is decided by the event's subject."""

import time

from numerator.events.v1.accounts_pb2 import AccountBound, AccountUnbound, EnterpriseVerified
from pydantic_settings import SettingsConfigDict

from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.messaging.entrypoint import event_handler, every
from services.chassis.messaging.envelope import Event
from services.chassis.settings import ServiceSettings


class SampleSettings(ServiceSettings):
    """The sample's settings, `SAMPLE_*`."""

    model_config = SettingsConfigDict(env_prefix="SAMPLE_")


class Worker:
    """Writes down what it is told."""

    name = "sample"

    def __init__(self, settings: SampleSettings) -> None:
        self._database = Database(settings.database_url.get_secret_value(), schema="sample")

    @event_handler(AccountUnbound)
    def on_unbound(self, tx: Transaction, event: Event[AccountUnbound]) -> None:
        """An effect, after whatever the subject asks for."""
        kind, argument, *_ = *event.subject.split("/"), ""
        if kind != "s":
            self._note(event.subject)
        match kind:
            case "sleep":  # gives way to other green threads
                tx.execute("select pg_sleep(%s)", (float(argument),))
            case "spin":  # does not
                end = time.monotonic() + float(argument)
                while time.monotonic() < end:
                    pass
            case "jitter":
                tx.execute("select pg_sleep(random() * 0.03)")
            case "refuse":
                raise ServiceError(Kind.FAILED_PRECONDITION, "NOT_NOW", "not now")
            case "bug":
                raise ZeroDivisionError
            case "busy":
                raise ServiceError(Kind.UNAVAILABLE, "DOWN", "down")
        self._effect(tx, "on_unbound", event, event.message.account)

    @event_handler(AccountBound)
    def on_bound(self, tx: Transaction, event: Event[AccountBound]) -> None:
        """An effect, and an event of its own."""
        self._effect(tx, "on_bound", event, event.message.handle)
        tx.emit(EnterpriseVerified(enterprise=event.subject), subject=event.subject)

    @every(1)
    def tick(self, database: Database) -> None:
        """Overlaps itself, were it let to."""
        with database.transaction(PLATFORM) as tx:
            tx.execute("insert into effects (handler, event_id, subject) values ('tick', 'begin', '')")
        with database.transaction(PLATFORM) as tx:
            tx.execute("select pg_sleep(1.2)")
            tx.execute("insert into effects (handler, event_id, subject) values ('tick', 'end', '')")

    def _note(self, subject: str) -> None:
        """In a transaction of its own, because the handler's may not commit."""
        with self._database.transaction(PLATFORM) as tx:
            tx.execute("insert into attempts (subject) values (%s)", (subject,))

    @staticmethod
    def _effect(tx: Transaction, handler: str, event: Event, value: str) -> None:
        tx.execute(
            "insert into effects (handler, event_id, subject, value) values (%s, %s, %s, %s)",
            (handler, event.id, event.subject, value),
        )
