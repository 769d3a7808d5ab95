"""Accounts that are bound by invitation: batches, their rows, and how a row gets from one state to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from services.accounts.model.bindings import BindingRefusedError, binding_refused
from services.accounts.model.groups import group_name
from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.names import NamePattern

BATCH_NAME = NamePattern("enterprises/{enterprise}/bindingBatches/{batch}")
ROW_NAME = NamePattern("enterprises/{enterprise}/bindingBatches/{batch}/rows/{row}")

INVITATION_LIFE = timedelta(days=14)
"""How long a link works, when nobody says otherwise."""
_SHORTEST_LIFE, _LONGEST_LIFE = timedelta(minutes=1), timedelta(days=90)


class RowState(StrEnum):
    """How far a row is."""

    INVITED = "INVITED"
    STARTED = "STARTED"
    BOUND = "BOUND"
    REFUSED = "REFUSED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class RowStep(StrEnum):
    """What happens to a row."""

    OPEN = "OPEN"
    BIND = "BIND"
    REFUSE = "REFUSE"
    CANCEL = "CANCEL"
    EXPIRE = "EXPIRE"
    RENEW = "RENEW"


_OPEN = (RowState.INVITED, RowState.STARTED, RowState.REFUSED)

ROW_STEPS: Mapping[tuple[RowState, RowStep], RowState] = {
    **{(state, RowStep.OPEN): RowState.STARTED for state in _OPEN},
    # EXPIRED: what the holder has begun in time is not undone.
    **{
        (state, RowStep.BIND): RowState.BOUND
        for state in (RowState.STARTED, RowState.REFUSED, RowState.EXPIRED)
    },
    (RowState.STARTED, RowStep.REFUSE): RowState.REFUSED,
    (RowState.REFUSED, RowStep.REFUSE): RowState.REFUSED,
    **{(state, RowStep.CANCEL): RowState.CANCELLED for state in (*_OPEN, RowState.EXPIRED)},
    **{(state, RowStep.EXPIRE): RowState.EXPIRED for state in _OPEN},
    **{(state, RowStep.RENEW): RowState.INVITED for state in (*_OPEN, RowState.EXPIRED)},
}
"""All that changes a row; what is not here is refused, or leaves it as it is."""


@dataclass(frozen=True, slots=True)
class BindingBatch:
    """Accounts that are bound together. `creator` is a member or a client."""

    name: str
    display_name: str
    creator: str
    create_time: datetime
    cancel_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class BindingRow:
    """
    One account to be bound.

    Attributes:
        position: its place in the batch, from 1.
        server: the server's base URL, in its normal form.
        group_id: of the group that the account will be in; "" for none.
        note: what the holder is told.
        external_key: what the enterprise calls the row.
        reason: why the last try failed, when it is REFUSED.
        token_hash: SHA-256 of the token in the link.
        revision: grows with every change.
    """

    name: str
    batch: str
    position: int
    network: str
    server: str
    labels: tuple[str, ...]
    group_id: str
    note: str
    external_key: str
    token_hash: bytes
    expire_time: datetime
    update_time: datetime
    state: RowState = RowState.INVITED
    reason: str = ""
    account: str | None = None
    revision: int = 1

    @property
    def group(self) -> str:
        """The name of the group that the account will be in; "" for none."""
        return group_name(self.name, (self.group_id,)) or "" if self.group_id else ""

    def check_open(self, now: datetime) -> None:
        """Raise BindingRefusedError unless the link works."""
        if self.state is RowState.BOUND:
            raise invitation_refused("INVITATION_USED", "the account of this invitation is bound")
        if self.state is RowState.CANCELLED:
            raise invitation_refused("INVITATION_CANCELLED", "this invitation was cancelled: ask for another")
        if self.state is RowState.EXPIRED or self.expire_time <= now:
            raise invitation_refused("INVITATION_EXPIRED", "this invitation has expired: ask for a new link")

    def opened(self, now: datetime) -> Self:
        """The row after its link was opened. Raises BindingRefusedError."""
        self.check_open(now)
        return self._after(RowStep.OPEN, now)

    def bound(self, account: str, now: datetime) -> Self:
        """The row after its account was bound. Raises BindingRefusedError when it was cancelled, bound or renewed meanwhile."""
        if (self.state, RowStep.BIND) not in ROW_STEPS:
            self.check_open(now)
            raise invitation_unknown()
        return replace(self._after(RowStep.BIND, now), account=account)

    def refused(self, reason: str, now: datetime) -> Self:
        """The row after a try failed; itself when nobody was trying."""
        if (self.state, RowStep.REFUSE) not in ROW_STEPS:
            return self
        return replace(self._after(RowStep.REFUSE, now), reason=reason)

    def renewed(self, token_hash: bytes, expire_time: datetime, now: datetime) -> Self:
        """The row with a new link. Raises FAILED_PRECONDITION (`INVITATION_CLOSED`) when it is BOUND or CANCELLED."""
        if (self.state, RowStep.RENEW) not in ROW_STEPS:
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "INVITATION_CLOSED",
                f"the row is {self.state}: only one that is not BOUND or CANCELLED gets a new link",
                metadata={"state": self.state},
            )
        return replace(self._after(RowStep.RENEW, now), token_hash=token_hash, expire_time=expire_time)

    def _after(self, step: RowStep, now: datetime) -> Self:
        state = ROW_STEPS[self.state, step]
        return replace(self, state=state, reason="", update_time=now, revision=self.revision + 1)


def invitation_refused(reason: str, message: str) -> BindingRefusedError:
    """FAILED_PRECONDITION: this invitation does not work (any more)."""
    return binding_refused(reason, message)


def invitation_unknown() -> BindingRefusedError:
    """NOT_FOUND: there is no such invitation, or its link was renewed."""
    return BindingRefusedError(
        Kind.NOT_FOUND, "INVITATION_UNKNOWN", "there is no such invitation, or a newer link took its place"
    )


def check_life(life: timedelta | None, field: str) -> timedelta:
    """How long a link is to work. Raises INVALID_ARGUMENT (`LIFETIME`)."""
    if life is None:
        return INVITATION_LIFE
    if not _SHORTEST_LIFE <= life <= _LONGEST_LIFE:
        raise invalid(field, "must be one minute to 90 days, as 1209600s", reason="LIFETIME")
    return life
