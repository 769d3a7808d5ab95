"""The one kind of error that services raise on purpose. Knows no transport; `rpc` translates it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum


class Kind(Enum):
    """What a caller can do about an error; the values are the numbers of `google.rpc.Code`."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """
    One field of a request that is wrong: its path (`variants[2].text`), what would be right, and a reason
    code.
    """

    field: str
    description: str
    reason: str = "INVALID"


class ServiceError(Exception):
    """
    A failure that the caller is told about.

    Attributes:
        kind: what the caller can do about it.
        reason: UPPER_SNAKE and stable; callers branch on it. All reasons are listed in docs/errors.md.
        message: for developers: names the field and the fix. Never a secret, never a person's text.
        metadata: every value that the message mentions, by a lowerCamel or lower_snake key.
        violations: all wrong fields at once, for INVALID_ARGUMENT.
        retry_after: how long to wait before another try can succeed; None when waiting does not help or is
            unknown.
        before_commit: True when it is certain that nothing was committed, so that the same call may be made
            again.
    """

    def __init__(
        self,
        kind: Kind,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: timedelta | None = None,
        before_commit: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.before_commit = before_commit

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind.name}, {self.reason}, {self.message!r})"


def not_found(name: str) -> ServiceError:
    """The resource does not exist, or belongs to somebody else: the caller cannot tell which."""
    return ServiceError(
        Kind.NOT_FOUND, "NOT_FOUND", f"{name} does not exist or is not yours", metadata={"name": name}
    )


def invalid(field: str, description: str, *, reason: str = "INVALID") -> ServiceError:
    """One field is wrong; `description` says what would be right."""
    return invalid_fields([FieldViolation(field, description, reason)])


def invalid_fields(violations: Sequence[FieldViolation]) -> ServiceError:
    """Several fields are wrong; the caller is told of all of them at once."""
    return ServiceError(
        Kind.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        "; ".join(f"{each.field}: {each.description}" for each in violations),
        metadata={"fields": ",".join(each.field for each in violations)},
        violations=violations,
    )


def etag_mismatch() -> ServiceError:
    """Somebody else changed the resource since the caller read it."""
    return ServiceError(
        Kind.ABORTED, "ETAG_MISMATCH", "etag is stale: read the resource again and repeat the change on it"
    )
