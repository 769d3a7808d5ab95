"""The error that services raise."""

from datetime import timedelta

import pytest

from services.chassis.errors import (
    FieldViolation,
    Kind,
    ServiceError,
    etag_mismatch,
    invalid,
    invalid_fields,
    not_found,
)


def test_service_error__keeps_what_the_caller_is_told():
    """An error carries kind, reason, message, metadata, wait and whether anything was committed."""
    error = ServiceError(
        Kind.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
        "come back",
        metadata={"a": "b"},
        retry_after=timedelta(seconds=1),
        before_commit=True,
    )

    assert (error.kind, error.reason, error.message) == (
        Kind.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
        "come back",
    )
    assert error.metadata == {"a": "b"}
    assert error.retry_after == timedelta(seconds=1)
    assert error.before_commit
    assert str(error) == "come back"


def test_service_error__does_not_share_metadata():
    """Two errors without metadata have each their own."""
    one, other = not_found("things/1"), ServiceError(Kind.INTERNAL, "INTERNAL", "")

    one.metadata["x"] = "y"

    assert other.metadata == {}


@pytest.mark.parametrize(
    ("error", "kind", "reason", "mentions"),
    [
        (not_found("enterprises/a"), Kind.NOT_FOUND, "NOT_FOUND", "enterprises/a"),
        (etag_mismatch(), Kind.ABORTED, "ETAG_MISMATCH", "etag"),
        (invalid("name", "must be short"), Kind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "name: must be short"),
    ],
)
def test_helpers__name_the_subject(error, kind, reason, mentions):
    """Each helper gives the right kind and reason, and a message that names what it is about."""
    assert (error.kind, error.reason) == (kind, reason)
    assert mentions in error.message


def test_invalid_fields__tells_all_at_once():
    """All violations are in the error, its message and its metadata."""
    violations = [FieldViolation("a", "must be x"), FieldViolation("b[1]", "must be y", "REQUIRED")]

    error = invalid_fields(violations)

    assert error.violations == tuple(violations)
    assert error.message == "a: must be x; b[1]: must be y"
    assert error.metadata == {"fields": "a,b[1]"}
