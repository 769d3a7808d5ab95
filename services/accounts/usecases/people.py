"""Members: who they are, and that it is them."""

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import password_matches
from services.accounts.model import (
    Identity,
    Member,
    check_grant,
    credentials_invalid,
    normal_email,
)
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal


def create_member(tx: Transaction, member: Member, password_hash: str, *, caller: Principal) -> Member:
    """
    Keep a new member.

    Raises NOT_FOUND, PERMISSION_DENIED (`ROLE_TOO_WIDE`) or ALREADY_EXISTS (`EMAIL_TAKEN`).
    """
    enterprise = enterprise_of(member.name) or ""
    store.get_enterprise(tx, enterprise)
    check_grant(caller.roles, member.role)
    store.insert_member(tx, member, password_hash)
    store.audit(
        tx,
        enterprise=enterprise,
        actor=caller.subject,
        action="member.created",
        subject=member.name,
        role=member.role,
    )
    return member


def authenticate_member(login: store.Login | None, password: SecretStr) -> Identity:
    """
    Who logs in. Needs no transaction, so that none is open for the milliseconds that a password's hash takes.

    Raises UNAUTHENTICATED (`CREDENTIALS_INVALID`), after the same time whether the address is known or not.
    """
    matches = password_matches(login.password_hash if login else None, password)
    if login is None or not matches:
        raise credentials_invalid()
    member = login.member
    return Identity(
        kind="MEMBER",
        subject=member.name,
        enterprise=enterprise_of(member.name),
        roles=frozenset({member.role}),
    )


def find_login(tx: Transaction, email: str) -> store.Login | None:
    """Who logs in with this address."""
    return store.find_login(tx, normal_email(email))
