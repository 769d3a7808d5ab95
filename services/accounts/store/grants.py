"""Roles in groups of accounts, and all that somebody holds."""

from collections.abc import Collection
from datetime import datetime

from services.accounts.model import permissions
from services.accounts.model.members import MEMBER_NAME, Role
from services.accounts.model.permissions import MOST_GRANTS, Grant, Holding, Rights
from services.accounts.store.clients import get_client
from services.accounts.store.groups import REACHED, path_of
from services.accounts.store.rows import After, Row, only
from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.names import enterprise_of

_GRANT = """
  select grants.*, account_groups.path from grants
  join account_groups on account_groups.enterprise = grants.enterprise and account_groups.id = grants.group_id
  where grants.enterprise = %(enterprise)s
"""
_CONDITIONS = {
    "member": "grants.member = %(member)s",
    "group": "grants.group_id = %(group)s",
    "reach": f"grants.group_id = any ({REACHED})",
}


def rights_of(tx: Transaction, member: str, enterprise: str, now: datetime) -> Rights:
    """
    What a member, be it of this or of another enterprise, holds in groups of the enterprise; what has ended is not there.

    The grants cannot be taken back before this transaction ends, so that a token made from them is revoked afterwards.
    """
    rows = tx.execute(
        "select role, group_id, expire_time from grants where enterprise = %s and member = %s for share",
        (enterprise, member),
    )
    return permissions.rights_of(map(_holding, rows), now)


def granted(tx: Transaction, member: str, enterprise: str) -> list[Holding]:
    """What a member was granted in groups of the enterprise, ended or not, oldest first."""
    rows = tx.execute(
        """
        select role, group_id, expire_time from grants where enterprise = %s and member = %s
        order by create_time, name
        """,
        (enterprise, member),
    )
    return [_holding(row) for row in rows]


def holdings(tx: Transaction, subject: str, enterprise: str) -> list[Holding]:
    """
    All that a member or a client holds in an enterprise, ended or not.

    Raises NOT_FOUND for one of this enterprise that there is not; another's is not looked for, and may hold grants.
    """
    if not MEMBER_NAME.matches(subject):
        rights = get_client(tx, subject).rights
        return [Holding(scope) for scope in sorted(rights.scopes)] + [
            Holding(scope, group) for scope, groups in rights.grants.items() for group in sorted(groups)
        ]
    whole = []
    if enterprise_of(subject) == enterprise:
        found = tx.execute(
            "select role from members where enterprise = %s and name = %s", (enterprise, subject)
        )
        whole = [Holding(only(found, subject)["role"])]
    return whole + granted(tx, subject, enterprise)


def insert_grant(tx: Transaction, grant: Grant) -> None:
    """
    Keep a new grant, in place of one that has ended.

    Raises ALREADY_EXISTS (`GRANT_EXISTS`) or FAILED_PRECONDITION (`GRANT_LIMIT_REACHED`).
    """
    enterprise = enterprise_of(grant.name)
    tx.execute(
        "delete from grants where enterprise = %s and member = %s and expire_time <= %s",
        (enterprise, grant.member, tx.now),
    )
    inserted = tx.execute(
        """
        insert into grants (enterprise, name, member, role, group_id, expire_time, creator, create_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (enterprise, member, role, group_id) do nothing
        """,
        (
            enterprise,
            grant.name,
            grant.member,
            grant.role,
            grant.path[-1],
            grant.expire_time,
            grant.creator,
            grant.create_time,
        ),
    )
    if inserted.rowcount == 0:
        raise ServiceError(
            Kind.ALREADY_EXISTS,
            "GRANT_EXISTS",
            "the member holds this role in this group already: delete that grant to give it another end",
        )
    held = tx.execute(
        "select count(*) as held from grants where enterprise = %s and member = %s",
        (enterprise, grant.member),
    )
    if held.fetchall()[0]["held"] > MOST_GRANTS:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "GRANT_LIMIT_REACHED",
            f"a member holds at most {MOST_GRANTS} grants: grant the role in a group above, or delete others",
            metadata={"most": str(MOST_GRANTS)},
        )


def lock_grant(tx: Transaction, name: str) -> Grant:
    """The grant, which nobody else takes back before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute(
        _GRANT + " and grants.name = %(name)s for update of grants",
        {"enterprise": enterprise_of(name), "name": name},
    )
    return _grant(only(found, name))


def delete_grant(tx: Transaction, grant: Grant) -> None:
    """Forget a grant."""
    tx.execute(
        "delete from grants where enterprise = %s and name = %s", (enterprise_of(grant.name), grant.name)
    )


def list_grants(
    tx: Transaction,
    enterprise: str,
    *,
    member: str | None,
    group: str | None,
    reach: Collection[str] | None,
    after: After,
    limit: int,
) -> list[Grant]:
    """
    An enterprise's grants, oldest first.

    Where given, only those of a member, in the very group (id), and in the subtree of one of `reach` (ids).
    """
    wanted = {"member": member, "group": group, "reach": reach}
    conditions = [_CONDITIONS[key] for key, value in wanted.items() if value is not None]
    rows = tx.execute(
        " and ".join([_GRANT, "(grants.create_time, grants.name) > (%(time)s, %(name)s)", *conditions])
        + " order by grants.create_time, grants.name limit %(limit)s",
        {
            "enterprise": enterprise,
            "time": after[0],
            "name": after[1],
            "limit": limit,
            **wanted,
            "reach": list(reach or ()),
        },
    )
    return [_grant(row) for row in rows]


def _holding(row: Row) -> Holding:
    return Holding(row["role"], row["group_id"], row["expire_time"])


def _grant(row: Row) -> Grant:
    return Grant(
        name=row["name"],
        member=row["member"],
        role=Role(row["role"]),
        path=path_of(row["path"]),
        expire_time=row["expire_time"],
        creator=row["creator"],
        create_time=row["create_time"],
    )
