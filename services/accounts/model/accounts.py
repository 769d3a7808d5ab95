"""Accounts of networks: states and what changes them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from services.accounts.model.groups import Path, group_name
from services.chassis.errors import invalid
from services.chassis.names import NamePattern

ACCOUNT_NAME = NamePattern("enterprises/{enterprise}/accounts/{account}")

MOST_LABELS = 20
"""How many labels an account can carry."""


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
        path: the ids of the groups that it is in, the root first, its own last.
        token_expire_time: when our token stops working, and its holder has to agree again; None: never, as far as the network
            says, or because we refresh the token ourselves, or we have none.
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
    token_expire_time: datetime | None = None
    path: Path = ()

    @property
    def group(self) -> str | None:
        """The name of the group that it is in."""
        return group_name(self.name, self.path)

    def placed(self, path: Path, now: datetime) -> Self:
        """The account in another group, or in none; itself when it is there already."""
        if path == self.path:
            return self
        return replace(self, path=path, update_time=now, revision=self.revision + 1)

    def labelled(self, labels: Iterable[str], now: datetime) -> Self:
        """The account with these labels and no other; itself when it has them. Raises INVALID_ARGUMENT (`TOO_MANY`)."""
        wanted = tuple(dict.fromkeys(labels))
        if len(wanted) > MOST_LABELS:
            raise invalid("labels", f"an account carries at most {MOST_LABELS} labels", reason="TOO_MANY")
        if wanted == self.labels:
            return self
        return replace(self, labels=wanted, update_time=now, revision=self.revision + 1)

    def authorized(
        self,
        profile: Profile,
        labels: tuple[str, ...],
        now: datetime,
        *,
        token_expire_time: datetime | None = None,
    ) -> Self:
        """The account after its holder agreed again; without `labels` it keeps those that it has."""
        return replace(
            self._after(AccountStep.AUTHORIZE, now),
            profile=profile,
            labels=labels or self.labels,
            authorize_time=now,
            token_expire_time=token_expire_time,
        )

    def refreshed(self, now: datetime) -> Self:
        """The account after its network gave us the next token; itself where it was thought to work all the while."""
        if self.state is not AccountState.REAUTH_REQUIRED:
            return self
        return self._after(AccountStep.AUTHORIZE, now)

    def refused(self, now: datetime, *, told: datetime) -> Self:
        """
        The account after its network refused our token at the time `told`.

        Itself when that changes nothing: it is not ACTIVE, or its holder has agreed since.
        """
        late = told < self.authorize_time
        return self if late else self._after(AccountStep.REFUSE, now)

    def unbound(self, now: datetime) -> Self:
        """The account after the enterprise let go of it; itself when it had before."""
        after = self._after(AccountStep.UNBIND, now)
        return after if after is self else replace(after, token_expire_time=None)

    def _after(self, step: AccountStep, now: datetime) -> Self:
        state = ACCOUNT_STEPS.get((self.state, step))
        if state is None:
            return self
        return replace(self, state=state, update_time=now, revision=self.revision + 1)
