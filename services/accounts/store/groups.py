"""
The account tree.

A group's path is kept in its row, so its place is one look-up and a subtree is one range of an index. Whoever changes where
something is takes the tree's lock before any row: alone for the tree itself (`lock_tree`), with others for accounts in it
(`hold_tree`).
"""

from collections.abc import Collection, Mapping, Sequence

from services.accounts.model.groups import Group, Path, group_id
from services.accounts.store.rows import After, Row
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.names import enterprise_of

WITHIN = """array(
  select below.id from account_groups above
  join account_groups below
    on below.enterprise = above.enterprise and below.path >= above.path and below.path < above.path_end
  where above.enterprise = %(enterprise)s and above.id = any (%(within)s)
)"""
"""The ids of the groups `within`, and of all below them."""
REACHED = WITHIN.replace("(within)", "(reach)")
"""The same of those in `reach`."""
_GROUPS = "select * from account_groups where enterprise = %(enterprise)s"
_CONDITIONS = {
    "parent": "parent = %(parent)s",
    "within": f"id = any ({WITHIN})",
    "reach": f"id = any ({REACHED})",
}


def lock_tree(tx: Transaction, enterprise: str) -> None:
    """Nobody else changes the enterprise's tree, or what is in it, before this transaction ends."""
    tx.execute("select pg_advisory_xact_lock(hashtextextended('account tree ' || %s, 0))", (enterprise,))


def hold_tree(tx: Transaction, enterprise: str) -> None:
    """The enterprise's tree stays as it is until this transaction ends; others may put accounts into it, too."""
    tx.execute(
        "select pg_advisory_xact_lock_shared(hashtextextended('account tree ' || %s, 0))", (enterprise,)
    )


def next_placement(tx: Transaction) -> int:
    """The version of what is told next about places. Draw it under the locks, so that a later one is of a later commit."""
    return int(tx.execute("select nextval('placement_version') as version").fetchall()[0]["version"])


def get_group(tx: Transaction, enterprise: str, group: str) -> Group:
    """The group with this id. Raises NOT_FOUND."""
    found = get_groups(tx, enterprise, [group])
    if not found:
        raise not_found(f"{enterprise}/accountGroups/{group}")
    return found[group]


def find_id(tx: Transaction, enterprise: str, name: str, field: str) -> str | None:
    """The id of the group that a request names in `field`; None when it names none. Raises INVALID_ARGUMENT or NOT_FOUND."""
    return get_group(tx, enterprise, group_id(name, enterprise, field)).path[-1] if name else None


def get_groups(tx: Transaction, enterprise: str, ids: Collection[str]) -> dict[str, Group]:
    """Those of the groups that there are, by id."""
    rows = tx.execute(
        "select * from account_groups where enterprise = %s and id = any (%s)", (enterprise, list(ids))
    )
    return {row["id"]: _group(row) for row in rows}


def list_groups(
    tx: Transaction,
    enterprise: str,
    *,
    parent: str | None,
    within: str | None,
    reach: Collection[str] | None,
    after: After,
    limit: int,
) -> list[Group]:
    """
    An enterprise's groups, oldest first.

    Where given (ids), only those directly in `parent`, in the subtree of `within`, and in that of one of `reach`.
    """
    wanted = {"parent": parent, "within": None if within is None else [within], "reach": reach}
    conditions = [_CONDITIONS[key] for key, value in wanted.items() if value is not None]
    rows = tx.execute(
        " and ".join(
            [
                _GROUPS,
                "(create_time, id) > (%(time)s, %(id)s)",
                *conditions,
            ]
        )
        + " order by create_time, id limit %(limit)s",
        {
            "enterprise": enterprise,
            "time": after[0],
            "id": after[1].rpartition("/")[2],
            "limit": limit,
            **wanted,
            "reach": list(reach or ()),
        },
    )
    return [_group(row) for row in rows]


def count_groups(tx: Transaction, enterprise: str) -> int:
    """How many groups the enterprise has."""
    rows = tx.execute("select count(*) as count from account_groups where enterprise = %s", (enterprise,))
    return int(rows.fetchall()[0]["count"])


def insert_group(tx: Transaction, group: Group) -> None:
    """Keep a new group."""
    tx.execute(
        """
        insert into account_groups (enterprise, id, parent, path, display_name, revision, create_time, update_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise_of(group.name),
            group.path[-1],
            group.path[-2] if len(group.path) > 1 else None,
            _text(group.path),
            group.display_name,
            group.revision,
            group.create_time,
            group.update_time,
        ),
    )


def update_group(tx: Transaction, group: Group) -> None:
    """Keep a group's new name; its place is moved by `move_groups`."""
    tx.execute(
        """
        update account_groups set display_name = %s, revision = %s, update_time = %s
        where enterprise = %s and id = %s
        """,
        (group.display_name, group.revision, group.update_time, enterprise_of(group.name), group.path[-1]),
    )


def delete_group(tx: Transaction, group: Group) -> None:
    """Forget an empty group, and the grants in it."""
    tx.execute(
        "delete from account_groups where enterprise = %s and id = %s",
        (enterprise_of(group.name), group.path[-1]),
    )


def is_empty(tx: Transaction, group: Group) -> bool:
    """Whether neither groups nor accounts are directly in it."""
    found = tx.execute(
        """
        select exists (select from account_groups where enterprise = %(enterprise)s and parent = %(id)s)
            or exists (select from accounts where enterprise = %(enterprise)s and group_id = %(id)s) as full
        """,
        {"enterprise": enterprise_of(group.name), "id": group.path[-1]},
    )
    return not found.fetchall()[0]["full"]


def contents(tx: Transaction, group: Group) -> Mapping[Path, Sequence[str]]:
    """A group and all below it, by their paths, with the names of the accounts that are directly in each."""
    rows = tx.execute(
        """
        select path, array(
          select name from accounts where enterprise = account_groups.enterprise and group_id = account_groups.id
        ) as accounts
        from account_groups
        where enterprise = %(enterprise)s and path >= %(path)s and path < %(end)s
        """,
        {"enterprise": enterprise_of(group.name), "path": _text(group.path), "end": _end(group.path)},
    )
    return {path_of(row["path"]): row["accounts"] for row in rows}


def move_groups(tx: Transaction, before: Group, after: Group) -> None:
    """Keep a group's new place, and that of all below it."""
    tx.execute(
        """
        update account_groups set
          path = %(after)s || substr(path, length(%(before)s) + 1),
          parent = case when id = %(id)s then %(parent)s else parent end,
          revision = case when id = %(id)s then %(revision)s else revision end,
          update_time = case when id = %(id)s then %(time)s else update_time end
        where enterprise = %(enterprise)s and path >= %(before)s and path < %(end)s
        """,
        {
            "enterprise": enterprise_of(before.name),
            "id": after.path[-1],
            "before": _text(before.path),
            "end": _end(before.path),
            "after": _text(after.path),
            "parent": after.path[-2] if len(after.path) > 1 else None,
            "revision": after.revision,
            "time": after.update_time,
        },
    )


def path_of(text: str | None) -> Path:
    """A path as it is kept; empty for none."""
    return tuple(text.split("/")[:-1]) if text else ()


def _text(path: Path) -> str:
    return "".join(f"{each}/" for each in path)


def _end(path: Path) -> str:
    return _text(path)[:-1] + "0"


def _group(row: Row) -> Group:
    path = path_of(row["path"])
    return Group(
        name=f"{row['enterprise']}/accountGroups/{row['id']}",
        display_name=row["display_name"],
        path=path,
        create_time=row["create_time"],
        update_time=row["update_time"],
        revision=row["revision"],
    )
