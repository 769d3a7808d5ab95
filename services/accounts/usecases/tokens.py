"""Accounts' tokens: how they are kept, and the one way in which they leave this service."""

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from pydantic import SecretStr

from services.accounts import store
from services.accounts.model.refreshes import refresh_time
from services.accounts.usecases.secrets import Vault
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of
from services.chassis.sealing import seal

_TOKEN, _REFRESH = "access_token", "refresh_token"


def keep_token(
    tx: Transaction,
    vault: Vault,
    account: str,
    client_id: str,
    token: SecretStr,
    *,
    refresh: SecretStr | None,
    expire_time: datetime | None,
) -> int:
    """Seal and keep what a network gave the application `client_id` for an account; returns the token's version."""
    kept = vault.seal(tx, token, account, _TOKEN)
    return store.save_token(
        tx,
        store.SealedToken(
            account,
            client_id,
            kept.key_version,
            kept.sealed,
            expire_time,
            vault.seal(tx, refresh, account, _REFRESH).sealed if refresh else None,
            refresh_time(tx.now, expire_time) if refresh and expire_time else None,
        ),
    )


def hand_over(
    tx: Transaction, publishing_key: X25519PublicKey, account: str, token: SecretStr, *, actor: str
) -> bytes:
    """The token, sealed to publishing; that it was is written to the audit trail."""
    store.audit(
        tx,
        enterprise=enterprise_of(account) or "",
        actor=actor,
        action="token.handed_over",
        subject=account,
        receiver="publishing",
    )
    return seal(publishing_key, token.get_secret_value().encode(), account)
