"""Members' life: from the first day to the last."""

from dataclasses import replace

from numerator.events.v1 import accounts_pb2 as events
from numerator.options.v1 import options_pb2
from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_password
from services.accounts.model import Member, Role, check_etag, check_grant, check_password
from services.accounts.model.members import last_owner
from services.accounts.model.revocations import LONGEST_TOKEN
from services.accounts.store import member_invitations as invitation_rows
from services.accounts.store import members as rows
from services.accounts.store.revocations import revoke
from services.accounts.usecases.login import prove
from services.accounts.usecases.sessions import check_in_charge, check_may_manage, end_all
from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal


def create_member(tx: Transaction, member: Member, password_hash: str, *, caller: Principal) -> Member:
    """
    Keep a new member.

    Raises NOT_FOUND, PERMISSION_DENIED (`ROLE_TOO_WIDE`) or ALREADY_EXISTS (`EMAIL_TAKEN`).
    """
    store.get_enterprise(tx, enterprise_of(member.name) or "")
    check_grant(caller.roles, member.role)
    store.insert_member(tx, member, password_hash)
    _audit(tx, member.name, caller.subject, "member.created", role=member.role)
    return member


def update_member(
    tx: Transaction, name: str, *, display_name: str | None, role: Role | None, etag: str, caller: Principal
) -> Member:
    """
    Change a member's name or role; None leaves it as it is. Access tokens with the old role are refused.

    Raises NOT_FOUND, ABORTED (`ETAG_MISMATCH`), PERMISSION_DENIED (`ROLE_MISSING`, `ROLE_TOO_WIDE`) or FAILED_PRECONDITION
    (`LAST_OWNER`).
    """
    check_may_manage(caller, name)
    before = _lock(tx, name)
    check_etag(etag, before.revision)
    after = replace(before, display_name=display_name or before.display_name, role=role or before.role)
    if after == before:
        return before
    after = replace(after, revision=before.revision + 1)
    if after.role != before.role:
        check_in_charge(caller)
        check_grant(caller.roles, after.role)
        _check_may_take(tx, before, caller)
    rows.save_member(tx, after)
    if after.role == before.role:
        _audit(tx, name, caller.subject, "member.renamed")
        return after
    _audit(tx, name, caller.subject, "member.role_changed", before=before.role, role=after.role)
    invitation_rows.delete_by_inviter(tx, name)
    _tell_role(tx, name, options_pb2.Role.Value(after.role))
    revoke(tx, name, until=tx.now + LONGEST_TOKEN)
    return after


def remove_member(tx: Transaction, name: str, *, etag: str, caller: Principal) -> None:
    """
    Remove a member, whose sessions and access tokens end.

    Raises NOT_FOUND, ABORTED (`ETAG_MISMATCH`), PERMISSION_DENIED (`ROLE_TOO_WIDE`) or FAILED_PRECONDITION (`LAST_OWNER`).
    """
    member = _lock(tx, name)
    check_etag(etag, member.revision)
    _check_may_take(tx, member, caller)
    invitation_rows.delete_by_inviter(tx, name)
    rows.delete_member(tx, name)
    _audit(tx, name, caller.subject, "member.removed", role=member.role)
    _tell_role(tx, name, options_pb2.ROLE_UNSPECIFIED)
    revoke(tx, name, until=tx.now + LONGEST_TOKEN)


def change_password(
    database: Database, name: str, *, old: SecretStr, new: SecretStr, caller: Principal
) -> None:
    """
    Change the caller's own password. All other sessions end.

    Raises PERMISSION_DENIED (`NOT_YOURSELF`), INVALID_ARGUMENT (`PASSWORD_TOO_SHORT`), or as `login.prove` does.
    """
    if caller.subject != name:
        raise ServiceError(
            Kind.PERMISSION_DENIED, "NOT_YOURSELF", "members change their own passwords, and nobody else's"
        )
    check_password(new.get_secret_value(), "new_password")
    with database.transaction(PLATFORM) as tx:
        email = rows.read_member(tx, name).email
    proof = prove(database, email, old)
    kept = hash_password(new)
    with database.transaction(PLATFORM) as tx:
        rows.lock_member(tx, name)
        proof.use(tx)
        rows.replace_password_hash(tx, name, before=proof.password_hash, after=kept)
        _audit(tx, name, name, "member.password_changed")
        end_all(tx, name, actor=name, but=caller.session)


def _lock(tx: Transaction, name: str) -> Member:
    """The member, and how many OWNERs there are, do not change before the transaction ends."""
    store.lock_enterprise(tx, enterprise_of(name) or "")
    return rows.lock_member(tx, name)


def _check_may_take(tx: Transaction, member: Member, caller: Principal) -> None:
    """Raise when this caller may not take the member's role away, or nobody may."""
    check_grant(caller.roles, member.role)
    if member.role is Role.OWNER and rows.count_owners(tx, enterprise_of(member.name) or "") == 1:
        raise last_owner(member.name)


def _tell_role(tx: Transaction, name: str, role: options_pb2.Role.ValueType) -> None:
    tx.emit(events.MemberRoleChanged(member=name, role=role), subject=name, enterprise=enterprise_of(name))


def _audit(tx: Transaction, member: str, actor: str, action: str, **detail: str) -> None:
    store.audit(
        tx, enterprise=enterprise_of(member) or "", actor=actor, action=action, subject=member, **detail
    )
