"""Members."""

from dataclasses import dataclass

from services.accounts.model import (
    Member,
    Role,
    email_taken,
)
from services.accounts.store.rows import After, Row, only
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


@dataclass(frozen=True, slots=True)
class Login:
    """A member and what is kept of the password."""

    member: Member
    password_hash: str


def insert_member(tx: Transaction, member: Member, password_hash: str) -> None:
    """Keep a new member. Raises ALREADY_EXISTS (`EMAIL_TAKEN`)."""
    inserted = tx.execute(
        """
        insert into members (enterprise, name, email, display_name, role, password_hash, create_time, update_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (email) do nothing
        """,
        (
            enterprise_of(member.name),
            member.name,
            member.email,
            member.display_name,
            member.role,
            password_hash,
            member.create_time,
            member.create_time,
        ),
    )
    if inserted.rowcount == 0:
        raise email_taken()


def list_members(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[Member]:
    """An enterprise's members, oldest first."""
    rows = tx.execute(
        """
        select * from members
        where enterprise = %s and (create_time, name) > (%s, %s)
        order by create_time, name limit %s
        """,
        (enterprise, *after, limit),
    )
    return [_member(row) for row in rows]


def find_login(tx: Transaction, email: str) -> Login | None:
    """Who logs in with this address, of all enterprises: needs the platform's scope."""
    row = tx.execute("select * from members where email = %s", (email,)).fetchone()
    return Login(_member(row), row["password_hash"]) if row else None


def read_member(tx: Transaction, name: str) -> Member:
    """A member, who does not change before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from members where enterprise = %s and name = %s for share", (enterprise_of(name), name)
    )
    return _member(only(found, name))


def read_member_by_password(tx: Transaction, name: str, password_hash: str) -> Member | None:
    """The same, if this is what is kept of the password."""
    row = tx.execute(
        "select * from members where enterprise = %s and name = %s and password_hash = %s for share",
        (enterprise_of(name), name, password_hash),
    ).fetchone()
    return _member(row) if row else None


def lock_member(tx: Transaction, name: str) -> Member:
    """A member, whom nobody else changes or reads for a token before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute(
        "select * from members where enterprise = %s and name = %s for update", (enterprise_of(name), name)
    )
    return _member(only(found, name))


def save_member(tx: Transaction, member: Member) -> None:
    """Keep what may change of a member."""
    tx.execute(
        """
        update members set display_name = %s, role = %s, totp_enabled = %s, revision = %s, update_time = %s
        where enterprise = %s and name = %s
        """,
        (
            member.display_name,
            member.role,
            member.totp_enabled,
            member.revision,
            tx.now,
            enterprise_of(member.name),
            member.name,
        ),
    )


def delete_member(tx: Transaction, name: str) -> None:
    """Forget a member, with sessions, second factor and grants in the own enterprise."""
    tx.execute("delete from grants where enterprise = %s and member = %s", (enterprise_of(name), name))
    tx.execute("delete from members where enterprise = %s and name = %s", (enterprise_of(name), name))


def count_owners(tx: Transaction, enterprise: str) -> int:
    """How many OWNERs an enterprise has. Lock the enterprise first, or it may change before the transaction ends."""
    found = tx.execute(
        "select count(*) as count from members where enterprise = %s and role = 'OWNER'", (enterprise,)
    )
    count: int = found.fetchall()[0]["count"]
    return count


def replace_password_hash(tx: Transaction, name: str, *, before: str, after: str) -> bool:
    """Keep another hash of a member's password, if it still is `before`. Returns whether it was."""
    updated = tx.execute(
        "update members set password_hash = %s where enterprise = %s and name = %s and password_hash = %s",
        (after, enterprise_of(name), name, before),
    )
    return updated.rowcount == 1


def _member(row: Row) -> Member:
    return Member(
        name=row["name"],
        email=row["email"],
        display_name=row["display_name"],
        role=Role(row["role"]),
        create_time=row["create_time"],
        totp_enabled=row["totp_enabled"],
        revision=row["revision"],
    )
