"""What accounts counts, and what its worker reads from the database for dashboards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.accounts import store
from services.accounts.model import Verification
from services.accounts.model.health import EXPIRES_SOON
from services.accounts.model.webhooks import Attempt, Delivery
from services.accounts.store import health as health_rows
from services.accounts.store import webhooks as webhook_rows
from services.chassis.database import Transaction
from services.chassis.errors import ServiceError
from services.chassis.metrics import SLOW, Reading, counter, duration

_logins = counter("numerator.accounts.logins", "Tries to log in, by members and by clients.")
_verifications = counter("numerator.accounts.verifications", "Steps of verifications, by where they led.")
_bindings = counter("numerator.accounts.bindings", "Bindings that were completed or refused.")
_webhook_attempts = counter("numerator.accounts.webhook.attempts", "Requests to webhook endpoints.")
_webhook_delay = duration(
    "numerator.accounts.webhook.delay",
    "From an event's delivery row to its endpoint's 2xx, at the first try.",
    SLOW,
)
_webhook_endpoints = Reading("numerator.accounts.webhook.endpoints", "Webhook endpoints by state.")
_enterprises = Reading("numerator.accounts.enterprises", "Enterprises by how far they are verified.")
_accounts = Reading("numerator.accounts.accounts", "Bound accounts by network and state.")
_expiring = Reading(
    "numerator.accounts.tokens.expiring", "Accounts whose token works, and ends soon, by network."
)


@contextmanager
def login(kind: str) -> Iterator[None]:
    """Count a try to log in, MEMBER or CLIENT: `OK`, or the reason of what the block raises."""
    try:
        yield
    except ServiceError as error:
        _logins.add(1, {"kind": kind, "outcome": error.reason})
        raise
    _logins.add(1, {"kind": kind, "outcome": "OK"})


def verification(tx: Transaction, state: Verification) -> None:
    """Count a step of a verification."""
    tx.after_commit(lambda: _verifications.add(1, {"state": state}))


def binding(tx: Transaction, network: str, outcome: str = "OK") -> None:
    """Count a binding that was completed, or refused for the reason `outcome`."""
    tx.after_commit(lambda: _bindings.add(1, {"network": network, "outcome": outcome}))


def webhook_attempts(tx: Transaction, made: Sequence[tuple[Delivery, Attempt]]) -> None:
    """Count attempts by what came of them: `OK`, or the error."""

    def count() -> None:
        for delivery, attempt in made:
            _webhook_attempts.add(1, {"outcome": attempt.error or "OK"})
            if not attempt.error and delivery.tries == 0:
                taken = attempt.time + attempt.duration - delivery.create_time
                _webhook_delay.record(taken.total_seconds())

    tx.after_commit(count)


def read(tx: Transaction) -> None:
    """Read the gauges; needs the platform's scope."""
    counts = store.count_enterprises(tx)
    _enterprises.set((counts.get(state, 0), {"state": state}) for state in Verification)
    _accounts.set(
        (count, {"network": network, "state": state}) for network, state, count in store.count_accounts(tx)
    )
    ending = health_rows.count_expiring(tx, tx.now + EXPIRES_SOON)
    _expiring.set((count, {"network": network}) for network, count in ending)
    _webhook_endpoints.set((count, {"state": state}) for state, count in webhook_rows.count_endpoints(tx))
