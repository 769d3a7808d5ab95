"""The server under load, without its database, with impatient callers, and at its end."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.chassis.errors import Kind, ServiceError
from services.chassis.rpc.call import current_call
from services.chassis.rpc.channel import channel
from services.chassis.rpc.health import LIVENESS
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.probing import probe
from services.chassis.testing.rpc import member, metadata_of, serving, shared_keys, telemetry, token_of

NAME = "enterprises/a/things/t"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
MEMBER = member("enterprises/a")
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def get(greeter):
    """A request for a thing."""
    return greeter.pb.GetThingRequest(name=NAME)


@pytest.fixture
def create(greeter):
    """A request to make a thing; a channel never repeats it."""
    return greeter.pb.CreateThingRequest(parent="enterprises/a", thing={}, tags=["t"], rank=1)


class Held:
    """A handler that begins, says so, and waits to be released."""

    def __init__(self, reply):
        self.begun = threading.Semaphore(0)
        self.count = 0
        self.released = threading.Event()
        self._reply = reply

    def __call__(self, request, context):
        self.count += 1
        self.begun.release()
        assert self.released.wait(20)
        return self._reply


def _stub(greeter, running):
    return greeter.grpc.GreeterServiceStub(running.as_(MEMBER))


def _health(running, service="") -> int:
    return (
        health_pb2_grpc.HealthStub(running.channel)
        .Check(health_pb2.HealthCheckRequest(service=service), timeout=2)
        .status
    )


# Deadlines: GR-1, GR-3, M8.


def test_deadline__of_a_caller_without_one_is_the_methods(greeter, offer, get):
    """GR-1: a call that comes without a deadline gets 5 seconds, or what the method says; it is never without end."""
    seen = []

    def handler(request, context):
        seen.append((context.time_remaining(), current_call().remaining()))
        return greeter.pb.Thing()

    with serving(offer(GetThing=handler)) as running, grpc.insecure_channel(running.address) as bare:
        greeter.grpc.GreeterServiceStub(bare).GetThing(get, metadata=metadata_of(MEMBER))

    ((grpcs_view, ours),) = seen
    assert grpcs_view > 1e9  # the trap: gRPC itself gives such a call for ever
    assert 4 < ours <= 5


def test_deadline__no_work_begins_after_it(greeter, offer, get):
    """GR-3, M8: a call whose caller gave up while it waited for a thread never reaches its handler."""
    held = Held(greeter.pb.Thing())
    with serving(offer(GetThing=held), threads=1, calls=10) as running:
        stub = _stub(greeter, running)
        first = stub.GetThing.future(get, timeout=20)
        held.begun.acquire(timeout=5)
        waiting = [stub.GetThing.future(get, timeout=0.2) for _ in range(5)]
        codes = [each.code() for each in waiting]
        time.sleep(0.5)  # a server's clock of a call starts when the call arrives: later than its caller's
        held.released.set()
        first.result(timeout=5)
        assert running.server._calls.wait_idle(5)

    assert codes == [grpc.StatusCode.DEADLINE_EXCEEDED] * 5
    assert held.count == 1


def test_deadline__is_looked_at_last_before_the_handler(greeter, offer, get):
    """M8: when the time runs out between a call's arrival and its handler, the handler does not run."""
    calls, passed = [], threading.Event()

    class SlowClock:
        """Makes the verification of the principal take longer than the caller waits."""

        def now(self):
            threading.Event().wait(0.4)
            passed.set()
            return datetime.now(UTC)

    with serving(
        offer(GetThing=lambda request, context: calls.append(request)), clock=SlowClock()
    ) as running:
        with pytest.raises(grpc.RpcError) as failed:
            _stub(greeter, running).GetThing(get, timeout=0.2)
        assert passed.wait(5)
        assert running.server._calls.wait_idle(5)

    assert error_from_rpc(failed.value).kind is Kind.DEADLINE_EXCEEDED
    assert calls == []


def test_deadline__is_seen_by_a_handler_that_asks(greeter, offer, get):
    """A handler that looks before an effect stops when its caller has gone."""
    effects, ended = [], threading.Event()

    def handler(request, context):
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(5)
        try:
            current_call().check()
            effects.append(request)
        finally:
            ended.set()

    with serving(offer(GetThing=handler)) as running:
        with pytest.raises(grpc.RpcError):
            _stub(greeter, running).GetThing(get, timeout=0.2)
        assert ended.wait(5)

    assert effects == []


# Overload: GR-3, M9.


def test_overload__is_refused_at_once_with_advice(greeter, offer, get):
    """Calls beyond the limit are RESOURCE_EXHAUSTED with the wait, at once; those within it are answered."""
    held = Held(greeter.pb.Thing(name=NAME))
    with serving(offer(GetThing=held), threads=2, calls=4) as running:
        stub = _stub(greeter, running)
        taken = [stub.GetThing.future(get, timeout=20) for _ in range(4)]
        for _ in range(2):
            assert held.begun.acquire(timeout=5)
        while not running.server._calls.full:  # the other two wait
            threading.Event().wait(0.01)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as failed:
            stub.GetThing(get, timeout=10)
        refused_after = time.monotonic() - began
        held.released.set()
        answers = [each.result(timeout=5).name for each in taken]
        assert running.server._calls.wait_idle(5)
        again = stub.GetThing(get, timeout=5).name

    error = error_from_rpc(failed.value)
    assert (error.kind, error.reason) == (Kind.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert error.retry_after.total_seconds() == 1
    assert refused_after < 1
    assert answers == [NAME] * 4
    assert again == NAME


def test_overload__places_of_callers_that_went_are_free_again(greeter, offer, get):
    """Calls that are cancelled while they wait do not eat up the limit."""
    held = Held(greeter.pb.Thing(name=NAME))
    with serving(offer(GetThing=held), threads=1, calls=3) as running:
        stub = _stub(greeter, running)
        first = stub.GetThing.future(get, timeout=20)
        assert held.begun.acquire(timeout=5)
        for call in [stub.GetThing.future(get, timeout=20) for _ in range(2)]:
            call.cancel()
        held.released.set()
        first.result(timeout=5)
        assert running.server._calls.wait_idle(5)

        assert [stub.GetThing(get, timeout=5).name for _ in range(10)] == [NAME] * 10


def test_overload__does_not_silence_health(greeter, offer, get):
    """With every thread of calls and streams taken, health still answers."""
    held = Held(greeter.pb.Thing())
    streaming = threading.Semaphore(0)

    def watch(request, context):
        streaming.release()
        held.released.wait(20)
        yield greeter.pb.Thing()

    with serving(offer(GetThing=held, WatchThings=watch), threads=1, calls=2, streams=1) as running:
        stub = _stub(greeter, running)
        calls = [stub.GetThing.future(get, timeout=20) for _ in range(3)]
        stream = stub.WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a"))
        assert held.begun.acquire(timeout=5)
        assert streaming.acquire(timeout=5)

        statuses = [_health(running) for _ in range(20)]

        held.released.set()
        stream.cancel()
        for call in calls:
            call.cancel()
    assert set(statuses) == {SERVING}


def test_streams__have_their_own_limit(greeter, offer, get):
    """As many streams as there may be do not keep calls waiting; one more is refused with advice."""
    release, begun = threading.Event(), threading.Semaphore(0)

    def watch(request, context):
        begun.release()
        release.wait(20)
        yield greeter.pb.Thing()

    def handler(request, context):
        return greeter.pb.Thing(name=NAME)

    with serving(offer(GetThing=handler, WatchThings=watch), threads=1, streams=2) as running:
        stub = _stub(greeter, running)
        request = greeter.pb.WatchThingsRequest(parent="enterprises/a")
        open_streams = [stub.WatchThings(request) for _ in range(2)]
        for _ in open_streams:
            assert begun.acquire(timeout=5)

        answer = stub.GetThing(get, timeout=5).name
        with pytest.raises(grpc.RpcError) as failed:
            next(stub.WatchThings(request))
        release.set()

    assert answer == NAME
    assert error_from_rpc(failed.value).reason == "OVERLOADED"


# Ports and processes: GR-4, GR-6.


def test_port__belongs_to_one_server(offer):
    """GR-4: a second server on the same port is an error, not a thief of half of the calls."""
    with (
        serving(offer()) as running,
        pytest.raises(OSError, match="is another process there"),
        serving(offer(), address=running.address),
    ):
        pass


def test_sources__fork_nothing():
    """GR-6: no code of an api process forks: a forked child with grpc in it hangs."""
    forking = ("os.fork", "multiprocessing", "ProcessPoolExecutor", "subprocess")
    sources = [
        path
        for folder in ("services", "gateway")
        for path in (ROOT / folder).rglob("*.py")
        if not {"tests", "testing"} & set(path.parts)
    ]

    found = {
        str(path.relative_to(ROOT)): word for path in sources for word in forking if word in path.read_text()
    }

    assert sources
    assert found == {}


# Health: M13.


def test_health__follows_what_the_server_needs(greeter, offer, eventually):
    """M13: readiness turns within 2 seconds both ways, the same by gRPC and HTTP; liveness does not care."""
    there = threading.Event()
    name = greeter.service.full_name

    def database():
        if not there.is_set():
            raise ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away")

    with serving(offer(), needs={"database": database, "follower": lambda: True}) as running:
        assert [_health(running, each) for each in ("", name, LIVENESS)] == [
            NOT_SERVING,
            NOT_SERVING,
            SERVING,
        ]

        there.set()
        eventually(lambda: _health(running) == SERVING, timeout=2)
        assert _health(running, name) == SERVING
        assert probe(telemetry().metrics_port, "/readyz") == (200, "ok")

        there.clear()
        eventually(lambda: _health(running) == NOT_SERVING, timeout=2)
        assert _health(running, LIVENESS) == SERVING
        assert probe(telemetry().metrics_port, "/readyz") == (503, "missing: database")


def test_health__a_check_that_hangs_is_a_no(offer, eventually):
    """A dependency that does not answer at all makes the server not ready within 2 seconds."""
    hang = threading.Event()
    release = threading.Event()

    def database():
        if hang.is_set():
            release.wait(20)
        return True

    with serving(offer(), needs={"database": database}) as running:
        eventually(lambda: _health(running) == SERVING, timeout=2)
        hang.set()
        eventually(lambda: _health(running) == NOT_SERVING, timeout=2)
        release.set()
        hang.clear()
        eventually(lambda: _health(running) == SERVING, timeout=2)


def test_health__watchers_are_told(offer):
    """Watch tells each change, without a thread of its own per watcher."""
    there = threading.Event()
    with serving(offer(), needs={"database": there.is_set}) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        watches = [
            stub.Watch(health_pb2.HealthCheckRequest(), timeout=10) for _ in range(20)
        ]  # more than the pool has threads
        assert {next(each).status for each in watches} == {NOT_SERVING}
        there.set()
        assert {next(each).status for each in watches} == {SERVING}


def test_health__survives_watchers_that_leave_while_it_changes(offer):
    """Statuses that change while watchers come and go stop nobody. (With grpcio's own servicer they stop the server.)"""
    with serving(offer()) as running:
        health, stub = running.server._health, health_pb2_grpc.HealthStub(running.channel)
        over = threading.Event()

        def flicker():
            while not over.is_set():
                for status in (SERVING, NOT_SERVING):
                    health.set(["flickering"], status)

        flickering = threading.Thread(target=flicker)
        flickering.start()
        try:
            for _ in range(100):
                watches = [
                    stub.Watch(health_pb2.HealthCheckRequest(service="flickering"), timeout=10)
                    for _ in range(5)
                ]
                for watch in watches:
                    next(watch)
                    watch.cancel()
            assert _health(running, LIVENESS) == SERVING
        finally:
            over.set()
            flickering.join()


def test_reflection__lists_the_services(greeter, offer):
    """Tools can ask a server what it offers."""
    with serving(offer()) as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        (reply,) = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
        )

    names = {each.name for each in reply.list_services_response.service}
    assert {greeter.service.full_name, "grpc.health.v1.Health"} <= names


# The end: GR-5, M7.


def _takes_calls(address) -> bool:
    with grpc.insecure_channel(address) as bare:
        try:
            health_pb2_grpc.HealthStub(bare).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return True


def test_stop__drains_running_calls_and_takes_no_new_ones(greeter, offer, create, eventually):
    """GR-5: a running call ends well, health says NOT_SERVING meanwhile, streams end, and new calls are not taken."""
    held = Held(greeter.pb.Thing(name=NAME))

    def watch(request, context):
        while current_call().remaining():
            yield greeter.pb.Thing()
            threading.Event().wait(0.02)

    with serving(offer(CreateThing=held, WatchThings=watch)) as running:
        stub = _stub(greeter, running)
        watching = health_pb2_grpc.HealthStub(running.channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        while next(watching).status != SERVING:
            pass
        call = stub.CreateThing.future(create, timeout=20)
        stream = stub.WatchThings(greeter.pb.WatchThingsRequest(parent="enterprises/a"))
        next(stream)
        assert held.begun.acquire(timeout=5)
        drained = []
        stopping = threading.Thread(target=lambda: drained.append(running.server.stop(grace=10)))
        began = time.monotonic()
        stopping.start()
        status = next(watching).status
        watching.cancel()
        for _ in stream:
            pass
        stream_ended = time.monotonic() - began
        eventually(lambda: not _takes_calls(running.address), timeout=5)
        still_running = stopping.is_alive()
        held.released.set()
        stopping.join(10)

    assert status == NOT_SERVING
    assert stream.code() is grpc.StatusCode.OK
    assert stream_ended < 1.5
    assert still_running
    assert call.result().name == NAME
    assert drained == [True]


def test_stop__tells_when_a_handler_does_not_end(greeter, offer, create):
    """A handler that outlives the grace is cancelled, and `stop` says so, in time."""
    held = Held(greeter.pb.Thing())
    with serving(offer(CreateThing=held)) as running:
        call = _stub(greeter, running).CreateThing.future(create, timeout=20)
        assert held.begun.acquire(timeout=5)
        began = time.monotonic()

        drained = running.server.stop(grace=0.7)

        assert not drained
        assert time.monotonic() - began < 2
        assert call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        held.released.set()


PROCESS = """
import sys, threading
sys.path[:0] = [{stubs!r}]
import greeter_pb2 as pb, greeter_pb2_grpc as pb_grpc
from services.chassis.logs import configure_logs
from services.chassis.rpc.server import Server
from services.chassis.telemetry import start_telemetry

class Settings:
    grpc_address = "127.0.0.1:{port}"
    principal_public_key = {key!r}
    tenant_check = True
    lame_duck_seconds = 0.5
    connection_age_seconds = 1.0

class Servicer(pb_grpc.GreeterServiceServicer):
    def GetThing(self, request, context):
        threading.Event().wait({seconds})
        return pb.Thing(name=request.name)

configure_logs("greeter", "api")
server = Server(Settings, start_telemetry("greeter", "api", 0))
server.add(pb_grpc.add_GreeterServiceServicer_to_server, Servicer(), pb.DESCRIPTOR.services_by_name["GreeterService"])
sys.exit(server.serve())
"""


@pytest.fixture
def process(greeter):
    """Starts a server of its own process: `process(port, seconds)`, whose calls take so long. Killed with the test."""
    started = []

    def start(port, seconds=0.02):
        script = PROCESS.format(
            stubs=str(Path(greeter.pb.__file__).parent), port=port, key=shared_keys().public, seconds=seconds
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        for line in process.stdout:
            if '"server.started"' in line:
                break
        return process

    yield start
    for each in started:
        each.kill()
        each.stdout.close()
        each.wait()


@pytest.mark.slow
def test_restart__under_load_fails_no_call(greeter, process, get, free_port):
    """M7: SIGTERM and restart, five times, under constant calls: none fails, each process ends with 0 in time."""
    running = process(free_port)
    stop, answers, failures = threading.Event(), [], []
    with channel(
        f"127.0.0.1:{free_port}",
        services=[greeter.service],
        principal_token=lambda: token_of(MEMBER),
        timeout=20,
    ) as opened:
        stub = greeter.grpc.GreeterServiceStub(opened)

        def load():
            while not stop.is_set():
                try:
                    answers.append(stub.GetThing(get, timeout=20).name)
                except grpc.RpcError as error:
                    failures.append(repr(error_from_rpc(error)))

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            before = len(answers)
            while len(answers) < before + 50:
                threading.Event().wait(0.01)
            began = time.monotonic()
            os.kill(running.pid, signal.SIGTERM)
            assert running.wait(timeout=25) == 0
            assert time.monotonic() - began < 5
            running = process(free_port)
        stop.set()
        for thread in threads:
            thread.join()

    assert failures == []
    assert len(answers) > 250


def test_serve__does_not_wait_for_a_handler_that_hangs_for_ever(
    greeter, process, get, free_port, monkeypatch
):
    """A process whose handler never ends still ends, with 1, after its time to drain."""
    monkeypatch.setattr(
        sys.modules[__name__],
        "PROCESS",
        PROCESS.replace(
            "configure_logs(",
            "import services.chassis.rpc.server as s; s.Server.stop.__defaults__ = (1.0,)\nconfigure_logs(",
        ),
    )
    running = process(free_port, seconds=3600)
    with grpc.insecure_channel(f"127.0.0.1:{free_port}") as opened:
        call = greeter.grpc.GreeterServiceStub(opened).GetThing.future(
            get, timeout=30, metadata=metadata_of(MEMBER)
        )
        grpc.channel_ready_future(opened).result(timeout=5)
        threading.Event().wait(0.2)  # for the call to reach its handler
        os.kill(running.pid, signal.SIGTERM)

        assert running.wait(timeout=10) == 1
        assert call.code() is not grpc.StatusCode.OK
