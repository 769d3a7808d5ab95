"""Access tokens that are refused before they expire."""

from dataclasses import dataclass
from datetime import datetime, timedelta

LONGEST_TOKEN = timedelta(hours=1, minutes=5)
"""No access token lives longer, with room for clocks that differ."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """
    Tokens of one member, client or session.

    Attributes:
        subject: whose: a name, or a session's id.
        revoke_time: tokens are refused whose identity was read up to then.
        expire_time: when the last of them has expired.
        sequence: grows with each commit of a revocation.
    """

    subject: str
    revoke_time: datetime
    expire_time: datetime
    sequence: int
