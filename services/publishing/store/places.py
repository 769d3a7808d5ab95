"""Where accounts are in their enterprise's tree of groups."""

from collections.abc import Collection, Iterable

from services.chassis.database import Transaction


def save_places(
    tx: Transaction,
    enterprise: str,
    placed: Iterable[tuple[str, Collection[str]]],
    version: int,
) -> None:
    """Keep places as an event tells them, the account and its groups from the root, unless a newer one was applied."""
    # Sorted, so that of two events one waits for the other, and never each for each.
    tx.executemany(
        """
        insert into places (enterprise, account, groups, version)
        values (%s, %s, %s, %s)
        on conflict (enterprise, account) do update set
          groups = excluded.groups, version = excluded.version
        where places.version <= excluded.version
        """,
        [(enterprise, account, list(groups), version) for account, groups in sorted(placed)],
    )


def groups_of(tx: Transaction, enterprise: str, account: str) -> tuple[str, ...]:
    """The groups in which an account is, from the root; empty if it is in none."""
    return places(tx, enterprise, [account]).get(account, ())


def places(tx: Transaction, enterprise: str, accounts: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The groups in which accounts are, by account, from the root; those in none may be left out."""
    rows = tx.execute(
        "select account, groups from places where enterprise = %s and account = any(%s)",
        (enterprise, list(accounts)),
    )
    return {row["account"]: tuple(row["groups"]) for row in rows}


def paths_to(tx: Transaction, enterprise: str, group: str) -> list[tuple[str, ...]]:
    """
    The ways from the root to a group, itself included, as accounts below it tell them.

    None if no account is there; two while accounts have heard of a move, and others have not.
    """
    rows = tx.execute(
        """
        select distinct groups[:array_position(groups, %(group)s)] as path from places
        where enterprise = %(enterprise)s and groups @> array[%(group)s]
        """,
        {"enterprise": enterprise, "group": group},
    )
    return [tuple(row["path"]) for row in rows]
