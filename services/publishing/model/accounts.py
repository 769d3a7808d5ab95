"""Bound accounts, as publishing knows them, and what their servers offer against sending twice."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.chassis.names import NamePattern

NETWORKS = frozenset({"mastodon"})
"""The networks that the sender speaks. Accounts of others can be bound, and not be published to."""
ACCOUNT = NamePattern("enterprises/{enterprise}/accounts/{account}")


class NetworkClass(StrEnum):
    """What a server offers against sending twice. A property of the server, not of the protocol it speaks."""

    A = "A"
    """Honours an idempotency key: the same key gives the same post."""
    B = "B"
    """Ignores keys, but an account's own posts can be read."""
    C = "C"
    """Neither: what is unknown stays unknown until a person looks."""


class AccountState(StrEnum):
    """Whether an account can be used."""

    ACTIVE = "ACTIVE"
    REAUTH_REQUIRED = "REAUTH_REQUIRED"
    UNBOUND = "UNBOUND"


@dataclass(frozen=True, slots=True)
class Account:
    """A bound account, as the accounts service told of it. Its token stays sealed outside the sender."""

    name: str
    enterprise: str
    network: str
    server: str
    software: str
    network_account_id: str
    handle: str
    state: AccountState
    max_characters: int
    bind_time: datetime
    sealed_token: bytes = field(repr=False)
    token_version: int = 0

    @property
    def network_class(self) -> NetworkClass:
        """Only Mastodon itself is known to honour keys; other servers accept them and may ignore them."""
        return NetworkClass.A if self.software == "mastodon" else NetworkClass.B


def handle_of(account: Account) -> str:
    """The full handle, as `@tianshan@example.social`."""
    return f"@{account.handle}@{account.server.partition('://')[2].rstrip('/')}"
