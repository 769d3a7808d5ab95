"""Several servers behind one name, as a rolling restart makes them: one comes, one goes, and no caller notices."""

import asyncio
import socket
import struct
import threading
from collections import Counter
from contextlib import ExitStack

import grpc
import pytest

from services.chassis.rpc.channel import aio_channel
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.rpc import member, serving, token_of

CALLERS = 200
MEMBER = member("enterprises/a")
_A = 1


class Names:
    """A name server that gives every name the addresses in `addresses`, for one second."""

    def __init__(self):
        self.addresses = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waking:
            waking.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self):
        while True:
            query, asking = self._socket.recvfrom(512)
            if not query:
                return
            question = query[12 : query.index(b"\0", 12) + 5]
            kind = struct.unpack("!H", question[-4:-2])[0]
            addresses = self.addresses if kind == _A else []
            answers = [
                struct.pack("!HHHIH", 0xC00C, _A, 1, 1, 4) + socket.inet_aton(each) for each in addresses
            ]
            head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(answers), 0, 0)
            self._socket.sendto(head + question + b"".join(answers), asking)


@pytest.fixture
def names():
    """A name server of the test's own."""
    names = Names()
    yield names
    names.close()


class Counting:
    """Writes that take a moment, and are counted."""

    def __init__(self, reply):
        self._reply = reply
        self._lock = threading.Lock()
        self.requests = Counter()

    def __call__(self, request, context):
        threading.Event().wait(0.02)
        with self._lock:
            self.requests[request.request_id] += 1
        return self._reply


@pytest.fixture
def create(greeter):
    """Makes a request for a write, by its id; a channel never repeats it."""
    return lambda key: greeter.pb.CreateThingRequest(
        parent="enterprises/a", thing={}, tags=["t"], rank=1, request_id=key
    )


@pytest.fixture
async def stub(greeter, names, free_port):
    """A stub that knows its servers by name."""
    async with aio_channel(
        f"dns://127.0.0.1:{names.port}/greeter-api:{free_port}",
        services=[greeter.service],
        principal_token=lambda: token_of(MEMBER),
    ) as opened:
        yield greeter.grpc.GreeterServiceStub(opened)


@pytest.mark.parametrize("age", [0, 0.3], ids=["lasting connections", "connections of 0.3 s"])
async def test_replicas__a_successor_takes_over_without_a_failed_call(  # noqa: PLR0917 -- fixtures
    greeter, offer, names, free_port, create, stub, age
):
    """
    M7: under 200 callers whose writes are never repeated, three times a second server comes up under the same name and
    the first one leaves: no call fails, each write is done once, and each server has its share.
    """
    made, failures, stopping = Counter(), [], asyncio.Event()
    handlers = [Counting(greeter.pb.Thing()) for _ in range(4)]
    addresses = [f"127.0.0.{number}" for number in range(1, 5)]

    async def caller(number):
        while not stopping.is_set():
            made[number] += 1
            try:
                await stub.CreateThing(create(f"{number}-{made[number]}"), timeout=20)
            except grpc.RpcError as error:
                failures.append(repr(error_from_rpc(error)))

    async def served(handler, calls):
        async with asyncio.timeout(20):
            goal = handler.requests.total() + calls
            while handler.requests.total() < goal:  # noqa: ASYNC110 -- other threads count
                await asyncio.sleep(0.01)

    with ExitStack() as stack:

        def start(number):
            names.addresses = [*names.addresses, addresses[number]]
            return stack.enter_context(
                serving(
                    offer(CreateThing=handlers[number]),
                    address=f"{addresses[number]}:{free_port}",
                    connection_age_seconds=age,
                    threads=32,
                    calls=2 * CALLERS,
                )
            )

        running = start(0)
        callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
        await served(handlers[0], CALLERS)
        for number in range(1, len(handlers)):
            leaving, running = running, start(number)
            assert await asyncio.to_thread(leaving.server.stop)
            names.addresses = [addresses[number]]
            await served(handlers[number], CALLERS)
        stopping.set()
        await asyncio.gather(*callers)

    done = sum((handler.requests for handler in handlers), Counter())
    assert failures == []
    assert set(done.values()) == {1}
    assert done.total() == made.total()


async def test_replicas__old_connections_find_new_servers(  # noqa: PLR0917 -- fixtures
    greeter, offer, names, free_port, create, stub
):
    """A server that is added gets calls though nothing went wrong, because connections are renewed at their age."""
    first, second = (Counting(greeter.pb.Thing()) for _ in range(2))
    names.addresses = ["127.0.0.1"]
    with (
        serving(offer(CreateThing=first), address=f"127.0.0.1:{free_port}", connection_age_seconds=0.5),
        serving(offer(CreateThing=second), address=f"127.0.0.2:{free_port}"),
    ):
        await stub.CreateThing(create("1"))
        names.addresses = ["127.0.0.1", "127.0.0.2"]
        async with asyncio.timeout(15):
            while not second.requests:
                await stub.CreateThing(create("2"))

    assert first.requests.total() > 0
