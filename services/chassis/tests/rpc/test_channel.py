"""Channels: deadlines, careful repetition, identity and trace on every call; synchronous and asyncio alike."""

import json
import re
import threading
import time

import grpc
import pytest
import structlog
from opentelemetry import trace

from services.chassis.deadline import Deadline, work_until
from services.chassis.errors import Kind, ServiceError
from services.chassis.rpc.call import current_call
from services.chassis.rpc.channel import HOP_SECONDS, aio_channel, channel, service_config
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.probing import probe
from services.chassis.testing.rpc import member, serving, telemetry, token_of

NAME = "enterprises/a/things/t"
MEMBER = member("enterprises/a")
AWAY = ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away")


@pytest.fixture
def get(greeter):
    """A request for a thing."""
    return greeter.pb.GetThingRequest(name=NAME)


@pytest.fixture
def create(greeter):
    """A request to make a thing; not safe to repeat."""
    return greeter.pb.CreateThingRequest(parent="enterprises/a", thing={}, tags=["t"], rank=1)


def _channel(running, greeter, **options):
    return channel(
        running.address, services=[greeter.service], principal_token=lambda: token_of(MEMBER), **options
    )


class Away:
    """A handler whose dependency is away; counts the calls that reach it."""

    def __init__(self, times=10**9, reply=None):
        self.calls = 0
        self._left = times
        self._reply = reply
        self._lock = threading.Lock()

    def __call__(self, request, context):
        with self._lock:
            self.calls += 1
            self._left -= 1
            if self._left >= 0:
                raise AWAY
        return self._reply


# Deadlines: GR-1, M8.


@pytest.mark.parametrize(("given", "expected"), [(None, 5), (1.5, 1.5), (30, 30)])
def test_deadline__is_the_callers_or_the_default(greeter, offer, get, given, expected):
    """GR-1: a call without a deadline gets 5 seconds; a given one is kept."""
    seen = []

    def handler(request, context):
        seen.append(context.time_remaining())
        return greeter.pb.Thing()

    with serving(offer(GetThing=handler)) as running, _channel(running, greeter) as opened:
        greeter.grpc.GreeterServiceStub(opened).GetThing(get, timeout=given)

    assert expected - 1 < seen[0] <= expected


def test_deadline__of_a_stream_is_the_methods(greeter, offer):
    """A method that declares how long it takes is given so long."""
    seen = []

    def watch(request, context):
        seen.append(context.time_remaining())
        yield greeter.pb.Thing()

    with serving(offer(WatchThings=watch)) as running, _channel(running, greeter) as opened:
        list(
            greeter.grpc.GreeterServiceStub(opened).WatchThings(
                greeter.pb.WatchThingsRequest(parent="enterprises/a")
            )
        )

    assert 1 < seen[0] <= 2


def test_deadline__of_a_hop_is_what_is_left_less_a_margin(greeter, offer, get):
    """M8: a call made as a part of other work gets that work's rest, whatever it asks for; none gets more."""
    seen = []

    def inner(request, context):
        seen.append(context.time_remaining())
        return greeter.pb.Thing()

    with serving(offer(GetThing=inner)) as behind, _channel(behind, greeter) as inside:

        def outer(request, context):
            return greeter.grpc.GreeterServiceStub(inside).GetThing(get, timeout=60)

        with serving(offer(GetThing=outer)) as front, _channel(front, greeter) as outside:
            greeter.grpc.GreeterServiceStub(outside).GetThing(get, timeout=2)

    assert 1 < seen[0] <= 2 - HOP_SECONDS


def test_deadline__no_call_goes_out_when_the_work_is_over(greeter, offer, get):
    """M8: when the work's time is over, its calls fail at once and never reach a handler."""
    handler = Away(times=0, reply=greeter.pb.Thing())
    with serving(offer(GetThing=handler)) as running, _channel(running, greeter) as opened:
        stub = greeter.grpc.GreeterServiceStub(opened)
        stub.GetThing(get)
        with work_until(Deadline(time.monotonic() - 1)), pytest.raises(ServiceError) as failed:
            stub.GetThing(get)

    assert failed.value.kind is Kind.DEADLINE_EXCEEDED
    assert handler.calls == 1


# Repetition: GR-9, M10.


def test_service_config__repeats_only_what_is_declared_safe(greeter):
    """Of the greeter, the reads alone are repeated; uploads and writes are not."""
    config = json.loads(service_config([greeter.service]))

    waiting, repeated = config["methodConfig"]
    assert {each["method"] for each in repeated["name"]} == {
        "GetThing",
        "ListThings",
        "ReadPage",
        "WatchThings",
    }
    assert repeated["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert "retryPolicy" not in waiting
    assert config["retryThrottling"] == {"maxTokens": 10, "tokenRatio": 0.1}


def test_retry__repeats_a_read_that_found_nobody_home(greeter, offer, get):
    """GR-9: a read that is answered UNAVAILABLE is tried again and succeeds."""
    handler = Away(times=2, reply=greeter.pb.Thing(name=NAME))
    with serving(offer(GetThing=handler)) as running, _channel(running, greeter) as opened:
        assert greeter.grpc.GreeterServiceStub(opened).GetThing(get).name == NAME
    assert handler.calls == 3


def test_retry__never_repeats_a_write(greeter, offer, create):
    """GR-9: a write that is answered UNAVAILABLE is the caller's to decide about."""
    handler = Away(times=1, reply=greeter.pb.Thing())
    with (
        serving(offer(CreateThing=handler)) as running,
        _channel(running, greeter) as opened,
        pytest.raises(grpc.RpcError),
    ):
        greeter.grpc.GreeterServiceStub(opened).CreateThing(create)
    assert handler.calls == 1


def test_retry__does_not_repeat_other_failures(greeter, offer, get):
    """Only UNAVAILABLE is repeated: a read that is refused is asked once."""
    calls = []

    def handler(request, context):
        calls.append(request)
        raise ServiceError(Kind.ABORTED, "ETAG_MISMATCH", "stale")

    with (
        serving(offer(GetThing=handler)) as running,
        _channel(running, greeter) as opened,
        pytest.raises(grpc.RpcError),
    ):
        greeter.grpc.GreeterServiceStub(opened).GetThing(get)
    assert len(calls) == 1


def test_retry__a_dead_dependency_is_not_stormed(greeter, offer, get):
    """M10: a server that answers UNAVAILABLE to everything sees at most 1.1 times the calls that were made."""
    handler = Away()
    offered = 200
    with serving(offer(GetThing=handler)) as running, _channel(running, greeter) as opened:
        stub = greeter.grpc.GreeterServiceStub(opened)
        for _ in range(offered):
            with pytest.raises(grpc.RpcError):
                stub.GetThing(get)

    assert offered <= handler.calls <= 1.1 * offered


def test_wait__a_call_waits_for_a_server_that_comes(greeter, offer, create, free_port):
    """A call made before the server is there is sent when it comes, even a write: nothing was sent before."""
    handler = Away(times=0, reply=greeter.pb.Thing(name=NAME))
    address = f"127.0.0.1:{free_port}"
    with channel(address, services=[greeter.service], principal_token=lambda: token_of(MEMBER)) as opened:
        call = greeter.grpc.GreeterServiceStub(opened).CreateThing.future(create, timeout=10)
        with serving(offer(CreateThing=handler), address=address):
            assert call.result(timeout=10).name == NAME
    assert handler.calls == 1


def test_wait__has_the_calls_deadline(greeter, get, free_port):
    """Without a server a call ends at its deadline, not later."""
    with channel(f"127.0.0.1:{free_port}", services=[greeter.service]) as opened:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as failed:
            greeter.grpc.GreeterServiceStub(opened).GetThing(get, timeout=0.5)

    assert time.monotonic() - began < 2
    assert error_from_rpc(failed.value).kind in {Kind.DEADLINE_EXCEEDED, Kind.UNAVAILABLE}


# Identity, request id and trace.


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_call__carries_principal_request_id_and_trace(greeter, offer, get, asynchronous):
    """Both forms of channel send who asks, the present request id, and the present span as the parent."""
    seen = []

    def handler(request, context):
        call = current_call()
        seen.append((call.principal, call.request_id, trace.get_current_span().get_span_context().trace_id))
        return greeter.pb.Thing(name=NAME)

    telemetry()
    tracer = telemetry().tracer
    with (
        serving(offer(GetThing=handler)) as running,
        structlog.contextvars.bound_contextvars(request_id="r-7"),
        tracer.start_as_current_span("work") as span,
    ):
        if asynchronous:
            async with aio_channel(
                running.address, services=[greeter.service], principal_token=lambda: token_of(MEMBER)
            ) as opened:
                assert (await greeter.grpc.GreeterServiceStub(opened).GetThing(get)).name == NAME
        else:
            with _channel(running, greeter) as opened:
                assert greeter.grpc.GreeterServiceStub(opened).GetThing(get).name == NAME

    assert seen == [(MEMBER, "r-7", span.get_span_context().trace_id)]


async def test_call__its_measures_name_its_trace(greeter, offer, get):
    """The duration of a call, on both ends, has its trace as the exemplar."""

    def traces(instrument):
        text = probe(
            telemetry().metrics_port, "/metrics", accept="application/openmetrics-text; version=1.0.0"
        ).text
        lines = [line for line in text.splitlines() if line.startswith(f"{instrument}_seconds_bucket")]
        return {
            found[1]
            for line in lines
            if 'method="numerator.chassistest.v1.GreeterService/GetThing"' in line
            and (found := re.search(r'trace_id="(\w+)"', line))
        }

    with serving(offer(GetThing=lambda request, context: greeter.pb.Thing(name=NAME))) as running:
        with telemetry().tracer.start_as_current_span("one") as one, _channel(running, greeter) as opened:
            greeter.grpc.GreeterServiceStub(opened).GetThing(get)
        with telemetry().tracer.start_as_current_span("two") as two:
            async with aio_channel(
                running.address, services=[greeter.service], principal_token=lambda: token_of(MEMBER)
            ) as opened:
                await greeter.grpc.GreeterServiceStub(opened).GetThing(get)

    last = f"{two.get_span_context().trace_id:032x}"
    assert last in traces("rpc_server_call_duration")
    assert traces("rpc_client_call_duration") & {last, f"{one.get_span_context().trace_id:032x}"}


async def test_aio__all_kinds_of_methods_work(greeter, offer):
    """Streams of replies and of requests pass the asyncio channel, with deadline and principal."""

    def watch(request, context):
        for number in range(3):
            yield greeter.pb.Thing(text=str(number))

    def upload(requests, context):
        return greeter.pb.ListThingsResponse(next_page_token=",".join(each.text for each in requests))

    async def messages():
        for text in "ab":
            yield greeter.pb.UploadThingsRequest(parent="enterprises/a", text=text)

    with serving(offer(WatchThings=watch, UploadThings=upload)) as running:
        async with aio_channel(
            running.address, services=[greeter.service], principal_token=lambda: token_of(MEMBER)
        ) as opened:
            stub = greeter.grpc.GreeterServiceStub(opened)
            replies = [
                reply.text
                async for reply in stub.WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a"))
            ]
            uploaded = await stub.UploadThings(messages())

    assert replies == ["0", "1", "2"]
    assert uploaded.next_page_token == "a,b"


async def test_aio__errors_come_back_as_they_were_raised(greeter, offer, get):
    """`error_from_rpc` reads asyncio's errors too; reads are repeated, within the budget."""
    handler = Away()
    with serving(offer(GetThing=handler)) as running:
        async with aio_channel(
            running.address, services=[greeter.service], principal_token=lambda: token_of(MEMBER)
        ) as opened:
            with pytest.raises(grpc.RpcError) as failed:
                await greeter.grpc.GreeterServiceStub(opened).GetThing(get)

    error = error_from_rpc(failed.value)
    assert (error.kind, error.reason, error.message) == (AWAY.kind, AWAY.reason, AWAY.message)
    assert error.retry_after.total_seconds() == 1
    assert handler.calls == 3
