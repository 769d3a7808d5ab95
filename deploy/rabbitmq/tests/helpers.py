"""A broker as in production: with users and rights, from definitions that it has loaded when it started."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy.local.rabbitmq import ADMINISTRATOR, RabbitMQ
from deploy.rabbitmq.definitions import Definitions, hash_passwords, make_definitions, user_names
from deploy.rabbitmq.management import Management
from services.chassis.testing.servers import ROOT, free_ports


class ManagedRabbitMQ(RabbitMQ):
    """A broker with the management API."""

    def __init__(self, home: Path, workers: list[type] | None = None) -> None:
        port, epmd, dist, self.management_port = free_ports(4)
        super().__init__(
            home, port, epmd, dist, definitions=lambda password: json.dumps(self._make(password, workers))
        )

    @property
    def management_url(self) -> str:
        return f"http://{ADMINISTRATOR}:{self.password()}@127.0.0.1:{self.management_port}"

    def prepare(self) -> None:
        super().prepare()
        with (self.place / "rabbitmq.conf").open("a") as conf:
            conf.write(f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n")
        self.write(self.place / "enabled_plugins", "[rabbitmq_management].")

    def _make(self, password: str, workers: Iterable[type] | None) -> Definitions:
        passwords = {ADMINISTRATOR: password, **{name: f"{name}'s" for name in user_names(workers)}}
        return make_definitions(hash_passwords(passwords, {}), ADMINISTRATOR, workers)


@dataclass
class Broker:
    """A running broker, and what tests do with it. Messages in queues are left by no test."""

    server: ManagedRabbitMQ

    @property
    def definitions(self) -> Definitions:
        """What it has loaded."""
        loaded: Definitions = json.loads((self.server.place / "definitions.json").read_text())
        return loaded

    def found(self) -> dict[str, Any]:
        """What it knows now."""
        with Management(self.server.management_url) as management:
            return management.definitions()

    def url(self, user: str) -> str:
        """Where a user connects."""
        return f"amqp://{user}:{user}'s@127.0.0.1:{self.server.port}/%2F"

    def lose_disk(self) -> None:
        """Die at once, lose everything, and start again."""
        process = self.server.process()
        assert process is not None
        process.kill()
        psutil.wait_procs([process], timeout=10)
        self.server.stop()
        shutil.rmtree(self.server.place / "data")
        self.server.start()


@contextmanager
def running_broker(name: str, workers: list[type] | None = None) -> Iterator[Broker]:
    """A broker for the time of a `with` block."""
    server = ManagedRabbitMQ(ROOT / ".local" / f"test-{name}-{os.getpid()}", workers)
    try:
        server.start()
        yield Broker(server)
    finally:
        server.remove()
