"""Enterprises and their verification."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from services.chassis.errors import Kind, ServiceError
from services.chassis.names import NamePattern

ENTERPRISE_NAME = NamePattern("enterprises/{enterprise}")


class Verification(StrEnum):
    """How far we know that an enterprise is who it says."""

    NOT_REQUESTED = "NOT_REQUESTED"
    PENDING = "PENDING"
    VERIFIED = "VERIFIED"
    REJECTED = "REJECTED"
    REVOKED = "REVOKED"


class VerificationStep(StrEnum):
    """What the enterprise (REQUEST) or an operator does about its verification."""

    REQUEST = "REQUEST"
    VERIFY = "VERIFY"
    REJECT = "REJECT"
    REVOKE = "REVOKE"


VERIFICATION_STEPS: Mapping[tuple[Verification, VerificationStep], Verification] = {
    (Verification.NOT_REQUESTED, VerificationStep.REQUEST): Verification.PENDING,
    (Verification.REJECTED, VerificationStep.REQUEST): Verification.PENDING,
    (Verification.REVOKED, VerificationStep.REQUEST): Verification.PENDING,
    (Verification.PENDING, VerificationStep.VERIFY): Verification.VERIFIED,
    (Verification.PENDING, VerificationStep.REJECT): Verification.REJECTED,
    (Verification.VERIFIED, VerificationStep.REVOKE): Verification.REVOKED,
}
"""All that may happen; what is not here is refused."""


@dataclass(frozen=True, slots=True)
class Enterprise:
    """
    A company, the tenant.

    Attributes:
        verification_note: what the operator who decided last wrote to it.
        revision: grows with every change.
        second_factor_required: whether every member needs a second factor.
    """

    name: str
    display_name: str
    industry: str
    region: str
    create_time: datetime
    update_time: datetime
    verification: Verification = Verification.NOT_REQUESTED
    verification_note: str = ""
    revision: int = 1
    second_factor_required: bool = False

    def after(self, step: VerificationStep, *, note: str, now: datetime) -> Self:
        """
        The enterprise after `step`.

        Raises FAILED_PRECONDITION (`VERIFICATION_STATE`) when its verification does not allow it.
        """
        verification = VERIFICATION_STEPS.get((self.verification, step))
        if verification is None:
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "VERIFICATION_STATE",
                f"{step} is not possible while the verification of {self.name} is {self.verification}",
                metadata={"step": step, "name": self.name, "verification": self.verification},
            )
        return replace(
            self,
            verification=verification,
            verification_note=note,
            update_time=now,
            revision=self.revision + 1,
        )
