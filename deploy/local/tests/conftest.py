import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.stubs import ROOT


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the test's own inside the checkout, where the server's user can reach it."""
    path = ROOT / ".local" / "deploy-tests" / uuid.uuid4().hex[:8]
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Ports that nobody listened on a moment ago."""

    def choose(count: int) -> list[int]:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return [each.getsockname()[1] for each in sockets]

    return choose


@pytest.fixture
def postgres(home: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Postgres]:
    server = Postgres(home / "postgres", *free_ports(1))
    yield server
    server.stop()


@pytest.fixture
def rabbitmq(home: Path, free_ports: Callable[[int], list[int]]) -> Iterator[RabbitMQ]:
    server = RabbitMQ(home / "rabbitmq", *free_ports(3))
    yield server
    server.stop()
