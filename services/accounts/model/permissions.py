"""
Who may do what with which account: the one decision, for what tokens carry, for what may be granted, and for why.

Somebody holds roles (members) or scopes (clients), each in the whole enterprise or in a group of accounts and all below it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.accounts.model.groups import group_name
from services.accounts.model.members import MEMBER_NAME, Role
from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.names import NamePattern, enterprise_of
from services.chassis.reach import EVERYTHING, Reach

GRANT_NAME = NamePattern("enterprises/{enterprise}/grants/{grant}")

LONGEST_AGENCY_GRANT = timedelta(days=366)
"""How far the end of a grant to another enterprise's member may lie ahead: a year, be it a leap year."""
MOST_GRANTS = 100
"""How many grants of an enterprise one member can hold: tokens carry them."""

_FOR_EVER = datetime.max.replace(tzinfo=UTC)
_ALL = frozenset(Role) - {Role.LIMITED}
_WRITERS = frozenset({Role.OWNER, Role.ADMIN, Role.EDITOR})
_GRANTERS = (Role.OWNER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Right:
    """What can be done with an account: a verb for people, and the roles of which a member needs one."""

    verb: str
    roles: frozenset[Role]


RIGHTS: Mapping[str, Right] = {
    "accounts.read": Right("see", _ALL),
    "accounts.write": Right("manage", frozenset({Role.OWNER, Role.ADMIN})),
    "analytics.read": Right("see the figures of", _ALL),
    "interactions.read": Right("read what people say to", _ALL),
    "interactions.write": Right("answer for", _WRITERS | {Role.RESPONDER}),
    "publications.read": Right("see what is published on", _ALL),
    "publications.write": Right("publish on", _WRITERS),
}
"""The rights that concern accounts, by the scope that a client needs for the same."""


@dataclass(frozen=True, slots=True)
class Holding:
    """
    A role or a scope that somebody holds.

    Attributes:
        right: the role or the scope.
        group: the id of the group in whose subtree it holds; None for the whole enterprise.
        expire_time: from when on it holds nothing; None when it does not end by itself.
    """

    right: str
    group: str | None = None
    expire_time: datetime | None = None

    @property
    def end(self) -> datetime:
        """When it ends, for comparisons."""
        return self.expire_time or _FOR_EVER

    @property
    def reach(self) -> Reach:
        """Which accounts it concerns."""
        return EVERYTHING if self.group is None else Reach(frozenset({self.group}))


@dataclass(frozen=True, slots=True)
class Rights:
    """
    What somebody holds in groups at some moment.

    Attributes:
        grants: ids of groups, by role.
        ends: when the first of it ends; None when nothing does by itself.
    """

    grants: Mapping[str, frozenset[str]]
    ends: datetime | None


@dataclass(frozen=True, slots=True)
class Grant:
    """A member's role in a group, with the ids of the groups from the root to it."""

    name: str
    member: str
    role: Role
    path: Sequence[str]
    expire_time: datetime | None
    creator: str
    create_time: datetime

    @property
    def group(self) -> str:
        """The name of the group."""
        return group_name(self.name, self.path) or ""


def live(holdings: Iterable[Holding], now: datetime) -> list[Holding]:
    """Those that have not ended."""
    return [each for each in holdings if now < each.end]


def decide(
    holdings: Iterable[Holding], needed: Iterable[str], path: Sequence[str], now: datetime
) -> Holding | None:
    """
    By what somebody may do, with an account in the groups `path`, what needs one of the rights `needed`.

    The holding that lasts longest, if several allow it. None: it is not allowed.
    """
    wanted = frozenset(needed)
    allowing = (each for each in live(holdings, now) if each.right in wanted and each.reach.covers(path))
    return max(allowing, key=lambda each: each.end, default=None)


def rights_of(holdings: Iterable[Holding], now: datetime) -> Rights:
    """What of it holds in groups now, as tokens carry it."""
    held = [each for each in live(holdings, now) if each.group is not None]
    return Rights(
        grants={
            right: frozenset(each.group for each in held if each.right == right and each.group is not None)
            for right in sorted({each.right for each in held})
        },
        ends=min((each.expire_time for each in held if each.expire_time is not None), default=None),
    )


def check_granter(
    granter: Iterable[Holding], role: Role, path: Sequence[str], expire_time: datetime | None, now: datetime
) -> None:
    """
    Check that somebody holds what they give: a role as wide, there, for as long.

    Raises PERMISSION_DENIED (`ROLE_TOO_WIDE`) or INVALID_ARGUMENT (`GRANT_TOO_LONG`).
    """
    as_wide = _GRANTERS[:1] if role is Role.OWNER else _GRANTERS
    by = decide(granter, as_wide, path, now)
    if by is None:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "ROLE_TOO_WIDE",
            f"to give or take the role {role} needs the role {' or '.join(as_wide)} in the same group or above it",
            metadata={"role": role},
        )
    if (expire_time or _FOR_EVER) > by.end:
        raise invalid(
            "expire_time",
            f"must not be later than the end of your own role, {by.end:%Y-%m-%dT%H:%MZ}",
            reason="GRANT_TOO_LONG",
        )


def check_lifetime(enterprise: str, member: str, expire_time: datetime | None, now: datetime) -> None:
    """
    Check until when a member of this or of another enterprise may hold a grant.

    Raises INVALID_ARGUMENT: `REQUIRED` and `GRANT_TOO_LONG` for another enterprise's, `PAST`.
    """
    if expire_time is not None and expire_time <= now:
        raise invalid("expire_time", "must lie in the future", reason="PAST")
    if enterprise_of(member) == enterprise:
        return
    if expire_time is None:
        raise invalid(
            "expire_time",
            "is required for a member of another enterprise: at most a year ahead",
            reason="REQUIRED",
        )
    if expire_time > now + LONGEST_AGENCY_GRANT:
        raise invalid(
            "expire_time",
            "must be at most a year ahead for a member of another enterprise",
            reason="GRANT_TOO_LONG",
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why somebody may do something, or may not: the holding that allows it, and a sentence."""

    by: Holding | None
    sentence: str


def explain(
    subject: str,
    holdings: Sequence[Holding],
    right: str,
    *,
    account: str,
    path: Sequence[str],
    titles: Mapping[str, str],
    now: datetime,
) -> Explanation:
    """
    Whether somebody may do something with an account, and why.

    Args:
        subject: a member's or client's name: members need a role, clients the scope itself.
        holdings: all that the subject holds, ended or not.
        right: one of RIGHTS.
        account: what people call it.
        path: the ids of the groups that it is in, the root first.
        titles: what people call the groups in which something is held, and those of the path, by id.
        now: when.

    Raises:
        ServiceError: INVALID_ARGUMENT (`RIGHT_UNKNOWN`).
    """
    known = RIGHTS.get(right)
    if known is None:
        raise invalid(
            "right", f"must be one that concerns accounts: {', '.join(RIGHTS)}", reason="RIGHT_UNKNOWN"
        )
    needed = [role for role in Role if role in known.roles] if MEMBER_NAME.matches(subject) else [right]
    by = decide(holdings, needed, path, now)
    if by is not None:
        return Explanation(by, f"may {known.verb} {account} because {_told(by, titles, now)}")
    places = [f"in {titles[group]}" for group in reversed(path)]
    held = "; ".join(_told(each, titles, now) for each in holdings) or "nothing"
    return Explanation(
        None,
        f"may not {known.verb} {account}: needs {' or '.join(needed)} {', '.join([*places, 'in the whole enterprise'])}; "
        f"holds {held}",
    )


def _told(held: Holding, titles: Mapping[str, str], now: datetime) -> str:
    place = (
        f"{held.right} in {titles[held.group]}"
        if held.group is not None
        else f"{held.right} in the whole enterprise"
    )
    if held.expire_time is None:
        return place
    return f"{place} {'until' if now < held.expire_time else 'which ended at'} {held.expire_time:%Y-%m-%dT%H:%MZ}"
