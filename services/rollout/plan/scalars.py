"""How a plan spells shares, lengths of time, moments and windows."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.chassis.buckets import BUCKETS
from services.rollout.plan.reading import Value, WrongError, shown
from services.rollout.plan.shape import DAYS, Window

E = TypeVar("E", bound=StrEnum)

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PERCENT = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%", re.ASCII)
_DURATION = re.compile(r"(?:(\d{1,3})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?", re.ASCII)
_LONGEST = timedelta(days=366)
_CLOCK = r"([01]\d|2[0-3])(?::([0-5]\d))?"
_WINDOW = re.compile(rf"([A-Za-z,-]+) {_CLOCK}-(?:{_CLOCK}|(24)(?::00)?)(?: ([A-Za-z0-9_+/-]+))?", re.ASCII)


def word(words: type[E]) -> Callable[[Value], E]:
    """One of an enumeration's members, in small letters."""
    return lambda value: value.one_of({each.lower(): each for each in words})


def identifier(value: Value) -> str:
    """The id of a rollout, a flag, a stage or a segment."""
    text = value.text()
    if not IDENTIFIER.fullmatch(text):
        raise WrongError(f"must be 1 to 63 characters of a-z, 0-9 and hyphen, not {shown(text)}")
    return text


def percent(value: Value, *, least: int = 1, most: int = BUCKETS) -> int:
    """Basis points, exactly."""
    text = value.text()
    found = _PERCENT.fullmatch(text)
    basis_points = int(found[1]) * 100 + int((found[2] or "0").ljust(2, "0")) if found else -1
    if not least <= basis_points <= most:
        raise WrongError(
            f"must be a percentage from {least / 100:g}% to {most / 100:g}%, as 5% or 0.25%, not {shown(text)}"
        )
    return basis_points


def duration(value: Value) -> timedelta:
    """A length of time, above 0."""
    return duration_of(value.text())


def duration_of(text: str) -> timedelta:
    """As `duration`, of a part of a value. Raises WrongError."""
    found = _DURATION.fullmatch(text)
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups()) if found else (0, 0, 0, 0)
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not timedelta(0) < length <= _LONGEST:
        raise WrongError(f"must be a length of time up to 366d, as 30m, 4h, 3d or 1h30m, not {shown(text)}")
    return length


def moment(value: Value) -> datetime:
    """A time that says its zone; to the second, in UTC."""
    text = value.text()
    try:
        local = datetime.fromisoformat(text)
        utc = local.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise WrongError(f"must be a time, as 2026-12-01T08:00Z, not {shown(text)}") from None
    if local.tzinfo is None:
        raise WrongError(f"must say its zone, as 2026-12-01T08:00Z for UTC, not {shown(text)}")
    return utc


def window(value: Value) -> Window:
    """Days and hours of the week."""
    text = value.text()
    found = _WINDOW.fullmatch(text)
    days = _days(found[1]) if found else frozenset()
    if not found or not days:
        raise WrongError(
            f'must be days, hours and perhaps a zone, as "Mon-Thu 08-16 Europe/Berlin", not {shown(text)}'
        )
    start = time(int(found[2]), int(found[3] or 0))
    end = time(0) if found[6] else time(int(found[4]), int(found[5] or 0))
    if not found[6] and end <= start:
        raise WrongError(f"must end after it begins, on the same day, not {shown(text)}")
    return Window(days, start, end, _zone(found[7] or "UTC"))


def _days(text: str) -> frozenset[int]:
    """Weekdays of "Mon-Thu,Sat"; empty when it is none such."""
    days: set[int] = set()
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or not set(ends) <= set(DAYS):  # noqa: PLR2004 -- from and to
            return frozenset()
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        days.update((first + step) % len(DAYS) for step in range((last - first) % len(DAYS) + 1))
    return frozenset(days)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise WrongError(
            f"must name a zone of the IANA's list, as Europe/Berlin, not {shown(name)}"
        ) from None
