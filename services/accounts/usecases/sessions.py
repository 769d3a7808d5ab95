"""Members' sessions: from a login, through refreshes, to the end."""

from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_secret, new_secret
from services.accounts.model import Identity, Member, Role
from services.accounts.model.identity_providers import provider_required
from services.accounts.model.revocations import LONGEST_TOKEN
from services.accounts.model.sessions import Device, Session, session_ended
from services.accounts.store import identity_providers as provider_rows
from services.accounts.store import members as member_rows
from services.accounts.store import sessions as session_rows
from services.accounts.store.grants import rights_of
from services.accounts.store.revocations import read_time, revoke
from services.accounts.usecases import totp as second_factor
from services.accounts.usecases.login import prove
from services.accounts.usecases.secrets import Vault
from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.errors import Kind, ServiceError, not_found
from services.chassis.ids import new_id
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal

_MANAGERS = frozenset({"OWNER", "ADMIN"})


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, who its member is, and the token that refreshes it; the token is nowhere else."""

    session: Session
    identity: Identity
    refresh_token: SecretStr
    rights_end: datetime | None
    """When some of the rights end, and access tokens with them; None: not by itself."""


def open_session(
    database: Database,
    vault: Vault,
    *,
    email: str,
    password: SecretStr,
    totp: str,
    acts_for: str,
    device: Device,
) -> Opened:
    """
    Log a member in.

    Args:
        database: where everything is.
        vault: opens the seed of the second factor.
        email: the address, in any spelling.
        password: the password.
        totp: a code of the second factor, or empty.
        acts_for: the enterprise for which the access token is; empty for the member's own.
        device: from where.

    Raises as `login.prove` does, UNAUTHENTICATED (`TOTP_REQUIRED`, `TOTP_INVALID`), FAILED_PRECONDITION
    (`TOTP_ENROLLMENT_REQUIRED`) or PERMISSION_DENIED (`NO_GRANT`, `IDENTITY_PROVIDER_REQUIRED`).
    """
    proof = prove(database, email, password, device)
    with database.transaction(PLATFORM) as tx:
        member = proof.use(tx)
        second_factor.check(tx, vault, member, totp)
        return _open(tx, member, acts_for or enterprise_of(member.name) or "", device)


def open_by_provider(tx: Transaction, member: Member, device: Device) -> Opened:
    """
    Log in a member whom the own enterprise's identity provider has named; its login stands for password and second factor.

    Needs the platform's scope, and the member's row locked.
    """
    return _open(tx, member, enterprise_of(member.name) or "", device, by_provider=True)


def _open(
    tx: Transaction, member: Member, acts_for: str, device: Device, *, by_provider: bool = False
) -> Opened:
    session = Session(
        name=f"{member.name}/sessions/{new_id()}",
        acts_for=acts_for,
        device=device,
        create_time=tx.now,
        use_time=tx.now,
        by_provider=by_provider,
    )
    token = new_secret()
    opened = _opened(tx, member, session, token)
    session_rows.insert_session(tx, session, hash_secret(token))
    _audit(tx, session, "session.opened")
    return opened


def refresh_session(database: Database, token: SecretStr, *, acts_for: str, device: Device) -> Opened:
    """
    Give a session its next refresh token, and read anew what its member may do.

    A token that was used before ends the session: one of two who showed it stole it. Raises UNAUTHENTICATED (`SESSION_ENDED`),
    FAILED_PRECONDITION (`TOTP_ENROLLMENT_REQUIRED`, `PASSWORD_LOGIN_REQUIRED`) or PERMISSION_DENIED (`NO_GRANT`,
    `IDENTITY_PROVIDER_REQUIRED`); after these the token still works.
    """
    with database.transaction(PLATFORM) as tx:
        opened = _refresh(tx, token, acts_for, device)
    if opened is None:
        raise session_ended()
    return opened


def _refresh(tx: Transaction, token: SecretStr, acts_for: str, device: Device) -> Opened | None:
    used = hash_secret(token)
    found = session_rows.lock_session(tx, used)
    if found is None:
        return None
    session, fresh = found
    if not fresh:
        _end(tx, session.member, "anonymous", "session.token_reused", only=session.id)
        return None
    if session.expire_time <= tx.now:
        return None
    member = member_rows.read_member(tx, session.member)
    acts_for = acts_for or enterprise_of(member.name) or ""
    session = replace(session, acts_for=acts_for, device=device, use_time=tx.now)
    following = new_secret()
    opened = _opened(tx, member, session, following)
    session_rows.use_session(tx, session, used=used, fresh=hash_secret(following))
    return opened


def end_session(tx: Transaction, session: str, *, caller: Principal) -> None:
    """End a session. Raises NOT_FOUND, or PERMISSION_DENIED (`ROLE_MISSING`) for that of somebody else."""
    member, _, session_id = session.rpartition("/sessions/")
    check_may_manage(caller, member)
    if not _end(tx, member, caller.subject, "session.ended", only=session_id):
        raise not_found(session)


def end_sessions(tx: Transaction, member: str, *, caller: Principal, keep_current: bool) -> int:
    """
    End the sessions of a member; returns how many.

    Raises NOT_FOUND, or PERMISSION_DENIED (`ROLE_MISSING`) for those of somebody else.
    """
    check_may_manage(caller, member)
    member_rows.read_member(tx, member)
    return end_all(tx, member, actor=caller.subject, but=caller.session if keep_current else "")


def end_all(tx: Transaction, member: str, *, actor: str, but: str) -> int:
    """End the sessions of a member, but the one with this id; returns how many."""
    return _end(tx, member, actor, "session.ended", but=but)


def end_by_provider(tx: Transaction, enterprise: str, member: str = "", *, actor: str) -> None:
    """End the sessions that an enterprise's identity provider has opened, for a member or for all."""
    for whose, each in session_rows.delete_provider_sessions(tx, enterprise, member):
        _note_end(tx, whose, each, actor, "session.ended")


def check_may_manage(caller: Principal, member: str) -> None:
    """Raises PERMISSION_DENIED (`ROLE_MISSING`) for whoever is neither this member nor in charge of all."""
    if caller.subject != member:
        check_in_charge(caller)


def check_in_charge(caller: Principal) -> None:
    """Raises PERMISSION_DENIED (`ROLE_MISSING`) for a member who does not look after the others."""
    if caller.kind == "MEMBER" and not caller.roles & _MANAGERS:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "ROLE_MISSING",
            "to look after members needs the role ADMIN or OWNER",
            metadata={"roles": "ADMIN or OWNER"},
        )


def _end(tx: Transaction, member: str, actor: str, action: str, *, only: str = "", but: str = "") -> int:
    """End sessions of a member, refuse their access tokens, and write it down; returns how many."""
    ended = session_rows.delete_sessions(tx, member, only=only, but=but)
    for each in ended:
        _note_end(tx, member, each, actor, action)
    return len(ended)


def _note_end(tx: Transaction, member: str, session: str, actor: str, action: str) -> None:
    """Refuse the access tokens of a session that ended, and write it down."""
    store.audit(
        tx,
        enterprise=enterprise_of(member) or "",
        actor=actor,
        action=action,
        subject=f"{member}/sessions/{session}",
    )
    revoke(tx, session, until=tx.now + LONGEST_TOKEN)


def _opened(tx: Transaction, member: Member, session: Session, token: SecretStr) -> Opened:
    """
    What a session gives: in the member's own enterprise the role and grants in groups, in another the grants alone.

    Raises PERMISSION_DENIED (`NO_GRANT`, `IDENTITY_PROVIDER_REQUIRED`) or, where either enterprise asks for a second factor,
    FAILED_PRECONDITION (`TOTP_ENROLLMENT_REQUIRED`, `PASSWORD_LOGIN_REQUIRED`).
    """
    own = enterprise_of(member.name) or ""
    rights = rights_of(tx, member.name, session.acts_for, tx.now)
    if session.acts_for != own and not rights.grants:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "NO_GRANT",
            f"{session.acts_for} has granted you nothing, or it has ended",
            metadata={"enterprise": session.acts_for},
        )
    if session.by_provider:
        # The own enterprise has left to its provider what it asks its members for; no other enterprise has.
        if session.acts_for != own:
            second_factor.check_not_asked(tx, session.acts_for)
    else:
        if member.role is not Role.OWNER and provider_rows.password_is_refused(tx, own):
            raise provider_required()
        for enterprise in {own, session.acts_for}:
            second_factor.check_enrolled(tx, member, enterprise)
    identity = Identity(
        kind="MEMBER",
        subject=member.name,
        enterprise=session.acts_for,
        roles=frozenset({member.role}) if session.acts_for == own else frozenset(),
        grants=rights.grants,
        session=session.id,
        authenticate_time=read_time(tx),
    )
    return Opened(session, identity, token, rights.ends)


def _audit(tx: Transaction, session: Session, action: str) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(session.member) or "",
        actor=session.member,
        action=action,
        subject=session.name,
        acts_for=session.acts_for,
        address=session.device.network,
        by="identity provider" if session.by_provider else "password",
    )
