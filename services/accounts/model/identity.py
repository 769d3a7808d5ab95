"""Who a caller is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.accounts.model.members import Role
from services.chassis.errors import Kind, ServiceError


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Who a caller is, for the gateway's principal.

    Attributes:
        kind: MEMBER, CLIENT or OPERATOR.
        enterprise: None for an operator.
        grants: roles and scopes that hold only for some groups of accounts, with the groups' ids.
    """

    kind: str
    subject: str
    enterprise: str | None = None
    roles: frozenset[Role] = frozenset()
    scopes: frozenset[str] = frozenset()
    grants: Mapping[str, frozenset[str]] = field(default_factory=dict)


def credentials_invalid() -> ServiceError:
    """One answer for whoever cannot log in, whatever the cause."""
    return ServiceError(Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID", "the credentials are not valid")
