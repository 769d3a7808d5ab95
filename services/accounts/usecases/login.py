"""Proof that somebody is who they say, by the password. Tries are counted, so that guessing is slow."""

import hashlib
from dataclasses import dataclass

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_password, is_outdated, password_matches
from services.accounts.model import Member, credentials_invalid, normal_email
from services.accounts.model.sessions import (
    FREE_TRIES_FROM_A_NETWORK,
    FREE_TRIES_IN_ALL,
    UNKNOWN_DEVICE,
    Device,
    too_many_logins,
)
from services.accounts.store import members as member_rows
from services.accounts.store import sessions as session_rows
from services.chassis.database import PLATFORM, Database, Transaction


@dataclass(frozen=True, slots=True)
class Proof:
    """That a password was right, and the try that it was: it counts as one that failed until it is `used`."""

    name: str
    password_hash: str
    tries: tuple[bytes, ...]

    def use(self, tx: Transaction) -> Member:
        """
        The member, who does not change before this transaction ends; failed tries are forgotten.

        Needs the platform's scope. Raises UNAUTHENTICATED (`CREDENTIALS_INVALID`) when the password was changed, or the member
        removed, since it was looked at.
        """
        member = member_rows.read_member_by_password(tx, self.name, self.password_hash)
        if member is None:
            raise credentials_invalid()
        session_rows.forget_tries(tx, *self.tries)
        return member


def prove(database: Database, email: str, password: SecretStr, device: Device = UNKNOWN_DEVICE) -> Proof:
    """
    Look whether a password is right. No transaction is open for the milliseconds that its hash takes.

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
    return Proof(login.member.name, kept, tries)


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
