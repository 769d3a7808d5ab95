"""
Lists, the waitlist and invitations: what puts an enterprise before others, with the SQL of it.

An invitation's token is 256 random bits, told once; only its SHA-256 is kept.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.ids import new_id
from services.rollout.model import INVITATION_NAME, Listed

INVITATION_GOOD = timedelta(days=14)
LONGEST_INVITATION = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class ListEntry:
    """An enterprise on a list, until a time if it has one."""

    enterprise: str
    kind: Listed
    reason: str
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation: for one `enterprise`, or for whoever has the token when that is empty."""

    name: str
    rollout: str
    enterprise: str
    note: str
    expire_time: datetime
    create_time: datetime
    revoked: bool = False
    accepted_by: str | None = None

    def state(self, now: datetime) -> str:
        """OPEN, ACCEPTED, REVOKED or EXPIRED."""
        if self.accepted_by:
            return "ACCEPTED"
        if self.revoked:
            return "REVOKED"
        return "OPEN" if now < self.expire_time else "EXPIRED"


# Lists


def set_entry(tx: Transaction, rollout: str, entry: ListEntry) -> None:
    """Put an enterprise on a list, in the place of what was there."""
    if entry.expire_time is not None and entry.expire_time <= tx.now:
        raise invalid("entry.expire_time", "must be in the future")
    tx.execute(
        """
        insert into list_entries (rollout, enterprise, kind, reason, expire_time) values (%s, %s, %s, %s, %s)
        on conflict (rollout, enterprise) do update set kind = excluded.kind, reason = excluded.reason,
               expire_time = excluded.expire_time
        """,
        (rollout, entry.enterprise, entry.kind, entry.reason, entry.expire_time),
    )


def delete_entry(tx: Transaction, rollout: str, enterprise: str) -> ListEntry | None:
    """Take an enterprise off its list; None when it is on none."""
    row = tx.execute(
        """
        delete from list_entries where rollout = %s and enterprise = %s
        returning enterprise, kind, reason, expire_time
        """,
        (rollout, enterprise),
    ).fetchone()
    return _entry(row) if row else None


def page_entries(tx: Transaction, rollout: str, *, limit: int, after: str = "") -> list[ListEntry]:
    """Entries by enterprise."""
    rows = tx.execute(
        """
        select enterprise, kind, reason, expire_time from list_entries
        where rollout = %s and enterprise > %s order by enterprise limit %s
        """,
        (rollout, after, limit),
    )
    return [_entry(row) for row in rows]


def expire_entries(tx: Transaction) -> dict[str, list[str]]:
    """Drop the entries whose time is over; returns the enterprises by rollout."""
    rows = tx.execute(
        "delete from list_entries where expire_time <= %s returning rollout, enterprise", (tx.now,)
    ).fetchall()
    expired: dict[str, list[str]] = {}
    for row in rows:
        expired.setdefault(row["rollout"], []).append(row["enterprise"])
    return expired


# The waitlist


def join(tx: Transaction, rollout: str, enterprise: str) -> bool:
    """Join the waitlist. False when it is on it already."""
    joined = tx.execute(
        "insert into waitlist_entries (rollout, enterprise, join_time) values (%s, %s, %s) on conflict do nothing",
        (rollout, enterprise, tx.now),
    )
    return joined.rowcount == 1


def leave(tx: Transaction, rollout: str, enterprise: str) -> bool:
    """Leave the waitlist. False when it is not on it."""
    left = tx.execute(
        "delete from waitlist_entries where rollout = %s and enterprise = %s", (rollout, enterprise)
    )
    return left.rowcount == 1


def has_joined(tx: Transaction, rollout: str, enterprise: str) -> bool:
    """Whether it is on the waitlist."""
    found = tx.execute(
        "select 1 from waitlist_entries where rollout = %s and enterprise = %s", (rollout, enterprise)
    )
    return found.fetchone() is not None


# Invitations

_INVITATION = """
    select name, rollout, enterprise, note, expire_time, create_time, revoked, accepted_by from invitations
"""


def invite(
    tx: Transaction, rollout: str, *, enterprise: str, note: str, expire_time: datetime | None
) -> tuple[Invitation, str]:
    """Make an invitation; returns its token too, which nobody can read again."""
    until = expire_time or tx.now + INVITATION_GOOD
    if not tx.now < until <= tx.now + LONGEST_INVITATION:
        raise invalid(
            "invitation.expire_time", f"must be in the future, at most {LONGEST_INVITATION.days} days"
        )
    name = INVITATION_NAME.format(rollout=rollout.partition("/")[2], invitation=new_id())
    invitation = Invitation(name, rollout, enterprise, note, until, tx.now)
    token = secrets.token_urlsafe(32)
    tx.execute(
        """
        insert into invitations (name, rollout, token_hash, enterprise, note, expire_time, create_time)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (name, rollout, _hash(token), enterprise, note, until, tx.now),
    )
    return invitation, token


def accept(tx: Transaction, token: str, enterprise: str) -> Invitation:
    """
    Accept an invitation, once. The same enterprise again is answered as the first time.

    Raises NOT_FOUND (`INVITATION_UNKNOWN`), also for an invitation that is somebody else's; FAILED_PRECONDITION:
    `INVITATION_USED`, `INVITATION_REVOKED`, `INVITATION_EXPIRED`.
    """
    row = tx.execute(_INVITATION + " where token_hash = %s for update", (_hash(token),)).fetchone()
    if row is None or row["enterprise"] not in {"", enterprise}:
        raise ServiceError(
            Kind.NOT_FOUND, "INVITATION_UNKNOWN", "there is no such invitation for you; ask for a new one"
        )
    invitation = Invitation(**row)
    if invitation.accepted_by == enterprise:
        return invitation
    _check_open(invitation, tx.now)
    tx.execute(
        "update invitations set accepted_by = %s, number = nextval('invitation_acceptances') where name = %s",
        (enterprise, invitation.name),
    )
    return invitation


def revoke_invitation(tx: Transaction, name: str) -> Invitation | None:
    """Make it worthless; None when there is none. Raises FAILED_PRECONDITION (`INVITATION_USED`)."""
    row = tx.execute(_INVITATION + " where name = %s for update", (name,)).fetchone()
    if row is None:
        return None
    if row["accepted_by"]:
        _check_open(Invitation(**row), tx.now)
    tx.execute("update invitations set revoked = true where name = %s", (name,))
    return Invitation(**{**row, "revoked": True})


def page_invitations(
    tx: Transaction, rollout: str, *, limit: int, before: tuple[str, str] | None = None
) -> list[Invitation]:
    """Invitations, newest first, after the one with this creation time (ISO 8601) and name."""
    time, name = before or (None, None)
    rows = tx.execute(
        _INVITATION
        + """
        where rollout = %(rollout)s
          and (%(time)s::timestamptz is null or (create_time, name) < (%(time)s::timestamptz, %(name)s))
        order by create_time desc, name desc limit %(limit)s
        """,
        {"rollout": rollout, "time": time, "name": name, "limit": limit},
    )
    return [Invitation(**row) for row in rows]


def _check_open(invitation: Invitation, now: datetime) -> None:
    texts = {
        "ACCEPTED": ("INVITATION_USED", "the invitation has been accepted; ask for a new one"),
        "REVOKED": ("INVITATION_REVOKED", "the invitation was taken back; ask for a new one"),
        "EXPIRED": ("INVITATION_EXPIRED", "the invitation is too old; ask for a new one"),
    }
    if refused := texts.get(invitation.state(now)):
        raise ServiceError(Kind.FAILED_PRECONDITION, *refused)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _entry(row: dict[str, Any]) -> ListEntry:
    return ListEntry(row["enterprise"], Listed(row["kind"]), row["reason"], row["expire_time"])
