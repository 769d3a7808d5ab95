"""Invitations to become a member."""

from services.accounts.model.member_invitations import MemberInvitation
from services.accounts.model.members import Role
from services.accounts.store.rows import After, Row
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.names import enterprise_of


def insert_invitation(tx: Transaction, invitation: MemberInvitation, token_hash: bytes) -> None:
    """Keep a new invitation."""
    tx.execute(
        """
        insert into member_invitations (enterprise, name, token_hash, email, role, inviter, create_time, expire_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise_of(invitation.name),
            invitation.name,
            token_hash,
            invitation.email,
            invitation.role,
            invitation.inviter,
            invitation.create_time,
            invitation.expire_time,
        ),
    )


def take_invitation(tx: Transaction, token_hash: bytes) -> MemberInvitation | None:
    """Use up the invitation with this token, of all enterprises: needs the platform's scope."""
    row = tx.execute(
        "delete from member_invitations where token_hash = %s and expire_time > %s returning *",
        (token_hash, tx.now),
    ).fetchone()
    return _invitation(row) if row else None


def list_invitations(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[MemberInvitation]:
    """An enterprise's open invitations, oldest first."""
    rows = tx.execute(
        """
        select * from member_invitations
        where enterprise = %s and expire_time > %s and (create_time, name) > (%s, %s)
        order by create_time, name limit %s
        """,
        (enterprise, tx.now, *after, limit),
    )
    return [_invitation(row) for row in rows]


def delete_invitation(tx: Transaction, name: str) -> None:
    """Revoke an invitation. Raises NOT_FOUND."""
    deleted = tx.execute(
        "delete from member_invitations where enterprise = %s and name = %s", (enterprise_of(name), name)
    )
    if deleted.rowcount == 0:
        raise not_found(name)


def delete_by_inviter(tx: Transaction, member: str) -> None:
    """Revoke what a member has invited to."""
    tx.execute(
        "delete from member_invitations where enterprise = %s and inviter = %s",
        (enterprise_of(member), member),
    )


def purge_invitations(tx: Transaction) -> None:
    """Forget invitations that nobody accepted in time; needs the platform's scope."""
    tx.execute("delete from member_invitations where expire_time <= %s", (tx.now,))


def _invitation(row: Row) -> MemberInvitation:
    return MemberInvitation(
        name=row["name"],
        email=row["email"],
        role=Role(row["role"]),
        inviter=row["inviter"],
        create_time=row["create_time"],
    )
