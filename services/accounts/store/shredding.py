"""What is destroyed when an enterprise's secrets are shredded."""

from services.accounts.store.secrets import lock_data_keys
from services.chassis.database import Transaction


def shred_data_keys(tx: Transaction, enterprise: str) -> int:
    """Destroy an enterprise's data keys; their rows stay and say when. Returns how many there were."""
    lock_data_keys(tx, enterprise)
    return tx.execute(
        "update data_keys set wrapped = null, shred_time = %s where enterprise = %s and wrapped is not null",
        (tx.now, enterprise),
    ).rowcount


def delete_tokens(tx: Transaction, enterprise: str) -> None:
    """Forget the tokens of all its accounts."""
    tx.execute("delete from tokens where enterprise = %s", (enterprise,))


def some_held(tx: Transaction, enterprise: str, limit: int) -> list[str]:
    """The names of some of the accounts that it holds."""
    rows = tx.execute(
        "select name from accounts where enterprise = %s and state <> 'REVOKED' order by name limit %s",
        (enterprise, limit),
    )
    return [row["name"] for row in rows]
