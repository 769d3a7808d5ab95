"""Who a caller is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

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
        session: the id of a member's session; empty for anybody else.
        authenticate_time: when all of this was read, by `store.revocations.read_time`. Without it, any revocation of the
            subject ends the tokens.
    """

    kind: str
    subject: str
    enterprise: str | None = None
    roles: frozenset[Role] = frozenset()
    scopes: frozenset[str] = frozenset()
    grants: Mapping[str, frozenset[str]] = field(default_factory=dict)
    session: str = ""
    authenticate_time: datetime | None = None


def credentials_invalid() -> ServiceError:
    """One answer for whoever cannot log in, whatever the cause."""
    return ServiceError(Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID", "the credentials are not valid")
