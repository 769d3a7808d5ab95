"""Accounts with tokens, in any number, without a network: for tests and measurements of the vault."""

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import SecretStr

from services.accounts import store
from services.accounts.model import Account, Enterprise, Profile
from services.accounts.store.secrets import Sealed
from services.accounts.usecases.secrets import Vault
from services.chassis.database import PLATFORM, Database, Transaction


def plant(database: Database, vault: Vault, enterprise: str, tokens: int) -> Mapping[str, str]:
    """An enterprise, so many accounts of it, and the token of each, which is told."""
    now = datetime.now(UTC)
    planted = {f"{enterprise}/accounts/a{each}": f"canary-{enterprise[12:]}-{each}" for each in range(tokens)}
    with database.transaction(PLATFORM) as tx:
        registered = Enterprise(enterprise, enterprise, "", "", create_time=now, update_time=now)
        store.insert_enterprise(tx, registered)
        for name, token in planted.items():
            profile = Profile(name, "handle", "Name", "mastodon", "4.5.0")
            account = Account(name, "mastodon", "https://social.example", profile, (), now, now, now)
            store.save_account(tx, account)
            keep_token(tx, vault, name, token)
    return planted


def keep_token(tx: Transaction, vault: Vault, account: str, token: str) -> None:
    """Keep an account's token, as binding does."""
    kept = vault.seal(tx, SecretStr(token), account, "access_token")
    store.save_token(tx, store.SealedToken(account, "application-1", kept.key_version, kept.sealed))


def read_token(tx: Transaction, vault: Vault, account: str) -> str:
    """An account's token, as the service reads it. Raises what the vault raises."""
    (row,) = tx.execute(
        "select key_version, sealed from tokens where account = %s for share", (account,)
    ).fetchall()
    sealed = Sealed(row["key_version"], row["sealed"])
    return vault.open_token(tx, sealed, account, actor="reader", purpose="test").get_secret_value()
