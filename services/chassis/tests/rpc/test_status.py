"""Errors travel as google.rpc.Status and come back as what they were."""

from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb

from services.chassis.errors import (
    FieldViolation,
    Kind,
    ServiceError,
    etag_mismatch,
    invalid_fields,
    not_found,
)
from services.chassis.rpc import pipeline
from services.chassis.rpc.status import DOMAIN, MAX_VIOLATIONS, error_from_rpc, status_of
from services.chassis.testing.rpc import member, serving

FULL = ServiceError(
    Kind.FAILED_PRECONDITION,
    "THING_NOT_DRAFT",
    "the thing is LIVE",
    metadata={"name": "enterprises/a/things/t", "state": "LIVE"},
)
QUOTA = ServiceError(
    Kind.RESOURCE_EXHAUSTED, "TOO_MANY_THINGS", "at most 5 things", retry_after=timedelta(seconds=30)
)
AWAY = ServiceError(
    Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away", retry_after=timedelta(milliseconds=1500)
)


def _detail(error, kind):
    for packed in status_of(error).details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    return None


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (FULL, {"ErrorInfo", "PreconditionFailure"}),
        (QUOTA, {"ErrorInfo", "QuotaFailure", "RetryInfo"}),
        (AWAY, {"ErrorInfo", "RetryInfo"}),
        (not_found("enterprises/a/things/t"), {"ErrorInfo", "ResourceInfo"}),
        (invalid_fields([FieldViolation("a", "b")]), {"ErrorInfo", "BadRequest"}),
        (etag_mismatch(), {"ErrorInfo"}),
        (ServiceError(Kind.PERMISSION_DENIED, "ROLE_MISSING", ""), {"ErrorInfo"}),
    ],
)
def test_status__has_the_details_that_help(error, kinds):
    """Each kind of error comes with ErrorInfo and with what its callers can use, at most one of each."""
    names = [packed.TypeName().rpartition(".")[2] for packed in status_of(error).details]

    assert sorted(names) == sorted(kinds)
    info = _detail(error, details_pb.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == (error.reason, DOMAIN, error.metadata)
    assert status_of(error).code == error.kind.value


def test_status__details_name_the_resource_and_the_wait():
    """The details repeat the resource's name and type, and the wait."""
    assert _detail(FULL, details_pb.PreconditionFailure).violations[0].subject == "enterprises/a/things/t"
    resource = _detail(not_found("enterprises/a/things/t"), details_pb.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("things", "enterprises/a/things/t")
    assert _detail(AWAY, details_pb.RetryInfo).retry_delay.ToTimedelta() == timedelta(milliseconds=1500)
    unspecified = ServiceError(Kind.UNAVAILABLE, "AWAY", "")
    assert _detail(unspecified, details_pb.RetryInfo).retry_delay.ToTimedelta() == timedelta(seconds=1)


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        QUOTA,
        AWAY,
        not_found("enterprises/a/things/t"),
        invalid_fields([FieldViolation("a[1].b", "必须", "REQUIRED")]),
        etag_mismatch(),
    ],
)
def test_error__survives_the_journey(greeter, offer, error):
    """What a handler raises is what the caller's code gets, over a real connection."""

    def refuse(request, context):
        raise error

    with serving(offer(GetThing=refuse)) as running:
        stub = greeter.grpc.GreeterServiceStub(running.as_(member("enterprises/a")))
        with pytest.raises(grpc.RpcError) as failed:
            stub.GetThing(greeter.pb.GetThingRequest(name="enterprises/a/things/t"), timeout=10)

    got = error_from_rpc(failed.value)
    assert (got.kind, got.reason, got.message, got.metadata, got.violations, got.retry_after) == (
        error.kind, error.reason, error.message, error.metadata, error.violations, error.retry_after,
    )  # fmt: skip


def test_error__with_more_than_headers_hold_still_arrives(greeter, offer):
    """A thousand violations with long texts do not break the call: as many as fit are told."""
    error = invalid_fields([FieldViolation(f"field[{number}]" * 5, "要" * 2000) for number in range(1000)])

    def refuse(request, context):
        raise error

    with serving(offer(GetThing=refuse)) as running:
        stub = greeter.grpc.GreeterServiceStub(running.as_(member("enterprises/a")))
        with pytest.raises(grpc.RpcError) as failed:
            stub.GetThing(greeter.pb.GetThingRequest(name="enterprises/a/things/t"))

    got = error_from_rpc(failed.value)
    assert got.kind is Kind.INVALID_ARGUMENT
    assert 1 <= len(got.violations) <= MAX_VIOLATIONS


def test_unforeseen__tells_nothing_and_is_logged_once_with_its_trace(greeter, offer, monkeypatch):
    """A bug is INTERNAL without its text; the log has the text and the trace, once."""
    logged = []
    monkeypatch.setattr(
        pipeline._log,
        "error",
        lambda event, **data: logged.append(
            (event, data, pipeline.trace.get_current_span().get_span_context())
        ),
        raising=False,
    )

    def crash(request, context):
        raise KeyError("hunter2")

    with serving(offer(GetThing=crash)) as running:
        stub = greeter.grpc.GreeterServiceStub(running.as_(member("enterprises/a")))
        with pytest.raises(grpc.RpcError) as failed:
            stub.GetThing(greeter.pb.GetThingRequest(name="enterprises/a/things/t"))

    got = error_from_rpc(failed.value)
    assert (got.kind, got.reason) == (Kind.INTERNAL, "INTERNAL")
    assert "hunter2" not in str(failed.value)
    ((event, data, span),) = logged
    assert event == "call.failed"
    assert isinstance(data["exc_info"], KeyError)
    assert span.is_valid
