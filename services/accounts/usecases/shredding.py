"""Crypto-shredding: without its keys, what an enterprise's secrets were cannot be found out any more."""

from dataclasses import dataclass

from numerator.events.v1 import accounts_pb2 as events

from services.accounts import store
from services.accounts.store import shredding
from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.errors import invalid

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Shredded:
    """How many keys were destroyed, and how many accounts unbound."""

    keys: int
    accounts: int


def shred(database: Database, enterprise: str, *, confirmation: str, actor: str, reason: str) -> Shredded:
    """
    Destroy an enterprise's data keys at once, then unbind its accounts in batches. To be repeated when it fails in between.

    Raises NOT_FOUND or INVALID_ARGUMENT (`CONFIRMATION_MISMATCH`).
    """
    if confirmation != enterprise:
        raise invalid(
            "confirmation", f"must be {enterprise}: there is no way back", reason="CONFIRMATION_MISMATCH"
        )
    with database.transaction(PLATFORM) as tx:
        store.lock_enterprise(tx, enterprise)
        keys = shredding.shred_data_keys(tx, enterprise)
        shredding.delete_tokens(tx, enterprise)
        store.audit(
            tx,
            enterprise=enterprise,
            actor=actor,
            action="enterprise.shredded",
            subject=enterprise,
            reason=reason,
            keys=str(keys),
        )
    accounts = 0
    while True:
        with database.transaction(PLATFORM) as tx:
            names = shredding.some_held(tx, enterprise, _BATCH)
            for name in names:
                _unbind(tx, enterprise, name, actor)
        accounts += len(names)
        if len(names) < _BATCH:
            return Shredded(keys, accounts)


def _unbind(tx: Transaction, enterprise: str, name: str, actor: str) -> None:
    store.save_account(tx, store.lock_account(tx, name).unbound(tx.now))
    store.audit(
        tx, enterprise=enterprise, actor=actor, action="account.unbound", subject=name, reason="shredded"
    )
    tx.emit(events.AccountUnbound(account=name), subject=name, enterprise=enterprise)
