"""Freezes: what must not be sent for now, and who may say so."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from services.chassis.errors import FieldViolation, Kind, ServiceError, invalid_fields
from services.chassis.names import NamePattern
from services.publishing.model.accounts import ACCOUNT
from services.publishing.model.deliveries import Delivery, DeliveryState, request_cancel

FREEZE = NamePattern("enterprises/{enterprise}/freezes/{freeze}")
GROUP = NamePattern("enterprises/{enterprise}/accountGroups/{group}")

FROZEN = "FROZEN"
"""Why a delivery is held, or was cancelled."""


class OnLift(StrEnum):
    """What becomes of that which waited, when a freeze is lifted."""

    SEND = "SEND"
    CANCEL = "CANCEL"


@dataclass(frozen=True, slots=True)
class Freeze:
    """
    An order to send nothing from some accounts.

    Attributes:
        target: the name of an account, of a group of accounts, or the enterprise's own.
        by_platform: whether an operator set it; then only operators lift it.
        expire_time: when it is lifted by itself; None for never.
        lifter: who lifted it; empty if nobody has, or its time did.
        lift_time: None while it is in force.

    """

    name: str
    enterprise: str
    target: str
    reason: str
    on_lift: OnLift
    creator: str
    by_platform: bool
    create_time: datetime
    expire_time: datetime | None = None
    lifter: str = ""
    lift_time: datetime | None = None

    @property
    def group_id(self) -> str | None:
        """The id of the group that is frozen; None if the target is no group."""
        return GROUP.parse(self.target)["group"] if GROUP.matches(self.target) else None


@dataclass(frozen=True, slots=True)
class InFlight:
    """A delivery that is SENDING or UNCONFIRMED, since when, and its account."""

    delivery: str
    account: str
    state: DeliveryState
    since: datetime


def check(freeze: Freeze) -> None:
    """
    Refuse a freeze that cannot mean anything, with all wrong fields at once.

    Raises:
        ServiceError: INVALID_ARGUMENT.

    """
    wrong: list[FieldViolation] = []
    own = freeze.target == freeze.enterprise or (
        freeze.target.startswith(f"{freeze.enterprise}/")
        and (ACCOUNT.matches(freeze.target) or GROUP.matches(freeze.target))
    )
    if not own:
        wrong.append(
            FieldViolation(
                "freeze.target",
                f"must be one of account ({ACCOUNT.pattern}) and account_group ({GROUP.pattern}), of the same "
                "enterprise, or whole_enterprise: true",
                "TARGET_MALFORMED",
            )
        )
    if not freeze.reason.strip():
        wrong.append(FieldViolation("freeze.reason", "must not be empty", "TEXT_EMPTY"))
    if freeze.expire_time is not None and freeze.expire_time <= freeze.create_time:
        wrong.append(
            FieldViolation(
                "freeze.expire_time", "must not be past; leave it out to freeze until you lift it", "PAST"
            )
        )
    if wrong:
        raise invalid_fields(wrong)


def lift(freeze: Freeze, lifter: str, now: datetime, *, by_platform: bool) -> Freeze:
    """
    The freeze, no longer in force.

    Raises:
        ServiceError: PERMISSION_DENIED `FREEZE_OF_PLATFORM`.

    """
    if freeze.by_platform and not by_platform:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "FREEZE_OF_PLATFORM",
            f"{freeze.name} was set by the platform's operators: only they lift it",
            metadata={"name": freeze.name},
        )
    return replace(freeze, lifter=lifter, lift_time=now)


def cancel_held(delivery: Delivery, now: datetime) -> Delivery:
    """What became due while it was held, after the lifting of a freeze that cancels; see `request_cancel`."""
    return replace(request_cancel(delivery, now), reason=FROZEN)
