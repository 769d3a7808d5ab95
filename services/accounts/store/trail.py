"""The audit trail."""

from collections.abc import Sequence

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction


def audit(
    tx: Transaction, *, enterprise: str, actor: str, action: str, subject: str, **detail: str | Sequence[str]
) -> None:
    """Write down who (`actor`) did what (`action`, as `account.bound`) to whom. No secrets in `detail`."""
    tx.execute(
        "insert into audit (enterprise, time, actor, action, subject, detail) values (%s, %s, %s, %s, %s, %s)",
        (enterprise, tx.now, actor, action, subject, Jsonb(detail)),
    )
