"""Members' sessions: from a login, through refreshes, to the end."""

import hashlib
from dataclasses import dataclass, replace

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import (
    hash_password,
    hash_secret,
    is_outdated,
    new_secret,
    password_matches,
)
from services.accounts.model import Identity, Member, credentials_invalid, normal_email
from services.accounts.model.revocations import LONGEST_TOKEN
from services.accounts.model.sessions import (
    FREE_TRIES_FROM_A_NETWORK,
    FREE_TRIES_IN_ALL,
    Device,
    Session,
    session_ended,
    too_many_logins,
)
from services.accounts.store import members as member_rows
from services.accounts.store import sessions as session_rows
from services.accounts.store.revocations import read_time, revoke
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


def open_session(database: Database, *, email: str, password: SecretStr, device: Device) -> Opened:
    """
    Log a member in. No transaction is open for the milliseconds that a password's hash takes.

    Raises UNAUTHENTICATED (`CREDENTIALS_INVALID`), after the same time whether the address is known or not, or RESOURCE_EXHAUSTED
    (`TOO_MANY_LOGINS`).
    """
    login, tries = _count_try(database, normal_email(email), device)
    matches = password_matches(login.password_hash if login else None, password)
    if login is None or not matches:
        raise credentials_invalid()
    kept = login.password_hash
    if is_outdated(kept):
        anew = hash_password(password)
        with database.transaction(PLATFORM) as tx:
            member_rows.replace_password_hash(tx, login.member.name, before=kept, after=anew)
        kept = anew
    with database.transaction(PLATFORM) as tx:
        member = member_rows.read_member_by_password(tx, login.member.name, kept)
        if member is None:  # it was changed, or the member removed, since we looked
            raise credentials_invalid()
        session_rows.forget_tries(tx, *tries)
        session = Session(
            name=f"{member.name}/sessions/{new_id()}",
            acts_for=enterprise_of(member.name) or "",
            device=device,
            create_time=tx.now,
            use_time=tx.now,
        )
        token = new_secret()
        session_rows.insert_session(tx, session, hash_secret(token))
        _audit(tx, session, member.name, "session.opened")
        return Opened(session, _identity(tx, member, session), token)


def refresh_session(database: Database, token: SecretStr, *, device: Device) -> Opened:
    """
    Give a session its next refresh token, and read anew what its member may do.

    Raises UNAUTHENTICATED (`SESSION_ENDED`). A token that was used before ends the session: one of two who showed it stole it.
    """
    with database.transaction(PLATFORM) as tx:
        opened = _refresh(tx, token, device)
    if opened is None:
        raise session_ended()
    return opened


def _refresh(tx: Transaction, token: SecretStr, device: Device) -> Opened | None:
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
    session = replace(session, device=device, use_time=tx.now)
    following = new_secret()
    session_rows.use_session(tx, session, used=used, fresh=hash_secret(following))
    return Opened(session, _identity(tx, member, session), following)


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
    return _end(tx, member, caller.subject, "session.ended", but=caller.session if keep_current else "")


def check_may_manage(caller: Principal, member: str) -> None:
    """Raises PERMISSION_DENIED (`ROLE_MISSING`) when somebody may not look after a member: is neither that one nor in charge."""
    if caller.kind == "MEMBER" and caller.subject != member and not caller.roles & _MANAGERS:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "ROLE_MISSING",
            f"{member} is somebody else: this needs the role ADMIN or OWNER",
            metadata={"roles": "ADMIN or OWNER", "member": member},
        )


def _end(tx: Transaction, member: str, actor: str, action: str, *, only: str = "", but: str = "") -> int:
    """End sessions of a member, refuse their access tokens, and write it down; returns how many."""
    ended = session_rows.delete_sessions(tx, member, only=only, but=but)
    for each in ended:
        store.audit(
            tx,
            enterprise=enterprise_of(member) or "",
            actor=actor,
            action=action,
            subject=f"{member}/sessions/{each}",
        )
    for each in ended:
        revoke(tx, each, until=tx.now + LONGEST_TOKEN)
    return len(ended)


def _count_try(
    database: Database, email: str, device: Device
) -> tuple[store.Login | None, tuple[bytes, ...]]:
    """
    Count a try as one that failed, before a password is looked at; so many at once are not more than one after the other.

    Returns who logs in with the address, and the keys of what was counted. Raises RESOURCE_EXHAUSTED (`TOO_MANY_LOGINS`).
    """
    from_network, from_anywhere = _key(email, device.network), _key(email)
    with database.transaction(PLATFORM) as tx:
        login = store.find_login(tx, email)
        limits = [(from_network, FREE_TRIES_FROM_A_NETWORK)]
        # Or a stranger with many networks could keep a member out for as long as they like.
        if not (
            login and device.network and session_rows.has_session_from(tx, login.member.name, device.network)
        ):
            limits.append((from_anywhere, FREE_TRIES_IN_ALL))
        for key, free in limits:
            wait = session_rows.count_try(tx, key, free)
            if wait is not None:
                raise too_many_logins(wait)
    return login, (from_network, from_anywhere)


def _key(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _identity(tx: Transaction, member: Member, session: Session) -> Identity:
    return Identity(
        kind="MEMBER",
        subject=member.name,
        enterprise=session.acts_for,
        roles=frozenset({member.role}),
        session=session.id,
        authenticate_time=read_time(tx),
    )


def _audit(tx: Transaction, session: Session, actor: str, action: str) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(session.member) or "",
        actor=actor,
        action=action,
        subject=session.name,
        acts_for=session.acts_for,
        address=session.device.network,
    )
