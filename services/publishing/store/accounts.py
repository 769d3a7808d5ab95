"""Accounts, as the accounts service tells of them."""

from collections.abc import Collection
from datetime import datetime, timedelta

from services.chassis.database import Transaction
from services.publishing.model.accounts import Account, AccountState
from services.publishing.store.rows import Row


def save_account(tx: Transaction, account: Account, event_time: datetime) -> None:
    """Keep an account as an event tells it, unless a later event was applied; of two tokens the one with the larger version."""
    tx.execute(
        """
        insert into accounts (enterprise, name, network, server, software, network_account_id, handle,
          state, max_characters, sealed_token, token_version, bind_time, event_time, poll_time)
        values (%(enterprise)s, %(name)s, %(network)s, %(server)s, %(software)s, %(network_account_id)s,
          %(handle)s, %(state)s, %(max_characters)s, %(sealed_token)s, %(token_version)s, %(bind_time)s,
          %(event_time)s, %(event_time)s)
        on conflict (enterprise, name) do update set
          network = excluded.network, server = excluded.server, software = excluded.software,
          network_account_id = excluded.network_account_id, handle = excluded.handle, state = excluded.state,
          sealed_token = case when accounts.token_version > excluded.token_version
                         then accounts.sealed_token else excluded.sealed_token end,
          token_version = greatest(accounts.token_version, excluded.token_version),
          event_time = excluded.event_time
        where accounts.event_time <= excluded.event_time
        """,
        {
            "enterprise": account.enterprise,
            "name": account.name,
            "network": account.network,
            "server": account.server,
            "software": account.software,
            "network_account_id": account.network_account_id,
            "handle": account.handle,
            "state": account.state,
            "max_characters": account.max_characters,
            "sealed_token": account.sealed_token,
            "token_version": account.token_version,
            "bind_time": account.bind_time,
            "event_time": event_time,
        },
    )


def set_account_state(
    tx: Transaction, enterprise: str, name: str, state: AccountState, event_time: datetime
) -> None:
    """Move an account to another state, unless a later event was applied. An unbound one keeps no token."""
    tx.execute(
        """
        update accounts set state = %(state)s, event_time = %(event_time)s,
          sealed_token = case when %(state)s = 'UNBOUND' then ''::bytea else sealed_token end
        where enterprise = %(enterprise)s and name = %(name)s and event_time <= %(event_time)s
        """,
        {"state": state, "event_time": event_time, "enterprise": enterprise, "name": name},
    )


def refresh_token(
    tx: Transaction, enterprise: str, name: str, sealed_token: bytes, *, version: int, told: datetime
) -> None:
    """
    Keep the next token of an account, unless it has a newer one, or was unbound.

    An account whose token was refused meanwhile is used again, unless the accounts service has said something else later.
    """
    tx.execute(
        """
        update accounts set sealed_token = %(sealed_token)s, token_version = %(version)s,
          state = case when event_time <= %(told)s then 'ACTIVE' else state end
        where enterprise = %(enterprise)s and name = %(name)s and state <> 'UNBOUND' and token_version < %(version)s
        """,
        {
            "sealed_token": sealed_token,
            "version": version,
            "told": told,
            "enterprise": enterprise,
            "name": name,
        },
    )


def suspend_account(tx: Transaction, account: Account) -> bool:
    """Stop using an account, unless it has got another token meanwhile; whether it was in use until now."""
    stopped = tx.execute(
        """
        update accounts set state = 'REAUTH_REQUIRED'
        where enterprise = %s and name = %s and state = 'ACTIVE' and sealed_token = %s
        """,
        (account.enterprise, account.name, account.sealed_token),
    )
    return stopped.rowcount == 1


def accounts(tx: Transaction, enterprise: str) -> list[Account]:
    """All accounts of an enterprise that were ever bound, in the order of their names."""
    rows = tx.execute("select * from accounts where enterprise = %s order by name", (enterprise,))
    return [to_account(row) for row in rows]


def account(tx: Transaction, enterprise: str, name: str) -> Account | None:
    """One account."""
    row = tx.execute(
        "select * from accounts where enterprise = %s and name = %s", (enterprise, name)
    ).fetchone()
    return to_account(row) if row else None


def lease_polls(
    tx: Transaction, networks: Collection[str], interval: timedelta, limit: int
) -> list[tuple[Account, str]]:
    """Accounts of these networks whose notifications are to be read now, with their cursors; for `interval` they are yours."""
    rows = tx.execute(
        """
        with due as (
          select enterprise, name from accounts
          where state = 'ACTIVE' and poll_time <= %(now)s and network = any (%(networks)s)
          order by poll_time limit %(limit)s for update skip locked
        )
        update accounts set poll_time = %(next)s from due
        where (accounts.enterprise, accounts.name) = (due.enterprise, due.name)
        returning accounts.*
        """,
        {"now": tx.now, "next": tx.now + interval, "limit": limit, "networks": list(networks)},
    )
    return [(to_account(row), row["notifications_cursor"]) for row in rows]


def move_cursor(tx: Transaction, account: Account, before: str, after: str) -> bool:
    """Note how far an account's notifications are read; False if somebody else has read on meanwhile."""
    moved = tx.execute(
        """
        update accounts set notifications_cursor = %s
        where enterprise = %s and name = %s and notifications_cursor = %s
        """,
        (after, account.enterprise, account.name, before),
    )
    return moved.rowcount == 1


def to_account(row: Row) -> Account:
    """A row of the table."""
    return Account(
        name=row["name"],
        enterprise=row["enterprise"],
        network=row["network"],
        server=row["server"],
        software=row["software"],
        network_account_id=row["network_account_id"],
        handle=row["handle"],
        state=AccountState(row["state"]),
        max_characters=row["max_characters"],
        bind_time=row["bind_time"],
        sealed_token=row["sealed_token"],
        token_version=row["token_version"],
    )
