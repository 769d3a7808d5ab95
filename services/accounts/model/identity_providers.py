"""Identity providers of enterprises, logins by them, and why a login is refused."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.accounts.model.members import Member
from services.chassis.errors import FieldViolation, Kind, ServiceError, invalid_fields
from services.chassis.names import NamePattern

PROVIDER_NAME = NamePattern("enterprises/{enterprise}/identityProvider")

LOGIN_LIFE = timedelta(minutes=10)
"""How long a login may take from its start to its completion."""

_DOMAIN = re.compile(r"(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)+(?!-)[a-z0-9-]{2,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """
    Where an enterprise's members log in. The client's secret is kept apart.

    Attributes:
        issuer: what the provider calls itself, to the letter.
        client_id: what it knows us as.
        required: whether members log in by it only, OWNERs apart.
        email_domains: of the addresses of members who may log in by it; empty: all.
    """

    enterprise: str
    issuer: str
    client_id: str
    create_time: datetime
    update_time: datetime
    required: bool = False
    email_domains: tuple[str, ...] = ()
    revision: int = 1

    @property
    def name(self) -> str:
        """The resource's name."""
        return provider_name(self.enterprise)

    def updated(
        self,
        now: datetime,
        *,
        issuer: str | None,
        client_id: str | None,
        required: bool | None,
        email_domains: tuple[str, ...] | None,
    ) -> "IdentityProvider":
        """With what is given; None for what stays."""
        return replace(
            self,
            issuer=self.issuer if issuer is None else issuer,
            client_id=self.client_id if client_id is None else client_id,
            required=self.required if required is None else required,
            email_domains=self.email_domains if email_domains is None else email_domains,
            update_time=now,
            revision=self.revision + 1,
        )

    def is_other_than(self, before: "IdentityProvider") -> bool:
        """Whether it knows other users: a provider may tell each client other subjects of the same people."""
        return (self.issuer, self.client_id) != (before.issuer, before.client_id)

    def check_member(self, member: Member) -> None:
        """Raises PERMISSION_DENIED (`EMAIL_DOMAIN_NOT_ALLOWED`) when the member may not log in by it."""
        if self.email_domains and member.email.rpartition("@")[2] not in self.email_domains:
            raise ServiceError(
                Kind.PERMISSION_DENIED,
                "EMAIL_DOMAIN_NOT_ALLOWED",
                "your address is of no domain that may log in by the enterprise's identity provider",
            )


def provider_name(enterprise: str) -> str:
    """The name of an enterprise's provider, whether there is one or not."""
    return f"{enterprise}/identityProvider"


def login_name(enterprise: str, state_hash: bytes) -> str:
    """What the audit trail and the seal of the verifier call a login by the provider."""
    return f"{enterprise}/oidcLogins/{state_hash.hex()}"


def normal_domains(domains: Collection[str]) -> tuple[str, ...]:
    """Domains in the form in which they are compared. Raises INVALID_ARGUMENT (`DOMAIN_MALFORMED`)."""
    normal = {domain.strip().lower() for domain in domains}
    wrong = sorted(domain for domain in normal if not _DOMAIN.fullmatch(domain))
    if wrong:
        raise invalid_fields(
            [FieldViolation("email_domains", "must be domains as tianshan.example", "DOMAIN_MALFORMED")]
        )
    return tuple(sorted(normal))


def provider_missing(enterprise: str) -> ServiceError:
    """The enterprise has no identity provider; or there is no such enterprise."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "IDENTITY_PROVIDER_MISSING",
        f"{enterprise} has no identity provider: log in with address and password",
        metadata={"enterprise": enterprise},
    )


def provider_unavailable(cause: str) -> ServiceError:
    """It does not answer now. `cause` is one of a few words of ours."""
    return ServiceError(
        Kind.UNAVAILABLE,
        "IDENTITY_PROVIDER_UNAVAILABLE",
        f"the enterprise's identity provider does not answer ({cause}): try again",
        metadata={"cause": cause},
        retry_after=timedelta(seconds=5),
    )


def provider_unusable(cause: str) -> ServiceError:
    """What it says is not what an OpenID provider says to us, or we may not ask it. `cause` is one of a few words of ours."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "IDENTITY_PROVIDER_UNUSABLE",
        f"the enterprise's identity provider cannot be used ({cause}): its OWNER has to look at the settings",
        metadata={"cause": cause},
    )


def provider_required() -> ServiceError:
    """The password was right, and is not taken."""
    return ServiceError(
        Kind.PERMISSION_DENIED,
        "IDENTITY_PROVIDER_REQUIRED",
        "your enterprise logs in by its identity provider only: POST /v1/sessions:startOidc",
    )


def login_refused(reason: str, message: str, **metadata: str) -> ServiceError:
    """UNAUTHENTICATED with the reason, for a login by a provider that cannot be completed."""
    return ServiceError(Kind.UNAUTHENTICATED, reason, message, metadata=metadata)


def id_token_invalid(cause: str) -> ServiceError:
    """`cause` is the claim that is wrong, or `signature`."""
    return login_refused(
        "ID_TOKEN_INVALID", f"the identity provider's ID token is not good ({cause})", cause=cause
    )
