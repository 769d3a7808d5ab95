"""Partner apps and their scopes."""

from dataclasses import dataclass
from datetime import datetime

from services.chassis.errors import invalid
from services.chassis.names import NamePattern

CLIENT_NAME = NamePattern("enterprises/{enterprise}/clients/{client}")

CLIENT_SCOPES = frozenset(
    {
        "accounts.read",
        "accounts.write",
        "analytics.read",
        "audiences.read",
        "audiences.write",
        "campaigns.read",
        "campaigns.write",
        "engagements.write",
        "interactions.read",
        "interactions.write",
        "pages.read",
        "pages.write",
        "publications.read",
        "publications.write",
        "registrations.read",
    }
)
"""What an enterprise may let its apps do."""

NETWORK_SCOPES = frozenset({"decisions.read", "exposures.write", "profiles.write"})
"""What only the network itself may do: it concerns people, not one enterprise."""


def check_scopes(scopes: frozenset[str]) -> None:
    """Raises INVALID_ARGUMENT (`SCOPE_UNKNOWN`) for a scope that an enterprise cannot give."""
    unknown = sorted(scopes - CLIENT_SCOPES)
    if unknown:
        raise invalid(
            "scopes",
            f"{', '.join(unknown)}: no scope for partner apps, which are {', '.join(sorted(CLIENT_SCOPES))}",
            reason="SCOPE_UNKNOWN",
        )


@dataclass(frozen=True, slots=True)
class Client:
    """A partner app of an enterprise. The last part of its name is its OAuth2 client id."""

    name: str
    display_name: str
    scopes: frozenset[str]
    create_time: datetime
