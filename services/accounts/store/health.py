"""How accounts' deliveries went, and when their tokens end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from services.accounts.model.health import Due, Hour
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


def count_delivery(tx: Transaction, account: str, time: datetime, *, failed: bool) -> None:
    """Count a delivery in the hour of `time`; nothing when there is no such account."""
    tx.execute(
        """
        insert into delivery_hours (enterprise, account, hour, published, failed)
        select enterprise, name, date_trunc('hour', %(time)s::timestamptz, 'UTC'), %(published)s, %(failed)s
        from accounts where enterprise = %(enterprise)s and name = %(account)s
        on conflict (enterprise, account, hour) do update set
          published = delivery_hours.published + excluded.published, failed = delivery_hours.failed + excluded.failed
        """,
        {
            "enterprise": enterprise_of(account),
            "account": account,
            "time": time,
            "published": int(not failed),
            "failed": int(failed),
        },
    )


def hours_of(
    tx: Transaction, enterprise: str, accounts: Sequence[str], since: datetime
) -> Mapping[str, Sequence[Hour]]:
    """How the deliveries of accounts went in each hour since a time."""
    found = defaultdict[str, list[Hour]](list)
    for row in tx.execute(
        """
        select account, hour, published, failed from delivery_hours
        where enterprise = %s and account = any (%s) and hour > %s order by hour
        """,
        (enterprise, list(accounts), since),
    ):
        found[row["account"]].append(Hour(row["hour"], row["published"], row["failed"]))
    return found


def list_due(tx: Transaction, enterprise: str, before: datetime, limit: int) -> list[Due]:
    """Accounts whose token does not work, or ends before a time; what is due first comes first."""
    rows = tx.execute(
        """
        select name, handle, server, case when state = 'ACTIVE' then token_expire_time end as expire_time from accounts
        where enterprise = %s and (state = 'REAUTH_REQUIRED' or state = 'ACTIVE' and token_expire_time < %s)
        order by 4 nulls first, name limit %s
        """,
        (enterprise, before, limit),
    )
    return [Due(row["name"], row["handle"], row["server"], row["expire_time"]) for row in rows]


def count_expiring(tx: Transaction, soon: datetime, before: datetime) -> list[tuple[str, bool, int]]:
    """
    How many ACTIVE accounts have a token that ends before a time, by network, and by whether it ends as soon as `soon`.

    Needs the platform's scope.
    """
    rows = tx.execute(
        """
        select network, token_expire_time <= %s as soon, count(*) as count from accounts
        where state = 'ACTIVE' and token_expire_time > %s and token_expire_time <= %s group by 1, 2
        """,
        (soon, tx.now, before),
    )
    return [(row["network"], row["soon"], row["count"]) for row in rows]


def expired(tx: Transaction, limit: int) -> list[str]:
    """ACTIVE accounts whose token has ended; needs the platform's scope."""
    rows = tx.execute(
        "select name from accounts where state = 'ACTIVE' and token_expire_time <= %s order by token_expire_time limit %s",
        (tx.now, limit),
    )
    return [row["name"] for row in rows]


def notice_expiries(tx: Transaction, before: datetime, limit: int) -> list[tuple[str, datetime]]:
    """ACTIVE accounts whose token ends before a time, of which nothing was told; now it is. Needs the platform's scope."""
    rows = tx.execute(
        """
        insert into expiry_notices (enterprise, account, expire_time)
        select enterprise, name, token_expire_time from accounts
        where state = 'ACTIVE' and token_expire_time > %s and token_expire_time <= %s
          and not exists (select from expiry_notices n where n.enterprise = accounts.enterprise and n.account = name
                          and n.expire_time = token_expire_time)
        order by token_expire_time limit %s
        on conflict do nothing returning account, expire_time
        """,
        (tx.now, before, limit),
    )
    return [(row["account"], row["expire_time"]) for row in rows]


def purge_health(tx: Transaction, before: datetime) -> None:
    """Forget what was counted, and what was told of tokens that ended, before a time; needs the platform's scope."""
    tx.execute("delete from delivery_hours where hour < %s", (before,))
    tx.execute("delete from expiry_notices where expire_time < %s", (before,))
