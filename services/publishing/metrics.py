"""What publishing counts, and what its worker reads from the database for dashboards."""

from datetime import datetime

from services.chassis.database import Transaction
from services.chassis.metrics import SLOW, Reading, counter, duration
from services.publishing import store
from services.publishing.model.deliveries import FINAL, Delivery, DeliveryState
from services.publishing.model.interactions import Interaction, InteractionState

outcomes = counter("numerator.publishing.outcomes", "What came of each attempt and look-up.")
lateness = duration("numerator.publishing.lateness", "From due to the first attempt.")
interactions = counter("numerator.publishing.interactions", "Interactions that came in.")
_ended = counter("numerator.publishing.deliveries.ended", "Deliveries that came to their end.")
_answered = duration("numerator.publishing.answer.duration", "From an interaction to its answer.", SLOW)
_deliveries = Reading("numerator.publishing.deliveries", "Deliveries that have not ended, by state.")
_oldest_due = Reading("numerator.publishing.oldest_due", "How long the oldest queued delivery is due.", "s")
_frozen = Reading("numerator.publishing.accounts.frozen", "Accounts that a freeze holds.")
_held = Reading(
    "numerator.publishing.deliveries.held", "Deliveries that are due and wait for a freeze to be lifted."
)
_open = Reading("numerator.publishing.interactions.open", "Interactions that are not answered, by state.")


def ended(tx: Transaction, delivery: Delivery) -> None:
    """Count a delivery that is PUBLISHED, FAILED or CANCELLED now."""
    tx.after_commit(lambda: _ended.add(1, {"state": delivery.state, "reason": delivery.reason}))


def answered(tx: Transaction, interaction: Interaction, at: datetime | None) -> None:
    """Measure how long a person waited for an answer."""
    if at:
        seconds = (at - interaction.interaction_time).total_seconds()
        tx.after_commit(lambda: _answered.record(max(0.0, seconds)))


def read(tx: Transaction) -> None:
    """Read the gauges; needs the platform's scope."""
    under_way = store.count_open_deliveries(tx)
    _deliveries.set(
        (under_way.get(state, 0), {"state": state}) for state in DeliveryState if state not in FINAL
    )
    due = store.oldest_due(tx)
    _oldest_due.set([((tx.now - due).total_seconds() if due else 0, {})])
    _frozen.set([(store.count_frozen_accounts(tx), {})])
    _held.set([(store.count_held(tx), {})])
    waiting = store.count_open_interactions(tx)
    _open.set(
        (waiting.get(state, 0), {"state": state})
        for state in InteractionState
        if state is not InteractionState.ANSWERED
    )
