"""Enterprises and their verification."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from services.chassis.errors import FieldViolation, Kind, ServiceError, invalid_fields
from services.chassis.names import NamePattern

ENTERPRISE_NAME = NamePattern("enterprises/{enterprise}")
REVIEW_NOTE_NAME = NamePattern("enterprises/{enterprise}/reviewNotes/{review_note}")

MOST_ATTRIBUTES = 32
"""How many attributes operators can give an enterprise."""

_ATTRIBUTE_LENGTH = 200
_ATTRIBUTE_KEY = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RESERVED = frozenset(
    {"verified", "enterprise", "industry", "region", "tier", "bucket", "admissions", "targetingkey"}
)


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
    RESTORE = "RESTORE"


VERIFICATION_STEPS: Mapping[tuple[Verification, VerificationStep], Verification] = {
    (Verification.NOT_REQUESTED, VerificationStep.REQUEST): Verification.PENDING,
    (Verification.REJECTED, VerificationStep.REQUEST): Verification.PENDING,
    (Verification.REVOKED, VerificationStep.REQUEST): Verification.PENDING,
    (Verification.PENDING, VerificationStep.VERIFY): Verification.VERIFIED,
    (Verification.PENDING, VerificationStep.REJECT): Verification.REJECTED,
    (Verification.VERIFIED, VerificationStep.REVOKE): Verification.REVOKED,
    (Verification.REVOKED, VerificationStep.RESTORE): Verification.VERIFIED,
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
        tier: what operators call it; may be empty.
        attributes: what operators say of it, for the audiences of rollouts. Cannot be changed.
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
    tier: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def after(self, step: VerificationStep, *, note: str, now: datetime) -> Self:
        """
        The enterprise after `step`.

        Raises FAILED_PRECONDITION (`VERIFICATION_STATE`) when its verification does not allow it.
        """
        verification = VERIFICATION_STEPS.get((self.verification, step))
        if verification is None:
            possible = ", ".join(able for state, able in VERIFICATION_STEPS if state is self.verification)
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "VERIFICATION_STATE",
                f"{step} is not possible while the verification of {self.name} is {self.verification}; what is: {possible}",
                metadata={
                    "step": step,
                    "name": self.name,
                    "verification": self.verification,
                    "possible": possible,
                },
            )
        return replace(
            self,
            verification=verification,
            verification_note=note,
            update_time=now,
            revision=self.revision + 1,
        )


@dataclass(frozen=True, slots=True)
class ReviewNote:
    """What an operator (`author`) wrote on an enterprise for other operators."""

    name: str
    author: str
    text: str
    create_time: datetime


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Raises INVALID_ARGUMENT, naming each attribute that cannot be: its key, or the length of its value."""
    violations = [
        FieldViolation(
            f"attributes[{key}]",
            f"the key must be a word of a-z, 0-9 and _, and none that we set; the value at most {_ATTRIBUTE_LENGTH} characters",
        )
        for key, value in sorted(attributes.items())
        if not _ATTRIBUTE_KEY.fullmatch(key) or key in _RESERVED or len(value) > _ATTRIBUTE_LENGTH
    ]
    if len(attributes) > MOST_ATTRIBUTES:
        violations.append(FieldViolation("attributes", f"at most {MOST_ATTRIBUTES}"))
    if violations:
        raise invalid_fields(violations)
