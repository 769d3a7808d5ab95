"""Members' sessions, and how fast one may try to begin one."""

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.chassis.errors import Kind, ServiceError
from services.chassis.names import NamePattern

SESSION_NAME = NamePattern("enterprises/{enterprise}/members/{member}/sessions/{session}")

IDLE_LIFE = timedelta(days=30)
"""How long a session lasts that nobody uses."""

FREE_TRIES_FROM_A_NETWORK = 10
"""How many tries to log in to one account fail before those from one network have to wait."""

FREE_TRIES_IN_ALL = 50
"""How many fail before those from anywhere have to wait, but for networks from which the member has a session."""

LONGEST_WAIT = timedelta(minutes=15)
"""The longest wait between two tries to log in."""

TRIES_KEPT = timedelta(hours=24)
"""How long after the last try the failed ones are forgotten."""

_AGENT_LENGTH = 120
_NETWORK_BITS = {4: 24, 6: 48}


@dataclass(frozen=True, slots=True)
class Device:
    """
    From where a member comes, as much of it as is kept.

    Attributes:
        network: the network of the address, as `203.0.113.0/24`; empty when it is not known.
        user_agent: what the program calls itself, shortened.
    """

    network: str
    user_agent: str

    @classmethod
    def of(cls, address: str, user_agent: str) -> "Device":
        """The device at an IP address."""
        try:
            ip = ipaddress.ip_address(address)
            network = str(ipaddress.ip_network((address, _NETWORK_BITS[ip.version]), strict=False))
        except ValueError:
            network = ""
        return cls(network, "".join(filter(str.isprintable, user_agent))[:_AGENT_LENGTH])


UNKNOWN_DEVICE = Device("", "")


@dataclass(frozen=True, slots=True)
class Session:
    """
    A member's login.

    Attributes:
        acts_for: the enterprise of its newest access token.
        use_time: when it was last refreshed.
        by_provider: whether the enterprise's identity provider opened it, not a password.
    """

    name: str
    acts_for: str
    device: Device
    create_time: datetime
    use_time: datetime
    by_provider: bool = False

    @property
    def id(self) -> str:
        """The last part of its name, by which its access tokens are revoked."""
        return self.name.rpartition("/")[2]

    @property
    def member(self) -> str:
        """Whose it is."""
        return self.name.rpartition("/sessions/")[0]

    @property
    def expire_time(self) -> datetime:
        """When it ends unless it is used before."""
        return self.use_time + IDLE_LIFE


def wait_after(tries: int, free: int) -> timedelta:
    """How long to wait after so many tries that failed, of which `free` cost nothing: twice as long each time."""
    if tries < free:
        return timedelta()
    # The exponent is bounded, because 2 ** tries is a number of any length.
    return min(timedelta(seconds=2 ** min(tries - free, 20)), LONGEST_WAIT)


def too_many_logins(wait: timedelta) -> ServiceError:
    """Tries to log in fail too often."""
    seconds = max(1, round(wait.total_seconds()))
    return ServiceError(
        Kind.RESOURCE_EXHAUSTED,
        "TOO_MANY_LOGINS",
        f"too many tries to log in; try again in {seconds} s",
        metadata={"seconds": str(seconds)},
        retry_after=timedelta(seconds=seconds),
    )


def session_ended() -> ServiceError:
    """One answer for every refresh token that is not good, whatever the cause."""
    return ServiceError(Kind.UNAUTHENTICATED, "SESSION_ENDED", "the session has ended: log in again")
