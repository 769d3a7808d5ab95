"""Which tokens are to be refreshed, and who refreshes each: one at a time, under a lease."""

from dataclasses import dataclass
from datetime import datetime

from services.accounts.store.secrets import Sealed
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The right to refresh one token, until it ends by itself.

    Attributes:
        client_id: the application of ours that the token was given to.
        refresh: the refresh token.
        expire_time: when the access token ends.
        version, fence: the token's, and the lease's own number: the outcome counts while both are the newest.
        tries: how many refreshes of this token have begun, with this one.
    """

    account: str
    client_id: str
    refresh: Sealed
    expire_time: datetime
    version: int
    fence: int
    tries: int


def lease(tx: Transaction, until: datetime) -> Lease | None:
    """The lease of a token that is due and that nobody else refreshes; None: there is none. Needs the platform's scope."""
    row = tx.execute(
        """
        with due as (
          select enterprise, account from tokens where refresh_time <= %(now)s
          order by refresh_time limit 1 for update skip locked
        )
        update tokens set refresh_time = %(until)s, refresh_fence = refresh_fence + 1, refresh_tries = refresh_tries + 1
        from due where tokens.enterprise = due.enterprise and tokens.account = due.account
        returning tokens.account, client_id, key_version, sealed_refresh, expire_time, version, refresh_fence, refresh_tries
        """,
        {"now": tx.now, "until": until},
    ).fetchone()
    if row is None:
        return None
    return Lease(
        account=row["account"],
        client_id=row["client_id"],
        refresh=Sealed(row["key_version"], row["sealed_refresh"]),
        expire_time=row["expire_time"],
        version=row["version"],
        fence=row["refresh_fence"],
        tries=row["refresh_tries"],
    )


def end_lease(tx: Transaction, held: Lease, again: datetime | None) -> bool:
    """
    End a lease: the token is refreshed `again` then, or never. False: it had ended, and somebody else has begun anew.

    Lock the account before. The row stays locked until the transaction ends.
    """
    ended = tx.execute(
        """
        update tokens set refresh_time = %(again)s
        where enterprise = %(enterprise)s and account = %(account)s and version = %(version)s and refresh_fence = %(fence)s
        """,
        {
            "again": again,
            "enterprise": enterprise_of(held.account),
            "account": held.account,
            "version": held.version,
            "fence": held.fence,
        },
    )
    return ended.rowcount == 1


def last_refresh(tx: Transaction, account: str) -> datetime | None:
    """When the account's token was got, if it is one that is refreshed."""
    row = tx.execute(
        "select update_time from tokens where enterprise = %s and account = %s and refresh_time is not null",
        (enterprise_of(account), account),
    ).fetchone()
    return row["update_time"] if row else None
