"""What a failure of the database means to a caller."""

from datetime import timedelta

import psycopg
from psycopg import errors

from services.chassis.errors import Kind, ServiceError

_SOON = timedelta(seconds=1)


def unavailable(*, before_commit: bool = True) -> ServiceError:
    """The database cannot be reached, or the connection to it was lost."""
    outcome = (
        "nothing was changed" if before_commit else "whether the change was made is unknown: read it back"
    )
    return ServiceError(
        Kind.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
        f"the database cannot be reached; {outcome}",
        retry_after=_SOON,
        before_commit=before_commit,
    )


def translate(error: psycopg.Error, *, lost: bool, committing: bool = False) -> ServiceError | None:
    """
    The ServiceError that `error` means, or None when it is no failure of the database (a constraint, a bug).

    Args:
        error: what psycopg raised.
        lost: whether the connection is gone.
        committing: whether it happened during COMMIT. When the connection is gone as well, the outcome is
            unknown.

    """
    match error:
        case _ if lost:
            return unavailable(before_commit=not committing)
        case errors.SerializationFailure() | errors.DeadlockDetected():
            return ServiceError(
                Kind.ABORTED,
                "TRANSACTION_CONFLICT",
                "another change of the same data was made at the same time; repeat the call",
                retry_after=timedelta(),
                before_commit=True,
            )
        case errors.LockNotAvailable():
            return ServiceError(
                Kind.UNAVAILABLE,
                "DATABASE_BUSY",
                "another change of the same data takes too long; nothing was changed",
                retry_after=_SOON,
                before_commit=True,
            )
        case errors.QueryCanceled():
            return ServiceError(
                Kind.DEADLINE_EXCEEDED,
                "DATABASE_TIMEOUT",
                "the database did not answer in time; nothing was changed",
                before_commit=True,
            )
        # A read-only server is a standby that was the primary a moment ago.
        case psycopg.OperationalError() | psycopg.InterfaceError() | errors.ReadOnlySqlTransaction():
            return unavailable()
        case _:
            return None
