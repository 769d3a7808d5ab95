"""Accounts of networks: states and what changes them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from services.chassis.names import NamePattern

ACCOUNT_NAME = NamePattern("enterprises/{enterprise}/accounts/{account}")


class AccountState(StrEnum):
    """Whether we can act for an account."""

    ACTIVE = "ACTIVE"
    REAUTH_REQUIRED = "REAUTH_REQUIRED"
    REVOKED = "REVOKED"


class AccountStep(StrEnum):
    """What happens to an account: its holder agrees, its network refuses our token, the enterprise lets go of it."""

    AUTHORIZE = "AUTHORIZE"
    REFUSE = "REFUSE"
    UNBIND = "UNBIND"


ACCOUNT_STEPS: Mapping[tuple[AccountState, AccountStep], AccountState] = {
    (AccountState.ACTIVE, AccountStep.AUTHORIZE): AccountState.ACTIVE,
    (AccountState.REAUTH_REQUIRED, AccountStep.AUTHORIZE): AccountState.ACTIVE,
    (AccountState.REVOKED, AccountStep.AUTHORIZE): AccountState.ACTIVE,
    (AccountState.ACTIVE, AccountStep.REFUSE): AccountState.REAUTH_REQUIRED,
    (AccountState.ACTIVE, AccountStep.UNBIND): AccountState.REVOKED,
    (AccountState.REAUTH_REQUIRED, AccountStep.UNBIND): AccountState.REVOKED,
}
"""All that changes an account; what is not here leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a network says about an account and about itself. Ids are opaque; software is in lower case."""

    network_account_id: str
    handle: str
    display_name: str
    software: str
    software_version: str


@dataclass(frozen=True, slots=True)
class Account:
    """
    An account of a network, bound to an enterprise.

    Attributes:
        server: the server's base URL, in its normal form.
        authorize_time: when its holder last agreed.
        revision: grows with every change.
    """

    name: str
    network: str
    server: str
    profile: Profile
    labels: tuple[str, ...]
    create_time: datetime
    update_time: datetime
    authorize_time: datetime
    state: AccountState = AccountState.ACTIVE
    revision: int = 1

    def authorized(self, profile: Profile, labels: tuple[str, ...], now: datetime) -> Self:
        """The account after its holder agreed again; without `labels` it keeps those that it has."""
        return replace(
            self._after(AccountStep.AUTHORIZE, now),
            profile=profile,
            labels=labels or self.labels,
            authorize_time=now,
        )

    def refused(self, now: datetime, *, told: datetime) -> Self:
        """
        The account after its network refused our token at the time `told`.

        Itself when that changes nothing: it is not ACTIVE, or its holder has agreed since.
        """
        late = told < self.authorize_time
        return self if late else self._after(AccountStep.REFUSE, now)

    def unbound(self, now: datetime) -> Self:
        """The account after the enterprise let go of it; itself when it had before."""
        return self._after(AccountStep.UNBIND, now)

    def _after(self, step: AccountStep, now: datetime) -> Self:
        state = ACCOUNT_STEPS.get((self.state, step))
        if state is None:
            return self
        return replace(self, state=state, update_time=now, revision=self.revision + 1)
