"""Accounts' tokens end at a time that is known: it is told ahead, and at the end."""

from datetime import datetime, timedelta

from numerator.events.v1 import accounts_pb2 as events

from services.accounts import store
from services.accounts.model.health import EXPIRES_SOON
from services.accounts.store import health
from services.accounts.usecases.accounts import require_reauthorization
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of
from services.chassis.timestamps import stamp

KEPT = timedelta(days=2)
"""How long deliveries are counted for: longer than anything is measured over."""

_ACTOR = "expiry"
_BATCH = 500


def count_delivery(tx: Transaction, account: str, time: datetime, *, failed: bool) -> None:
    """Take in how a delivery of an account went."""
    health.count_delivery(tx, account, time, failed=failed)


def watch_expiries(tx: Transaction) -> None:
    """Tell which tokens end soon, once each, and ask for a new authorisation where one has ended; in the platform's scope."""
    for account, expire_time in health.notice_expiries(tx, tx.now + EXPIRES_SOON, _BATCH):
        enterprise = enterprise_of(account) or ""
        store.audit(
            tx,
            enterprise=enterprise,
            actor=_ACTOR,
            action="token.expiring",
            subject=account,
            expire_time=expire_time.isoformat(),
        )
        tx.emit(
            events.AccountTokenExpiring(account=account, expire_time=stamp(expire_time)),
            subject=account,
            enterprise=enterprise,
        )
    for account in health.expired(tx, _BATCH):
        require_reauthorization(tx, account, actor=_ACTOR, told=tx.now)


def purge(tx: Transaction) -> None:
    """Forget what is too old to be measured; needs the platform's scope."""
    health.purge_health(tx, tx.now - KEPT)
