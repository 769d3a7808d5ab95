"""Invitations to become a member: made, revoked, accepted."""

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_secret, new_secret
from services.accounts.model import MEMBER_NAME, Member, Role, check_grant, email_taken
from services.accounts.model.member_invitations import (
    MEMBER_INVITATION_NAME,
    MemberInvitation,
    invitation_invalid,
)
from services.accounts.store import member_invitations as rows
from services.chassis.database import Transaction
from services.chassis.ids import new_id
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal


def invite(
    tx: Transaction, enterprise: str, *, email: str, role: Role, caller: Principal
) -> tuple[MemberInvitation, SecretStr]:
    """
    Keep a new invitation. Its token is returned this once, and not kept.

    Raises PERMISSION_DENIED (`ROLE_TOO_WIDE`), or NOT_FOUND.
    """
    store.get_enterprise(tx, enterprise)
    check_grant(caller.roles, role)
    token = new_secret()
    invitation = MemberInvitation(
        name=MEMBER_INVITATION_NAME.format(
            enterprise=enterprise.rpartition("/")[2], member_invitation=new_id()
        ),
        email=email,
        role=role,
        inviter=caller.subject,
        create_time=tx.now,
    )
    rows.insert_invitation(tx, invitation, hash_secret(token))
    _audit(tx, invitation.name, caller.subject, "member_invitation.created", role=role)
    return invitation, token


def revoke_invitation(tx: Transaction, name: str, *, caller: Principal) -> None:
    """Revoke an invitation. Raises NOT_FOUND."""
    rows.delete_invitation(tx, name)
    _audit(tx, name, caller.subject, "member_invitation.revoked")


def accept(tx: Transaction, token: SecretStr, *, display_name: str, password_hash: str) -> Member:
    """
    Make whoever holds the token a member; needs the platform's scope.

    Raises FAILED_PRECONDITION (`INVITATION_INVALID`) or ALREADY_EXISTS (`EMAIL_TAKEN`); then the invitation stays open.
    """
    invitation = rows.take_invitation(tx, hash_secret(token))
    if invitation is None:
        raise invitation_invalid()
    enterprise = (enterprise_of(invitation.name) or "").rpartition("/")[2]
    member = Member(
        MEMBER_NAME.format(enterprise=enterprise, member=new_id()),
        invitation.email,
        display_name,
        invitation.role,
        create_time=tx.now,
    )
    store.insert_member(tx, member, password_hash)
    _audit(tx, invitation.name, member.name, "member_invitation.accepted", inviter=invitation.inviter)
    return member


def check_free(tx: Transaction, email: str) -> None:
    """Raises ALREADY_EXISTS (`EMAIL_TAKEN`) when somebody logs in with an address; needs the platform's scope."""
    if store.find_login(tx, email):
        raise email_taken()


def _audit(tx: Transaction, invitation: str, actor: str, action: str, **detail: str) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(invitation) or "",
        actor=actor,
        action=action,
        subject=invitation,
        **detail,
    )
