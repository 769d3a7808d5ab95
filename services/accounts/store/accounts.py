"""Accounts."""

from collections.abc import Collection, Iterable

from psycopg import errors

from services.accounts.model import (
    Account,
    AccountState,
    Profile,
    account_bound_elsewhere,
)
from services.accounts.model.health import ENOUGH, EXPIRES_SOON, FAILING_RATE, MEASURED, Health
from services.accounts.store.enterprises import lock_enterprise
from services.accounts.store.groups import REACHED, WITHIN, path_of
from services.accounts.store.rows import After, Row, only
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of

# Never locked in this form: a row that changed meanwhile would be joined with the group of before.
_ACCOUNT = """
  select accounts.*, account_groups.path from accounts
  left join account_groups
    on account_groups.enterprise = accounts.enterprise and account_groups.id = accounts.group_id
"""
_CONDITIONS = {
    "within": f"accounts.group_id = any ({WITHIN})",
    "reach": f"accounts.group_id = any ({REACHED})",
    "label": "%(label)s = any (accounts.labels)",
    "network": "accounts.network = %(network)s",
    "state": "accounts.state = %(state)s",
    # As `model.health.measure` says, which a property test holds it to.
    "health": """
      case
        when accounts.state = 'REVOKED' then 'UNBOUND'
        when accounts.state = 'REAUTH_REQUIRED' or accounts.token_expire_time <= %(now)s then 'REAUTH_REQUIRED'
        when (
          select sum(published + failed) >= %(enough)s and sum(failed) >= %(failing_rate)s * sum(published + failed)
          from delivery_hours
          where delivery_hours.enterprise = accounts.enterprise and delivery_hours.account = accounts.name
            and delivery_hours.hour > %(now)s - %(measured)s
        ) then 'FAILING'
        when accounts.token_expire_time <= %(now)s + %(soon)s then 'EXPIRING'
        else 'OK'
      end = %(health)s
    """,
}


def lock_network_account(tx: Transaction, server: str, network_account_id: str) -> None:
    """Nobody else binds this account of the network before this transaction ends, in whatever enterprise."""
    tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{server} {network_account_id}",))


def get_account(tx: Transaction, name: str) -> Account:
    """The account. Raises NOT_FOUND."""
    found = tx.execute(
        _ACCOUNT + "where accounts.enterprise = %s and accounts.name = %s", (enterprise_of(name), name)
    )
    return _account(only(found, name))


def lock_account(tx: Transaction, name: str) -> Account:
    """The account, which nobody else changes before this transaction ends. Raises NOT_FOUND."""
    tx.execute(
        "select from accounts where enterprise = %s and name = %s for update", (enterprise_of(name), name)
    )
    return get_account(tx, name)


def lock_accounts(tx: Transaction, enterprise: str, names: Collection[str]) -> dict[str, Account]:
    """Those of the accounts that there are, by name; nobody else changes them before this transaction ends."""
    wanted = {"enterprise": enterprise, "names": list(names)}
    tx.execute(
        "select from accounts where enterprise = %(enterprise)s and name = any (%(names)s) order by name for update",
        wanted,
    )
    rows = tx.execute(
        _ACCOUNT + "where accounts.enterprise = %(enterprise)s and accounts.name = any (%(names)s)", wanted
    )
    return {row["name"]: _account(row) for row in rows}


def find_bound(tx: Transaction, enterprise: str, server: str, network_account_id: str) -> Account | None:
    """The account of the enterprise that this account of the network is or once was, locked."""
    row = tx.execute(
        """
        select name from accounts
        where enterprise = %s and server = %s and network_account_id = %s
        for update
        """,
        (enterprise, server, network_account_id),
    ).fetchone()
    return get_account(tx, row["name"]) if row else None


def has_account_on(tx: Transaction, enterprise: str, server: str) -> bool:
    """Whether the enterprise holds an account on this server, in whatever state but REVOKED."""
    found = tx.execute(
        "select from accounts where enterprise = %s and server = %s and state <> 'REVOKED' limit 1",
        (enterprise, server),
    )
    return found.rowcount == 1


def count_held(tx: Transaction, enterprise: str) -> int:
    """How many accounts the enterprise holds: all but those that are REVOKED."""
    found = tx.execute(
        "select count(*) as held from accounts where enterprise = %s and state <> 'REVOKED'", (enterprise,)
    )
    return int(found.fetchall()[0]["held"])


def lock_and_count_held(tx: Transaction, enterprise: str) -> int:
    """As `count_held`; others who lock and count wait until this transaction ends. Unbinding only lowers the number."""
    lock_enterprise(tx, enterprise)
    return count_held(tx, enterprise)


def count_accounts(tx: Transaction) -> list[tuple[str, str, int]]:
    """How many accounts there are, by network and state."""
    rows = tx.execute("select network, state, count(*) as count from accounts group by network, state")
    return [(row["network"], row["state"], row["count"]) for row in rows]


def list_accounts(
    tx: Transaction,
    enterprise: str,
    *,
    within: str | None = None,
    reach: Collection[str] | None = None,
    label: str | None = None,
    network: str | None = None,
    state: AccountState | None = None,
    health: Health | None = None,
    after: After,
    limit: int,
) -> list[Account]:
    """
    An enterprise's accounts, oldest first.

    Where given, only those in the subtree of the group `within`, and of one of `reach` (ids), with the label, of the network,
    in the state, and of the health.
    """
    wanted = {
        "within": None if within is None else [within],
        "reach": None if reach is None else list(reach),
        "label": label,
        "network": network,
        "state": state,
        "health": health,
    }
    conditions = [_CONDITIONS[key] for key, value in wanted.items() if value is not None]
    rows = tx.execute(
        " and ".join(
            [
                _ACCOUNT + "where accounts.enterprise = %(enterprise)s",
                "(accounts.create_time, accounts.name) > (%(time)s, %(name)s)",
                *conditions,
            ]
        )
        + " order by accounts.create_time, accounts.name limit %(limit)s",
        {
            "enterprise": enterprise,
            "time": after[0],
            "name": after[1],
            "limit": limit,
            "now": tx.now,
            "enough": ENOUGH,
            "failing_rate": FAILING_RATE,
            "measured": MEASURED,
            "soon": EXPIRES_SOON,
            **wanted,
        },
    )
    return [_account(row) for row in rows]


def save_account(tx: Transaction, account: Account) -> None:
    """Keep a new or changed account. Raises ALREADY_EXISTS (`ACCOUNT_BOUND_ELSEWHERE`)."""
    profile = account.profile
    try:
        tx.execute(
            """
            insert into accounts (enterprise, name, network, server, network_account_id, handle, display_name,
                                  software, software_version, labels, state, revision,
                                  create_time, update_time, authorize_time, token_expire_time, group_id)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (enterprise, name) do update set
              handle = excluded.handle, display_name = excluded.display_name, software = excluded.software,
              software_version = excluded.software_version, labels = excluded.labels, state = excluded.state,
              revision = excluded.revision, update_time = excluded.update_time,
              authorize_time = excluded.authorize_time, token_expire_time = excluded.token_expire_time,
              group_id = excluded.group_id
            """,
            (
                enterprise_of(account.name),
                account.name,
                account.network,
                account.server,
                profile.network_account_id,
                profile.handle,
                profile.display_name,
                profile.software,
                profile.software_version,
                list(account.labels),
                account.state,
                account.revision,
                account.create_time,
                account.update_time,
                account.authorize_time,
                account.token_expire_time,
                account.path[-1] if account.path else None,
            ),
        )
    except errors.UniqueViolation as error:
        if error.diag.constraint_name == "accounts_held":
            raise account_bound_elsewhere() from None
        raise


def update_places_and_labels(tx: Transaction, changed: Iterable[Account]) -> None:
    """Keep the groups and labels of many accounts."""
    tx.executemany(
        """
        update accounts set group_id = %s, labels = %s, revision = %s, update_time = %s
        where enterprise = %s and name = %s
        """,
        (
            (
                each.path[-1] if each.path else None,
                list(each.labels),
                each.revision,
                each.update_time,
                enterprise_of(each.name),
                each.name,
            )
            for each in changed
        ),
    )


def _account(row: Row) -> Account:
    return Account(
        name=row["name"],
        network=row["network"],
        server=row["server"],
        profile=Profile(
            network_account_id=row["network_account_id"],
            handle=row["handle"],
            display_name=row["display_name"],
            software=row["software"],
            software_version=row["software_version"],
        ),
        labels=tuple(row["labels"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
        authorize_time=row["authorize_time"],
        state=AccountState(row["state"]),
        revision=row["revision"],
        token_expire_time=row["token_expire_time"],
        path=path_of(row["path"]),
    )
