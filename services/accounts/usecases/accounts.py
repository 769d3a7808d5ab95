"""What happens to accounts that are bound."""

from datetime import datetime, timedelta

from numerator.events.v1 import accounts_pb2 as events

from services.accounts import store
from services.accounts.model import Account
from services.accounts.model.refreshes import HANDOVER
from services.accounts.store.refreshes import last_refresh
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of

BINDINGS_KEPT = timedelta(days=1)
"""How long a binding is remembered after its state stopped working, so that a late caller is told why."""


def require_reauthorization(tx: Transaction, name: str, *, actor: str, told: datetime) -> None:
    """
    Take in that the network refused an account's token at the time `told`, and tell.

    Changes nothing when the account is not ACTIVE, or was authorised after that, or the token before may be meant of one that was
    refreshed. Raises NOT_FOUND.
    """
    before = store.lock_account(tx, name)
    refreshed = last_refresh(tx, name)
    if refreshed and told < refreshed + HANDOVER:
        return
    ask_again(tx, before, actor=actor, told=told)


def ask_again(tx: Transaction, before: Account, *, actor: str, told: datetime) -> None:
    """Have the holder of an account, which is locked, asked again: its token was refused at the time `told`. Once."""
    after = before.refused(tx.now, told=told)
    if after is before:
        return
    store.save_account(tx, after)
    store.audit(
        tx,
        enterprise=enterprise_of(before.name) or "",
        actor=actor,
        action="account.reauth_required",
        subject=before.name,
    )
    tx.emit(events.AccountReauthRequired(account=before.name), subject=before.name)


def purge(tx: Transaction) -> int:
    """Forget old bindings; needs the platform's scope. Returns how many."""
    return store.purge_bindings(tx, tx.now - BINDINGS_KEPT)
