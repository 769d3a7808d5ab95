"""When tokens are refreshed, how often a refresh is tried, and when the account's holder is asked instead."""

from datetime import datetime, timedelta

LEASE = timedelta(minutes=1)
"""How long a refresh that has begun keeps others from beginning one; far longer than a call of a network may take."""

HANDOVER = timedelta(seconds=30)
"""
For so long after a refresh publishing may still use the token before, which some networks end at once: what it then says of
refused tokens is not of the new one.
"""

_LONGEST_LEAD = timedelta(days=1)
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
_MOST_TRIES = 8


def refresh_time(now: datetime, expire_time: datetime) -> datetime:
    """When to refresh a token that is got now: with a quarter of its life left, or a day."""
    return expire_time - min((expire_time - now) / 4, _LONGEST_LEAD)


def next_try(tries: int, now: datetime, expire_time: datetime) -> datetime | None:
    """
    When to try again after so many tries without an answer; None: no more.

    As long as the token works nothing is lost by trying; after its end the first eight tries are all.
    """
    if tries >= _MOST_TRIES and now >= expire_time:
        return None
    doublings = min(tries - 1, 10)
    return now + min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)
