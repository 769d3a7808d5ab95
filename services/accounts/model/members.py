"""Members, and what roles may give."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.names import NamePattern

MEMBER_NAME = NamePattern("enterprises/{enterprise}/members/{member}")

PASSWORD_LENGTH = 12
"""The fewest characters of a password."""


class Role(StrEnum):
    """What a member may do, from widest to narrowest."""

    OWNER = "OWNER"
    ADMIN = "ADMIN"
    EDITOR = "EDITOR"
    RESPONDER = "RESPONDER"
    ANALYST = "ANALYST"
    LIMITED = "LIMITED"
    """Nothing but one's own membership; grants give the rest, in groups of accounts."""


@dataclass(frozen=True, slots=True)
class Member:
    """
    A person who works for an enterprise. The address is in lower case, and unique over all enterprises.

    Attributes:
        totp_enabled: whether each login needs a second factor.
        revision: grows with every change of name or role.
    """

    name: str
    email: str
    display_name: str
    role: Role
    create_time: datetime
    totp_enabled: bool = False
    revision: int = 1


def normal_email(email: str) -> str:
    """The form in which addresses are compared and kept."""
    return email.strip().lower()


def check_password(password: str, field: str) -> None:
    """Raises INVALID_ARGUMENT (`PASSWORD_TOO_SHORT`), naming `field`."""
    if len(password) < PASSWORD_LENGTH:
        raise invalid(field, f"must have at least {PASSWORD_LENGTH} characters", reason="PASSWORD_TOO_SHORT")


def check_grant(granter: frozenset[str], role: Role) -> None:
    """Raises PERMISSION_DENIED (`ROLE_TOO_WIDE`) when somebody with the roles `granter` may not give `role`."""
    if role is Role.OWNER and Role.OWNER not in granter:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "ROLE_TOO_WIDE",
            f"only an OWNER may give the role {role}",
            metadata={"role": role},
        )


def last_owner(name: str) -> ServiceError:
    """An enterprise without an OWNER would be nobody's."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "LAST_OWNER",
        f"{name} is the last OWNER: make somebody else one first",
        metadata={"name": name},
    )


def email_taken() -> ServiceError:
    """Somebody logs in with the address already, here or in another enterprise."""
    return ServiceError(
        Kind.ALREADY_EXISTS, "EMAIL_TAKEN", "somebody logs in with this address already: use another one"
    )
