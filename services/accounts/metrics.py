"""What accounts counts, and what its worker reads from the database for dashboards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from services.accounts import store
from services.accounts.model import Verification
from services.accounts.model.health import EXPIRES_SOON
from services.accounts.model.invitations import RowState
from services.accounts.model.webhooks import Attempt, Delivery, DeliveryState
from services.accounts.store import health as health_rows
from services.accounts.store import invitations as invitation_rows
from services.accounts.store import rotation as rotation_rows
from services.accounts.store import sessions as session_rows
from services.accounts.store import webhooks as webhook_rows
from services.chassis.database import Transaction
from services.chassis.errors import ServiceError
from services.chassis.metrics import SLOW, Reading, counter, duration

_DAY = timedelta(days=1)
_logins = counter("numerator.accounts.logins", "Tries to log in, by members and by clients.")
_verifications = counter("numerator.accounts.verifications", "Steps of verifications, by where they led.")
_bindings = counter("numerator.accounts.bindings", "Bindings that were completed or refused.")
_tokens_read = counter("numerator.accounts.tokens.read", "Tokens of accounts that were opened, by purpose.")
_refreshes = counter("numerator.accounts.token.refreshes", "Refreshes of tokens, by what came of them.")
_webhook_attempts = counter("numerator.accounts.webhook.attempts", "Requests to webhook endpoints.")
_webhook_delay = duration(
    "numerator.accounts.webhook.delay",
    "From an event's delivery row to its endpoint's 2xx, at the first try.",
    SLOW,
)
_webhook_ended = counter(
    "numerator.accounts.webhook.deliveries.ended", "Webhook deliveries that came to an end."
)
_webhook_endpoints = Reading("numerator.accounts.webhook.endpoints", "Webhook endpoints by state.")
_webhook_oldest_due = Reading(
    "numerator.accounts.webhook.oldest_due", "How long the longest due webhook endpoint has been due.", "s"
)
_enterprises = Reading("numerator.accounts.enterprises", "Enterprises by how far they are verified.")
_accounts = Reading("numerator.accounts.accounts", "Bound accounts by network and state.")
_expiring = Reading(
    "numerator.accounts.tokens.expiring", "Accounts whose token works, and ends soon, by network and by when."
)
_binding_rows = Reading("numerator.accounts.binding.rows", "Accounts that were invited in batches, by state.")
_sessions = Reading("numerator.accounts.sessions", "Sessions of members that have not ended.")
_rotation_left = Reading(
    "numerator.accounts.rotation.left", "Enterprises whose data key a rotation has still to replace."
)
_wrapped = Reading("numerator.accounts.keys.wrapped", "What each master key has wrapped.")


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


def token_read(tx: Transaction, purpose: str) -> None:
    """Count an account's token that was opened."""
    tx.after_commit(lambda: _tokens_read.add(1, {"purpose": purpose}))


def refresh(tx: Transaction, outcome: str) -> None:
    """Count a refresh of a token: `OK`, or the reason why not."""
    tx.after_commit(lambda: _refreshes.add(1, {"outcome": outcome}))


def webhook_attempts(tx: Transaction, made: Sequence[tuple[Delivery, Attempt]]) -> None:
    """Count attempts, each with its delivery as it was before, by what came of them: `OK`, or the error."""

    def count() -> None:
        for delivery, attempt in made:
            retry = "true" if delivery.tries else "false"
            _webhook_attempts.add(1, {"outcome": attempt.error or "OK", "retry": retry})
            if not attempt.error and delivery.tries == 0:
                taken = attempt.time + attempt.duration - delivery.create_time
                _webhook_delay.record(taken.total_seconds())

    tx.after_commit(count)


def webhook_deliveries(tx: Transaction, after: Sequence[Delivery]) -> None:
    """Count those deliveries that have come to their end."""

    def count() -> None:
        for delivery in after:
            if delivery.state is not DeliveryState.PENDING:
                _webhook_ended.add(1, {"state": delivery.state, "reason": delivery.reason})

    tx.after_commit(count)


def read(tx: Transaction) -> None:
    """Read the gauges; needs the platform's scope."""
    counts = store.count_enterprises(tx)
    _enterprises.set((counts.get(state, 0), {"state": state}) for state in Verification)
    _accounts.set(
        (count, {"network": network, "state": state}) for network, state, count in store.count_accounts(tx)
    )
    _expiring.set(
        (count, {"network": network, "within": "DAY" if soon else "WEEK"})
        for network, soon, count in health_rows.count_expiring(tx, tx.now + _DAY, tx.now + EXPIRES_SOON)
    )
    invited = invitation_rows.count_rows(tx)
    _binding_rows.set((invited.get(state, 0), {"state": state}) for state in RowState)
    _sessions.set([(session_rows.count_sessions(tx), {})])
    _webhook_endpoints.set((count, {"state": state}) for state, count in webhook_rows.count_endpoints(tx))
    due = {failing: webhook_rows.longest_due(tx, failing=failing) for failing in (False, True)}
    _webhook_oldest_due.set(
        ((tx.now - since).total_seconds() if since else 0, {"endpoint": "FAILING" if failing else "LIVE"})
        for failing, since in due.items()
    )
    _rotation_left.set([(rotation_rows.count_enterprises_to_rotate(tx), {})])
    _wrapped.set((count, {"master_key": key}) for key, count in rotation_rows.count_wrapped(tx))
