"""What a handler can rely on: its call's context, time, streams, and one more try when the database went away."""

import itertools
import threading
import time

import grpc
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.chassis.database.transaction import CALLER
from services.chassis.deadline import current_deadline
from services.chassis.errors import Kind, ServiceError
from services.chassis.rpc.call import current_call
from services.chassis.rpc.pipeline import MESSAGE_BYTES
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.rpc import member, metadata_of, serving, telemetry

NAME = "enterprises/a/things/t"
MEMBER = member("enterprises/a")
LOST = ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away", before_commit=True)


@pytest.fixture
def running(offer):
    """Starts a server with the given methods: `running(GetThing=…)`; stopped with the test."""
    opened = []

    def start(**methods):
        context = serving(offer(**methods))
        opened.append(context)
        return context.__enter__()

    yield start
    for context in reversed(opened):
        context.__exit__(None, None, None)


@pytest.fixture
def stub(running, greeter):
    """Starts a server and gives a member's stub of it: `stub(GetThing=…)`."""
    return lambda **methods: greeter.grpc.GreeterServiceStub(running(**methods).as_(MEMBER))


@pytest.fixture
def get(greeter):
    """A request for a thing."""
    return greeter.pb.GetThingRequest(name=NAME)


def test_call__is_known_to_the_handler_and_what_it_calls(stub, greeter, get):
    """Principal, method, request id, time, caller and log context are there without being passed on."""
    seen = []

    def handler(request, context):
        call = current_call()
        seen.append(
            (
                call.principal,
                call.method,
                call.request_id,
                CALLER.get(),
                structlog.contextvars.get_contextvars(),
            )
        )
        seen.append((call.remaining(), current_deadline().remaining()))
        return greeter.pb.Thing()

    stub(GetThing=handler).GetThing(get, timeout=3, metadata=(("x-request-id", "r-1"),))

    principal, method, request_id, caller, bound = seen[0]
    assert principal == MEMBER
    assert method == "numerator.chassistest.v1.GreeterService/GetThing"
    assert request_id == "r-1"
    assert caller == MEMBER.subject
    assert bound == {"request_id": "r-1", "enterprise": "enterprises/a"}
    assert all(2 < rest <= 3 for rest in seen[1])


@pytest.mark.parametrize("chosen", ["", "x" * 129, "with space", '{"x":1}'])
def test_call__makes_its_own_request_id_when_the_chosen_one_is_no_id(stub, greeter, get, chosen):
    """A request id that could not stand in a log line is replaced."""
    seen = []

    def handler(request, context):
        seen.append(current_call().request_id)
        return greeter.pb.Thing()

    stub(GetThing=handler).GetThing(get, metadata=(("x-request-id", chosen),))

    assert len(seen[0]) == 26


def test_call__does_not_leak_into_the_next_one(running, greeter, get):
    """Two callers on the same threads see each its own call."""

    def handler(request, context):
        return greeter.pb.Thing(text=current_call().principal.subject)

    server = running(GetThing=handler)
    stubs = [
        greeter.grpc.GreeterServiceStub(
            server.as_(member("enterprises/a", subject=f"enterprises/a/members/m{number}"))
        )
        for number in range(3)
    ]

    answers = [stub.GetThing(get).text for _ in range(20) for stub in stubs]

    assert answers == [f"enterprises/a/members/m{number}" for number in range(3)] * 20
    with pytest.raises(LookupError):
        current_call()


def test_stream__sees_its_call_from_the_first_reply_to_the_last(stub, greeter):
    """A generator has its call's context at each step, although other calls run between the steps."""

    def watch(request, context):
        for _ in range(3):
            yield greeter.pb.Thing(text=current_call().scope.enterprise)

    def handler(request, context):
        return greeter.pb.Thing()

    client = stub(WatchThings=watch, GetThing=handler)
    answers = []
    for reply in client.WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a")):
        answers.append(reply.text)
        client.GetThing(greeter.pb.GetThingRequest(name=NAME))

    assert answers == ["enterprises/a"] * 3


def test_stream__ends_well_at_its_age(stub, greeter):
    """A stream that never ends by itself ends with OK at the method's age (2 s), before its caller's deadline."""

    def watch(request, context):
        while current_call().remaining():
            yield greeter.pb.Thing()
            threading.Event().wait(0.02)

    began = time.monotonic()
    replies = list(
        stub(WatchThings=watch).WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a"), timeout=30)
    )

    assert len(replies) > 10
    assert 1 < time.monotonic() - began < 4


def test_stream__ends_well_when_its_age_stops_its_work(stub, greeter):
    """Work within a stream that finds the time over (a transaction does) ends the stream with OK."""

    def watch(request, context):
        while True:
            yield greeter.pb.Thing()
            while current_call().remaining():
                threading.Event().wait(0.02)
            current_call().check()

    replies = stub(WatchThings=watch).WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a"))

    assert len(list(replies)) == 1
    assert replies.code() is grpc.StatusCode.OK


def test_stream__error_in_the_middle_is_told(stub, greeter):
    """What was sent before an error arrives, then the error with its reason."""

    def watch(request, context):
        yield greeter.pb.Thing(text="one")
        raise ServiceError(Kind.FAILED_PRECONDITION, "THING_GONE", "gone")

    replies = stub(WatchThings=watch).WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a"))

    assert next(replies).text == "one"
    with pytest.raises(grpc.RpcError) as failed:
        next(replies)
    assert error_from_rpc(failed.value).reason == "THING_GONE"


def test_stream__of_a_caller_that_goes_ends_its_handler(stub, greeter, eventually):
    """When the caller cancels, the generator is closed: its `finally` runs."""
    ended = threading.Event()

    def watch(request, context):
        try:
            while current_call().remaining():
                yield greeter.pb.Thing()
                threading.Event().wait(0.02)
        finally:
            ended.set()

    replies = stub(WatchThings=watch).WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a"))
    next(replies)
    replies.cancel()

    assert ended.wait(1.5)  # before its age of 2 s would end it


def test_upload__is_checked_message_by_message(stub, greeter):
    """The first message names the tenant, each is validated, and a wrong one ends the call with its reason."""
    upload = greeter.pb.UploadThingsRequest
    taken = []

    def handler(requests, context):
        taken.extend(each.text for each in requests)
        return greeter.pb.ListThingsResponse(next_page_token=current_call().scope.enterprise)

    client = stub(UploadThings=handler)
    parent = "enterprises/a"

    assert (
        client.UploadThings(iter([upload(parent=parent, text="1"), upload(text="2")])).next_page_token
        == parent
    )
    assert taken == ["1", "2"]
    for messages, kind in [
        ([upload(parent="enterprises/b")], Kind.NOT_FOUND),
        ([upload(text="no parent")], Kind.INVALID_ARGUMENT),
        ([upload(parent=parent), upload(text="\0")], Kind.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.RpcError) as failed:
            client.UploadThings(iter(messages))
        assert error_from_rpc(failed.value).kind is kind


def test_upload__of_nothing_reaches_the_handler(stub, greeter):
    """A stream without a message is the handler's to judge; its scope is the caller's."""

    def handler(requests, context):
        return greeter.pb.ListThingsResponse(
            next_page_token=f"{len(list(requests))} {current_call().scope.enterprise}"
        )

    assert stub(UploadThings=handler).UploadThings(iter([])).next_page_token == "0 enterprises/a"


@pytest.mark.parametrize(
    ("errors", "calls", "reason"),
    [
        ([LOST], 2, None),
        ([LOST, LOST], 2, "DATABASE_UNAVAILABLE"),
        ([ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "who knows")], 1, "DATABASE_UNAVAILABLE"),
        (
            [ServiceError(Kind.UNAVAILABLE, "NETWORK_UNAVAILABLE", "away", before_commit=True)],
            1,
            "NETWORK_UNAVAILABLE",
        ),
    ],
)
def test_retry__once_and_only_when_nothing_was_committed(running, greeter, errors, calls, reason):
    """A unary call whose transaction was lost before its commit is made once more; no other is."""
    left = list(errors)
    made = []

    def create(request, context):
        made.append(request)
        if left:
            raise left.pop(0)
        return greeter.pb.Thing(name=NAME)

    client = greeter.grpc.GreeterServiceStub(running(CreateThing=create).as_(MEMBER))
    request = greeter.pb.CreateThingRequest(parent="enterprises/a", thing={}, tags=["t"], rank=1)

    if reason is None:
        assert client.CreateThing(request).name == NAME
    else:
        with pytest.raises(grpc.RpcError) as failed:
            client.CreateThing(request)
        assert error_from_rpc(failed.value).reason == reason
    assert len(made) == calls


def test_retry__not_when_the_time_is_over(running, greeter):
    """There is no second try after the caller's deadline."""
    made = []
    gone = threading.Event()

    def create(request, context):
        made.append(request)
        context.add_callback(gone.set)
        gone.wait(5)
        raise LOST

    server = running(CreateThing=create)
    client = greeter.grpc.GreeterServiceStub(server.as_(MEMBER))
    with pytest.raises(grpc.RpcError):
        client.CreateThing(
            greeter.pb.CreateThingRequest(parent="enterprises/a", thing={}, tags=["t"], rank=1), timeout=0.2
        )
    assert server.server._calls.wait_idle(5)

    assert len(made) == 1


def test_reply__beyond_the_limit_is_told_by_the_server(stub, greeter, get):
    """GR-8: a reply of more than 4 MiB is RESOURCE_EXHAUSTED and says what to do, instead of breaking the client."""

    def handler(request, context):
        return greeter.pb.Thing(data=b"x" * (MESSAGE_BYTES + 1))

    with pytest.raises(grpc.RpcError) as failed:
        stub(GetThing=handler).GetThing(get)

    error = error_from_rpc(failed.value)
    assert (error.kind, error.reason) == (Kind.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert "smaller page" in error.message


@pytest.mark.parametrize(("size", "fits"), [(MESSAGE_BYTES - 1000, True), (MESSAGE_BYTES + 1, False)])
def test_request__beyond_the_limit_is_resource_exhausted(stub, greeter, size, fits):
    """GR-8: a request may have up to 4 MiB; a larger one is RESOURCE_EXHAUSTED."""

    def create(request, context):
        return greeter.pb.Thing(text=str(len(request.thing.data)))

    client = stub(CreateThing=create)
    request = greeter.pb.CreateThingRequest(
        parent="enterprises/a", thing={"data": b"x" * size}, tags=["t"], rank=1
    )

    if fits:
        assert client.CreateThing(request).text == str(size)
        return
    with pytest.raises(grpc.RpcError) as failed:
        client.CreateThing(request)
    error = error_from_rpc(failed.value)
    assert (error.kind, error.reason) == (Kind.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")


def test_trace__goes_from_caller_through_client_and_server_to_the_handler(running, greeter, get):
    """One trace: the test's span, the channel's, the server's, the handler's, each the child of the one before."""
    exporter = InMemorySpanExporter()
    provider = telemetry().tracer_provider
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def handler(request, context):
        with tracer.start_as_current_span("inside"):
            return greeter.pb.Thing()

    server = running(GetThing=handler)
    client = greeter.grpc.GreeterServiceStub(server.channel)
    with tracer.start_as_current_span("outside"):
        client.GetThing(get, metadata=metadata_of(MEMBER))
        trace_id = trace.get_current_span().get_span_context().trace_id

    spans = {
        (span.name, span.kind): span
        for span in exporter.get_finished_spans()
        if span.context.trace_id == trace_id
    }
    method = "numerator.chassistest.v1.GreeterService/GetThing"
    chain = [
        ("outside", trace.SpanKind.INTERNAL),
        (method, trace.SpanKind.CLIENT),
        (method, trace.SpanKind.SERVER),
        ("inside", trace.SpanKind.INTERNAL),
    ]
    assert set(chain) == set(spans)
    for parent, child in itertools.pairwise(chain):
        assert spans[child].parent.span_id == spans[parent].context.span_id
    attributes = spans[method, trace.SpanKind.SERVER].attributes
    assert attributes["rpc.response.status_code"] == "OK"
    assert attributes["numerator.enterprise"] == "enterprises/a"
    assert attributes["numerator.principal.kind"] == "MEMBER"
