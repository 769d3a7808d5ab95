"""Partner apps, what they may do, and for how long their secrets work."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.accounts.model.permissions import RIGHTS
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
        "webhooks.read",
        "webhooks.write",
    }
)
"""What an enterprise may let its apps do."""

NETWORK_SCOPES = frozenset({"decisions.read", "exposures.write", "profiles.write"})
"""What only the network itself may do: it concerns people, not one enterprise."""


LONGEST_GRACE = timedelta(days=7)
"""How long a secret may work on after a rotation."""

MOST_GRANTED_GROUPS = 100
"""How many groups a client's grants may name, all together: tokens carry them."""


def check_scopes(scopes: AbstractSet[str]) -> None:
    """Raises INVALID_ARGUMENT (`SCOPE_UNKNOWN`) for a scope that an enterprise cannot give."""
    unknown = sorted(scopes - CLIENT_SCOPES)
    if unknown:
        raise invalid(
            "scopes",
            f"{', '.join(unknown)}: no scope for partner apps, which are {', '.join(sorted(CLIENT_SCOPES))}",
            reason="SCOPE_UNKNOWN",
        )


def check_grace(grace: timedelta) -> None:
    """Raises INVALID_ARGUMENT (`GRACE_TOO_LONG`)."""
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise invalid(
            "grace", f"must be from 0 to {LONGEST_GRACE.days} days (604800s)", reason="GRACE_TOO_LONG"
        )


@dataclass(frozen=True, slots=True)
class ClientRights:
    """
    What a partner app may do.

    Attributes:
        scopes: in the whole enterprise.
        grants: by scope, the ids of the groups of accounts in whose subtrees it holds.
    """

    scopes: frozenset[str] = frozenset()
    grants: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def check(self) -> None:
        """Raises INVALID_ARGUMENT: `SCOPE_UNKNOWN`, `SCOPE_NOT_PER_GROUP`, `RIGHTS_MISSING`, `OUT_OF_RANGE` (too many groups)."""
        check_scopes(self.scopes)
        others = sorted(self.grants.keys() - RIGHTS.keys())
        if others:
            raise invalid(
                "grants",
                f"{', '.join(others)}: does not hold for some groups; what does are {', '.join(sorted(RIGHTS))}",
                reason="SCOPE_NOT_PER_GROUP",
            )
        if not self.scopes and not self.grants:
            raise invalid("scopes", "give at least one scope or grant", reason="RIGHTS_MISSING")
        if sum(map(len, self.grants.values())) > MOST_GRANTED_GROUPS:
            raise invalid("grants", f"name at most {MOST_GRANTED_GROUPS} groups, all together")

    @property
    def groups(self) -> frozenset[str]:
        """The ids of all groups that grants name."""
        return frozenset().union(*self.grants.values())


@dataclass(frozen=True, slots=True)
class Client:
    """
    A partner app of an enterprise. The last part of its name is its OAuth2 client id.

    Attributes:
        last_use_time: when it last got an access token, to the hour.
        old_secret_end_time: until when the secret before the present one works; None when there is none.
        old_secret_use_time: when that was last used, to the hour.
        revision: grows with name, rights and secrets.
    """

    name: str
    display_name: str
    rights: ClientRights
    create_time: datetime
    last_use_time: datetime | None = None
    old_secret_end_time: datetime | None = None
    old_secret_use_time: datetime | None = None
    revision: int = 1
