"""Roles in groups of accounts, and why somebody may do something."""

from collections.abc import Sequence
from datetime import datetime

from services.accounts import store
from services.accounts.model import Role, permissions
from services.accounts.model.groups import group_id
from services.accounts.model.permissions import (
    GRANT_NAME,
    Explanation,
    Grant,
    Holding,
    check_granter,
    check_lifetime,
)
from services.accounts.model.revocations import LONGEST_TOKEN
from services.accounts.store import grants as rows
from services.accounts.store import groups as group_rows
from services.accounts.store.revocations import revoke
from services.chassis.database import Transaction
from services.chassis.errors import invalid
from services.chassis.ids import new_id
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal
from services.chassis.reach import Reach


def create_grant(
    tx: Transaction,
    enterprise: str,
    *,
    member: str,
    role: Role,
    group: str,
    expire_time: datetime | None,
    caller: Principal,
    reach: Reach,
) -> Grant:
    """
    Give a role in a group (a name).

    Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`, `ROLE_TOO_WIDE`), INVALID_ARGUMENT, ALREADY_EXISTS (`GRANT_EXISTS`) or
    FAILED_PRECONDITION (`GRANT_LIMIT_REACHED`).
    """
    if role is Role.LIMITED:
        raise invalid(
            "role", "must allow something: LIMITED allows nothing in a group", reason="ROLE_UNSUITABLE"
        )
    store.get_enterprise(tx, enterprise)
    group_rows.lock_tree(tx, enterprise)
    place = group_rows.get_group(tx, enterprise, group_id(group, enterprise, "group"))
    reach.check(group, place.path)
    rows.holdings(tx, member, enterprise)
    check_lifetime(enterprise, member, expire_time, tx.now)
    check_granter(_held(tx, caller, enterprise), role, place.path, expire_time, tx.now)
    grant = Grant(
        name=GRANT_NAME.format(enterprise=enterprise.rpartition("/")[2], grant=new_id()),
        member=member,
        role=role,
        path=place.path,
        expire_time=expire_time,
        creator=caller.subject,
        create_time=tx.now,
    )
    rows.insert_grant(tx, grant)
    _audit(tx, caller, "grant.created", grant)
    return grant


def delete_grant(tx: Transaction, name: str, *, caller: Principal, reach: Reach) -> None:
    """
    Take a grant back; the member's access tokens end.

    Raises NOT_FOUND or PERMISSION_DENIED (`OUT_OF_REACH`, `ROLE_TOO_WIDE`).
    """
    enterprise = enterprise_of(name) or ""
    grant = rows.lock_grant(tx, name)
    reach.check(name, grant.path)
    check_granter(_held(tx, caller, enterprise), grant.role, grant.path, tx.now, tx.now)
    rows.delete_grant(tx, grant)
    _audit(tx, caller, "grant.deleted", grant)
    revoke(tx, grant.member, until=tx.now + LONGEST_TOKEN)


def explain_access(tx: Transaction, account: str, subject: str, right: str, *, reach: Reach) -> Explanation:
    """
    Whether a member or client may do something with an account, and why.

    Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`) or INVALID_ARGUMENT (`RIGHT_UNKNOWN`).
    """
    enterprise = enterprise_of(account) or ""
    found = store.get_account(tx, account)
    reach.check(account, found.path)
    holdings = rows.holdings(tx, subject, enterprise)
    ids = {*found.path, *(each.group for each in holdings if each.group is not None)}
    groups = group_rows.get_groups(tx, enterprise, ids)
    return permissions.explain(
        subject,
        holdings,
        right,
        account=f"@{found.profile.handle}",
        path=found.path,
        titles={each: f"{groups[each].display_name} ({groups[each].name})" for each in ids},
        now=tx.now,
    )


def _held(tx: Transaction, caller: Principal, enterprise: str) -> Sequence[Holding]:
    """What the caller holds now: grants are read again, since the token does not say until when they are."""
    return [*map(Holding, sorted(caller.roles)), *rows.granted(tx, caller.subject, enterprise)]


def _audit(tx: Transaction, caller: Principal, action: str, grant: Grant) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(grant.name) or "",
        actor=caller.subject,
        action=action,
        subject=grant.name,
        member=grant.member,
        role=grant.role,
        group=grant.group,
        expire_time=grant.expire_time.isoformat() if grant.expire_time else "",
    )
