"""Invitations to become a member."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from services.accounts.model.members import Role
from services.chassis.errors import Kind, ServiceError
from services.chassis.names import NamePattern

MEMBER_INVITATION_NAME = NamePattern("enterprises/{enterprise}/memberInvitations/{member_invitation}")

INVITATION_LIFE = timedelta(days=7)
"""How long an invitation can be accepted."""


@dataclass(frozen=True, slots=True)
class MemberInvitation:
    """
    An invitation that is open.

    Attributes:
        inviter: the member who invites. It ends with that member's role.
    """

    name: str
    email: str
    role: Role
    inviter: str
    create_time: datetime

    @property
    def expire_time(self) -> datetime:
        """When it stops working."""
        return self.create_time + INVITATION_LIFE


def invitation_invalid() -> ServiceError:
    """One answer for every token that is not good, whatever the cause."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "INVITATION_INVALID",
        "the invitation is unknown, was accepted, revoked or has expired: ask for another one",
    )
