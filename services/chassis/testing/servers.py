"""Servers for one run of the tests: started when first asked for, gone without a trace when it ends."""

import json
import os
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import psutil

from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.server import Server

S = TypeVar("S", bound=Server)

ROOT = Path(__file__).resolve().parents[3]
_RUNS = ROOT / ".local" / "test"


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 on which nobody listens, all different."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


class Servers:
    """
    The servers of one run, in a folder named by its process id, so that runs do not meet.

    What a run that was killed left behind is stopped and removed by the next one.
    """

    def __init__(self, runs: Path = _RUNS) -> None:
        self._home = runs / str(os.getpid())
        self._started: list[Server] = []
        for left in runs.glob("*"):
            if left.name.isdigit() and (left == self._home or not psutil.pid_exists(int(left.name))):
                _remove(left)

    def postgres(self) -> Postgres:
        """A PostgreSQL that survives its own death but not the machine's, for speed."""
        server = Postgres(self._home / "postgres", *self._ports("postgres", 1))
        server.prepare()
        with (server.data / "postgresql.conf").open("a") as settings:
            settings.write("\nfsync = off\nfull_page_writes = off\nscram_iterations = 1\n")
        return self._start(server)

    def rabbitmq(self) -> RabbitMQ:
        """A RabbitMQ without queues."""
        return self._start(RabbitMQ(self._home / "rabbitmq", *self._ports("rabbitmq", 3)))

    def stop(self) -> None:
        """Stop them all and remove what they kept."""
        for server in reversed(self._started):
            _stop(server)
        shutil.rmtree(self._home, ignore_errors=True)

    def _ports(self, name: str, count: int) -> list[int]:
        """Free ports, written down for whoever has to clean up after us."""
        ports = free_ports(count)
        self._home.mkdir(parents=True, exist_ok=True)
        (self._home / f"{name}.ports").write_text(json.dumps(ports))
        return ports

    def _start(self, server: S) -> S:
        self._started.append(server)
        server.start()
        return server


def _remove(home: Path) -> None:
    for name, kind in (("postgres", Postgres), ("rabbitmq", RabbitMQ)):
        ports = home / f"{name}.ports"
        if ports.exists():
            _stop(kind(home / name, *json.loads(ports.read_text())))
    shutil.rmtree(home, ignore_errors=True)


def _stop(server: Server) -> None:
    server.stop()
    shutil.rmtree(server.place, ignore_errors=True)
