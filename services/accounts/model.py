"""The rules of accounts: states and their transitions, roles, scopes, addresses. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

from services.chassis.errors import Kind, ServiceError, etag_mismatch, invalid
from services.chassis.names import NamePattern

ENTERPRISE_NAME = NamePattern("enterprises/{enterprise}")
MEMBER_NAME = NamePattern("enterprises/{enterprise}/members/{member}")
CLIENT_NAME = NamePattern("enterprises/{enterprise}/clients/{client}")
ACCOUNT_NAME = NamePattern("enterprises/{enterprise}/accounts/{account}")

BINDING_LIFE = timedelta(minutes=10)
"""How long a binding may take from its start to its completion."""

PASSWORD_LENGTH = 12
"""The fewest characters of a password."""


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


class Role(StrEnum):
    """What a member may do, from widest to narrowest."""

    OWNER = "OWNER"
    ADMIN = "ADMIN"
    EDITOR = "EDITOR"
    RESPONDER = "RESPONDER"
    ANALYST = "ANALYST"


@dataclass(frozen=True, slots=True)
class Member:
    """A person who works for an enterprise. The address is in lower case, and unique over all enterprises."""

    name: str
    email: str
    display_name: str
    role: Role
    create_time: datetime


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


CLIENT_SCOPES = frozenset(
    {
        "accounts.read",
        "accounts.write",
        "analytics.read",
        "audiences.read",
        "audiences.write",
        "campaigns.read",
        "campaigns.write",
        "engagements.write",
        "interactions.read",
        "interactions.write",
        "pages.read",
        "pages.write",
        "publications.read",
        "publications.write",
        "registrations.read",
    }
)
"""What an enterprise may let its apps do."""

NETWORK_SCOPES = frozenset({"decisions.read", "exposures.write", "profiles.write"})
"""What only the network itself may do: it concerns people, not one enterprise."""


def check_scopes(scopes: frozenset[str]) -> None:
    """Raises INVALID_ARGUMENT (`SCOPE_UNKNOWN`) for a scope that an enterprise cannot give."""
    unknown = sorted(scopes - CLIENT_SCOPES)
    if unknown:
        raise invalid(
            "scopes",
            f"{', '.join(unknown)}: no scope for partner apps, which are {', '.join(sorted(CLIENT_SCOPES))}",
            reason="SCOPE_UNKNOWN",
        )


@dataclass(frozen=True, slots=True)
class Client:
    """A partner app of an enterprise. The last part of its name is its OAuth2 client id."""

    name: str
    display_name: str
    scopes: frozenset[str]
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Who a caller is, for the gateway's principal.

    Attributes:
        kind: MEMBER, CLIENT or OPERATOR.
        enterprise: None for an operator.
    """

    kind: str
    subject: str
    enterprise: str | None = None
    roles: frozenset[Role] = frozenset()
    scopes: frozenset[str] = frozenset()


def credentials_invalid() -> ServiceError:
    """One answer for whoever cannot log in, whatever the cause."""
    return ServiceError(Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID", "the credentials are not valid")


def email_taken() -> ServiceError:
    """Somebody logs in with the address already, here or in another enterprise."""
    return ServiceError(
        Kind.ALREADY_EXISTS, "EMAIL_TAKEN", "somebody logs in with this address already: use another one"
    )


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


def check_etag(given: str, revision: int) -> None:
    """Raises ABORTED (`ETAG_MISMATCH`) when a caller gave an etag and it is not that of `revision`."""
    if given and given != etag_of(revision):
        raise etag_mismatch()


def etag_of(revision: int) -> str:
    """The etag of a resource's revision."""
    return f"r{revision}"


class BindingRefusedError(ServiceError):
    """A binding cannot be completed. Each is written to the audit trail."""


def binding_refused(reason: str, message: str, **metadata: str) -> BindingRefusedError:
    """FAILED_PRECONDITION with the reason; the message says what to do instead."""
    return BindingRefusedError(Kind.FAILED_PRECONDITION, reason, message, metadata=metadata)


def account_bound_elsewhere() -> BindingRefusedError:
    """Another enterprise acts for the account. Which one, nobody is told."""
    return BindingRefusedError(
        Kind.ALREADY_EXISTS,
        "ACCOUNT_BOUND_ELSEWHERE",
        "another enterprise acts for this account: it has to unbind it first",
    )


def normal_server(server: str) -> str:
    """
    A server's base URL in the one form in which it is compared and kept: scheme and host, port when it is not the
    scheme's own, no path. Raises INVALID_ARGUMENT (`SERVER_MALFORMED`).
    """
    try:
        parts = urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in _PORTS or parts.path not in {"", "/"} or _has_more(server):
        raise invalid(
            "server", "must be a server's base URL, as https://social.example", reason="SERVER_MALFORMED"
        )
    literal = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{literal}" + ("" if port in {None, _PORTS[parts.scheme]} else f":{port}")


_PORTS = {"http": 80, "https": 443}


def _has_more(server: str) -> bool:
    """Whether there is a user, a query, a fragment or white space, of which a base URL has none."""
    return any(mark in server for mark in "@?#\\") or not server.isprintable() or " " in server
