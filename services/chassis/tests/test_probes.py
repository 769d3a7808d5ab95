"""The metrics port of a process: what it answers, and that it waits for nothing."""

import asyncio
import socket
import threading

import pytest
from prometheus_client import CollectorRegistry

from services.chassis import probes
from services.chassis.probes import Probes, Pulse
from services.chassis.readiness import Readiness
from services.chassis.testing.probing import probe


@pytest.fixture
def served():
    """Probes on a free port."""
    served = Probes(CollectorRegistry(), 0)
    yield served
    served.stop()


def test_probes__a_process_that_has_said_nothing_is_alive_and_not_ready(served):
    """Before a process says when it is ready, nobody sends it work; what else is asked for is not there."""
    assert probe(served.port, "/healthz") == (200, "ok")
    assert probe(served.port, "/readyz") == (503, "it starts")
    assert probe(served.port, "/metrics").status == 200
    assert probe(served.port, "/elsewhere").status == 404


def test_probes__say_what_is_wrong(served):
    """Each probe follows its own check, with the reason in plain text."""
    wrong = ""
    served.ready_when(lambda: wrong)
    before = probe(served.port, "/readyz")
    wrong = "missing: database"
    served.alive_when(lambda: "dead")

    assert before == (200, "ok")
    assert probe(served.port, "/readyz") == (503, "missing: database")
    assert probe(served.port, "/healthz") == (503, "dead")


def test_probes__a_silent_client_is_in_nobodys_way(served):
    """Who connects and says nothing holds up no probe."""
    silent = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    try:
        assert probe(served.port, "/healthz").status == 200
    finally:
        for each in silent:
            each.close()


def test_readiness__is_told_while_a_check_hangs(served, eventually):
    """The answer about a dependency that hangs comes at once, and turns within 2 seconds both ways."""
    going = threading.Event()
    going.set()
    told = []
    readiness = Readiness({"database": lambda: going.wait(30), "broker": lambda: True}, told.append)
    served.ready_when(readiness.reason)
    readiness.start()
    try:
        eventually(lambda: probe(served.port, "/readyz") == (200, "ok"), 2)
        going.clear()
        eventually(lambda: probe(served.port, "/readyz") == (503, "missing: database"), 2)
        going.set()
        eventually(lambda: probe(served.port, "/readyz") == (200, "ok"), 2)
    finally:
        readiness.stop()

    assert probe(served.port, "/readyz") == (503, "it stops")
    assert told[-3:] == [False, True, False]


def test_pulse__tells_a_loop_that_stands_still(monkeypatch, eventually):
    """A loop that does one thing for too long is told from outside, and forgiven when it turns again."""
    monkeypatch.setattr(probes, "SILENCE_SECONDS", 0.8)
    held, blocked = threading.Event(), threading.Event()
    found = []

    async def main():
        pulse = Pulse(asyncio.get_running_loop())
        found.append(pulse.reason())

        def block():
            blocked.set()
            held.wait(10)

        watching = asyncio.create_task(asyncio.to_thread(watch, pulse))
        asyncio.get_running_loop().call_later(0.1, block)
        await watching

    def watch(pulse):
        blocked.wait(5)
        eventually(pulse.reason, 5)
        found.append(pulse.reason())
        held.set()
        eventually(lambda: not pulse.reason(), 5)

    asyncio.run(main())

    assert found[0] == ""
    assert found[1].startswith("the event loop stands still for ")
