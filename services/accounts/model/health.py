"""How well an account can be used, until when, and who has to be asked again by which day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from services.accounts.model.accounts import Account, AccountState

EXPIRES_SOON = timedelta(days=7)
"""How long ahead a token's end is told."""

MEASURED = timedelta(hours=24)
"""Over which time an account's error rate is taken."""

FAILING_RATE = 0.5
"""The share of failed deliveries from which an account is failing."""

ENOUGH = 4
"""Fewer deliveries than these say nothing."""


class Health(StrEnum):
    """How well an account can be used; what is worse comes first where several hold."""

    UNBOUND = "UNBOUND"
    REAUTH_REQUIRED = "REAUTH_REQUIRED"
    FAILING = "FAILING"
    EXPIRING = "EXPIRING"
    OK = "OK"


@dataclass(frozen=True, slots=True)
class Quota:
    """So many posts a network takes from an account, in any stretch of time that is so long."""

    posts: int
    window: timedelta


QUOTAS: Mapping[str, Quota] = {
    "mastodon": Quota(300, timedelta(hours=3)),
    "weibo": Quota(30, timedelta(hours=1)),
}
"""What is known of the networks' limits on posts. Servers may be stricter."""


@dataclass(frozen=True, slots=True)
class Hour:
    """How an account's deliveries of one hour went."""

    hour: datetime
    published: int
    failed: int


@dataclass(frozen=True, slots=True)
class Measured:
    """
    An account's health.

    Attributes:
        expire_time: when its token stops working; None: never, as far as the network says.
        error_rate: the share of deliveries of the last 24 hours that failed; None: there were none.
        quota: what the network takes; None: not known.
        quota_used: posts in the quota's window, to the full hour.
    """

    account: str
    health: Health
    expire_time: datetime | None
    published: int
    failed: int
    quota: Quota | None
    quota_used: int

    @property
    def error_rate(self) -> float | None:
        deliveries = self.published + self.failed
        return self.failed / deliveries if deliveries else None


def measure(account: Account, hours: Sequence[Hour], now: datetime) -> Measured:
    """The health of an account whose deliveries went so."""
    recent = [each for each in hours if each.hour > now - MEASURED]
    published, failed = sum(each.published for each in recent), sum(each.failed for each in recent)
    quota = QUOTAS.get(account.network)
    used = sum(each.published for each in hours if quota and each.hour > now - quota.window)
    return Measured(
        account.name,
        _health(account, published, failed, now),
        account.token_expire_time,
        published,
        failed,
        quota,
        used,
    )


def _health(account: Account, published: int, failed: int, now: datetime) -> Health:
    deliveries, expires = published + failed, account.token_expire_time
    if account.state is AccountState.REVOKED:
        return Health.UNBOUND
    if account.state is AccountState.REAUTH_REQUIRED or (expires and expires <= now):
        return Health.REAUTH_REQUIRED
    if deliveries >= ENOUGH and failed / deliveries >= FAILING_RATE:
        return Health.FAILING
    return Health.EXPIRING if expires and expires <= now + EXPIRES_SOON else Health.OK


@dataclass(frozen=True, slots=True)
class Due:
    """An account whose holder has to agree again; `expire_time` is None when the token does not work even now."""

    account: str
    handle: str
    server: str
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Accounts that a team has authorised anew on one day (UTC)."""

    day: date
    accounts: Sequence[Due]


def plan(due: Sequence[Due], *, capacity: int, today: date) -> list[Batch]:
    """
    The fewest batches of at most `capacity` accounts, one a day, each as late as it can be.

    Every account comes before the day on which its token ends, if with this capacity that is possible at all; those whose token
    does not work even now come first. What is late is done as soon as possible.
    """
    ordered = sorted(due, key=lambda each: (_deadline(each, today), each.account))
    chunks = [ordered[start : start + capacity] for start in range(0, len(ordered), capacity)]
    days: list[date] = []
    latest = date.max
    for chunk in reversed(chunks):
        latest = min(latest - timedelta(days=1), _deadline(chunk[0], today))
        days.append(latest)
    batches = []
    earliest = today
    for chunk, wanted in zip(chunks, reversed(days), strict=True):
        day = max(earliest, wanted)
        batches.append(Batch(day, chunk))
        earliest = day + timedelta(days=1)
    return batches


def _deadline(due: Due, today: date) -> date:
    """The last day on which it is not too late: that before the token's end."""
    return due.expire_time.astimezone(UTC).date() - timedelta(days=1) if due.expire_time else today


def calendar(enterprise: str, batches: Sequence[Batch], now: datetime) -> str:
    """The batches as an iCalendar (RFC 5545), an all-day event for each."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Numerator//Re-authorisations//EN"]
    for batch in batches:
        handles = "\n".join(f"@{each.handle} {each.server}" for each in batch.accounts)
        lines += [
            "BEGIN:VEVENT",
            f"UID:{batch.day:%Y%m%d}.{enterprise.rpartition('/')[2]}@numerator",
            f"DTSTAMP:{now.astimezone(UTC):%Y%m%dT%H%M%SZ}",
            f"DTSTART;VALUE=DATE:{batch.day:%Y%m%d}",
            f"SUMMARY:Re-authorise {len(batch.accounts)} accounts",
            f"DESCRIPTION:{_escaped(handles)}",
            "END:VEVENT",
        ]
    return "".join(f"{_folded(line)}\r\n" for line in [*lines, "END:VCALENDAR"])


def _escaped(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\n", "\\n")):
        text = text.replace(plain, escaped)
    return text


def _folded(line: str) -> str:
    """No line has more than 75 bytes; what goes on begins with a space (3.1)."""
    parts, part = list[str](), ""
    for character in line:
        if len((part + character).encode()) > 75 - (1 if parts else 0):
            parts.append(part)
            part = ""
        part += character
    return "\r\n ".join([*parts, part])
