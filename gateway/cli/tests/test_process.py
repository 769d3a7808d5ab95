"""`numerator` as it is started in earnest: how fast, at a terminal, in a pipe, and when it is interrupted."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from numerator.rollout.v1 import rollout_pb2

from gateway.cli.tests import made
from gateway.cli.tests.conftest import ROOT
from gateway.cli.tests.test_changes import HASH, change
from services.chassis.errors import not_found
from services.chassis.testing.proxy import Proxy
from services.chassis.testing.servers import free_ports
from services.chassis.testing.waiting import eventually

COMMAND = [sys.executable, "-m", "gateway.cli"]
KILL = ("rollout", "kill", "enterprise-edition", "--reason", "why")


@pytest.fixture
def start(environment):
    """Starts the command line as a process of its own."""
    processes = []

    def start(*arguments: str, **options):
        process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, env=environment, **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


class Terminal:
    """What a process at a terminal has shown, and a keyboard."""

    def __init__(self, start, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.shown = ""

    def until(self, text: str) -> str:
        """Read on until `text` is shown."""
        while text not in self.shown:
            self._read()
        return self.shown

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Read the rest; gives the exit code."""
        with suppress(OSError):  # how a terminal ends on Linux
            while True:
                self._read()
        os.close(self._ours)
        return self.process.wait(timeout=10)

    def _read(self) -> None:
        content = os.read(self._ours, 4096)
        assert content, self.shown
        self.shown += content.decode()


def test_kill__is_quick(start, platform):
    """
    From a cold start to the answer, the login included, it takes less than half a second of a processor's time at best:
    unlike time on the wall, that says little of what else the machine does.
    """
    platform.rollouts.answers["KillRollout"] = made.rollout(killed=True)
    took = []
    for _ in range(3):
        process = start(*KILL)
        _, code, used = os.wait4(process.pid, 0)
        took.append(used.ru_utime + used.ru_stime)
        assert code == 0

    assert [method for method, _ in platform.rollouts.requests] == ["KillRollout"] * 3
    assert min(took) < 0.5, took


def test_kill__loads_nothing_of_the_platform(environment):
    """What a kill would wait for is not loaded: neither other groups nor libraries of the services."""
    program = (
        "import sys; sys.argv[1:] = ['rollout', 'kill', 'x', '-r', 'y', '--dry-run', '-o', 'json']\n"
        "from gateway.cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout

    loaded = set(output.splitlines()[-1].split())
    assert "gateway.cli.rollouts" in loaded
    assert not loaded & {
        "gateway.cli.tenants",
        "services.chassis",
        "httpx",
        "grpc",
        "google.protobuf",
        "rich.live",
        "yaml",
    }


@pytest.mark.parametrize(("answer", "code", "calls"), [("y", 0, 1), ("n", 1, 0)])
def test_kill__asks_at_a_terminal(start, platform, answer, code, calls):
    """Somebody at a terminal is asked first; a no changes nothing."""
    platform.rollouts.answers["KillRollout"] = made.rollout(killed=True)
    terminal = Terminal(start, *KILL)

    terminal.until("Turn enterprise-edition off for everybody? [y/N]")
    assert platform.rollouts.requests == []
    terminal.type(answer + "\n")

    assert terminal.end() == code
    assert len(platform.rollouts.requests) == calls


def test_rollback__is_not_asked_about_with_yes(start, platform):
    """--yes is the answer."""
    platform.rollouts.answers["RollbackRollout"] = made.rollout(state="ROLLED_BACK")
    terminal = Terminal(start, "rollout", "rollback", "enterprise-edition", "-r", "why", "--yes")

    assert terminal.end() == 0
    assert "?" not in terminal.shown
    assert "\x1b[31mROLLED_BACK\x1b[0m" in terminal.shown  # in red, because it is a terminal


def test_approve__shows_at_a_terminal_what_is_approved(start, platform):
    """A change is approved by the hash of what was shown."""
    platform.rollouts.answers["GetChangeRequest"] = change()
    platform.rollouts.answers["ApplyPlan"] = rollout_pb2.ApplyPlanResponse(rollout=made.rollout())
    platform.rollouts.answers["ApproveChangeRequest"] = change(state="APPROVED")
    terminal = Terminal(start, "change", "approve", "enterprise-edition/c1", "--as", "reviewer")

    assert HASH in terminal.until("Approve it? [y/N]")
    terminal.type("y\n")

    assert terminal.end() == 0
    assert [each.content_hash for each in platform.rollouts.asked("ApproveChangeRequest")] == [HASH]


def test_pipe__may_be_closed(start, platform):
    """`numerator … | head` ends quietly."""
    rollouts = [made.rollout(name=f"rollouts/r-{number}") for number in range(500)]
    platform.rollouts.answers["ListRollouts"] = rollout_pb2.ListRolloutsResponse(rollouts=rollouts)
    process = start(
        "rollout", "list", "-o", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()

    assert process.stderr.read() == ""


class Changes:
    """A watched rollout: streams that the test ends, each of the changes after the one that the reader saw last."""

    def __init__(self, platform) -> None:
        self.asked: list[int] = []
        self.sequence = 1
        self.streams = 0
        platform.rollouts.answers["WatchRollout"] = self.stream

    def stream(self, request):
        self.asked.append(request.after_sequence)
        self.streams += 1
        mine, seen = self.streams, request.after_sequence
        while self.streams == mine and self.asked:
            if seen < self.sequence:
                seen = self.sequence
                yield rollout_pb2.WatchRolloutResponse(
                    sequence=seen, status=made.status(rollout=made.rollout(admitted_count=seen))
                )
            time.sleep(0.02)  # between two looks; the test ends it

    def cut(self) -> None:
        """End the stream that runs."""
        self.streams += 1


def test_watch__goes_on_after_what_it_saw(start, platform):
    """A line for each change, over connections that break off; nothing twice. Ctrl-C ends it well."""
    changes = Changes(platform)
    process = start("rollout", "watch", "enterprise-edition", stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        changes.sequence = 2
        second = process.stdout.readline()
        changes.cut()
        eventually(lambda: len(changes.asked) == 2)
        changes.sequence = 3
        third = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=10)
    finally:
        changes.cut()

    assert [line.partition("in ")[2].partition(",")[0] for line in (first, second, third)] == ["1", "2", "3"]
    assert first.endswith("gates 1/2  analysis PASS  converged 3/3 at v812 in 9 ms\n")
    assert changes.asked == [0, 2]
    assert (rest, process.returncode) == ("", 0)


def test_watch__outlives_the_gateway(start, platform):
    """A gateway that goes is waited for; that it was lost is said once, apart from the changes."""
    changes = Changes(platform)
    (port,) = free_ports(1)
    target = int(platform.url.rpartition(":")[2])
    proxy = Proxy(port, target)
    process = start(
        "rollout", "watch", "enterprise-edition", "--url", f"http://127.0.0.1:{port}",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        process.stdout.readline()
        proxy.close()
        lost = process.stderr.readline()
        changes.sequence = 2
        proxy = Proxy(port, target)
        second = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, more = process.communicate(timeout=10)
    finally:
        changes.cut()
        proxy.close()

    assert lost == f"lost: http://127.0.0.1:{port}: nobody listens there; trying again\n"
    assert "in 2," in second
    assert (more, process.returncode) == ("", 0)


def test_watch__as_json_is_a_line_for_each_change(start, platform):
    """For programs that read lines."""
    changes = Changes(platform)
    process = start("rollout", "watch", "enterprise-edition", "-o", "json", stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
    finally:
        changes.cut()

    assert line.startswith('{"sequence": "1", "status": {')


def test_watch__is_a_picture_at_a_terminal(start, platform):
    """The whole status, drawn anew with each change."""
    changes = Changes(platform)
    terminal = Terminal(start, "rollout", "watch", "enterprise-edition")
    try:
        terminal.until("1, 12 waiting")
        changes.sequence = 7
        terminal.until("7, 12 waiting")
        terminal.process.send_signal(signal.SIGINT)
        code = terminal.end()
    finally:
        changes.cut()

    assert code == 0
    assert "advances by itself after time" in terminal.shown


def test_watch__of_nothing_ends(numerator, platform):
    """What cannot be watched at all is said, and not tried again."""
    platform.rollouts.answers["WatchRollout"] = not_found("rollouts/none")

    result = numerator("rollout", "watch", "none")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "(NOT_FOUND)" in result.stderr
