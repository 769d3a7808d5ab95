"""What the tests of messaging have in common."""

import signal
import subprocess
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pika
import psutil
from google.protobuf.message import Message
from numerator.events.v1.accounts_pb2 import AccountUnbound
from psycopg.conninfo import conninfo_to_dict

from deploy.local.rabbitmq import RabbitMQ
from services.chassis import events
from services.chassis.database import PLATFORM
from services.chassis.ids import new_id
from services.chassis.messaging import topology
from services.chassis.messaging.envelope import make_headers
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.waiting import eventually
from services.chassis.tests.messaging.sample import Worker

UNBOUND, BOUND = "sample.on_unbound", "sample.on_bound"
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


class Sample(TemporaryDatabase):
    """The sample service's database."""

    @property
    def port(self) -> int:
        """Of its server."""
        return int(conninfo_to_dict(self.url)["port"] or 0)

    def query(self, sql: str, *params: object) -> list[Any]:
        """The first column of what a query gives."""
        with self.transaction(PLATFORM) as tx:
            return [next(iter(row.values())) for row in tx.execute(sql, params).fetchall()]

    def effects(self, handler: str = "on_unbound") -> list[str]:
        """The ids of the events that a handler had an effect for, in the order of the effects."""
        return self.query("select event_id from effects where handler = %s order by number", handler)

    def emit(self, *subjects: str, message: Message | None = None) -> list[str]:
        """Tell events by the outbox; returns their ids."""
        with self.transaction(PLATFORM) as tx:
            return [tx.emit(message or AccountUnbound(account=each), subject=each) for each in subjects]

    def unsent(self) -> int:
        """How many events are not sent."""
        return self.query("select count(*) from outbox where sent_time is null")[0]


class Broker:
    """A broker, looked at from outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    def channel(self) -> Any:
        """A channel with confirms; close its connection."""
        channel = pika.BlockingConnection(topology.parameters(self.url)).channel()
        channel.confirm_delivery()
        return channel

    def length(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        channel = self.channel()
        try:
            return channel.queue_declare(queue, passive=True).method.message_count
        finally:
            channel.connection.close()

    def take(self, queue: str) -> list[tuple[dict[str, Any], bytes]]:
        """Remove all messages that are ready in a queue: headers and bodies."""
        channel = self.channel()
        taken = []
        for _ in range(channel.queue_declare(queue, passive=True).method.message_count):
            _method, properties, body = next(channel.consume(queue, auto_ack=True))
            taken.append((dict(properties.headers or {}), body))
        channel.connection.close()
        return taken

    def reject(self, queue: str) -> None:
        """Reject the first message of a queue."""
        channel = self.channel()
        method, _properties, _body = next(channel.consume(queue))
        channel.basic_reject(method.delivery_tag, requeue=False)
        channel.connection.close()

    def put(self, queue: str, body: bytes, **properties: Any) -> None:
        """Put a message into a queue as it is."""
        channel = self.channel()
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties))
        channel.connection.close()

    def clean(self) -> None:
        """Declare what the sample needs, and empty all of it."""
        topology.declare_topology(self.url, Worker)
        channel = self.channel()
        for queue in [
            *(name for each in (UNBOUND, BOUND) for name in (each, topology.dead_queue(each))),
            *(topology.delay_exchange(seconds) for seconds in topology.DELAYS),
            topology.UNROUTED,
        ]:
            channel.queue_purge(queue)
        channel.connection.close()


@dataclass
class OwnBroker(Broker):
    """A broker that a test may kill."""

    server: RabbitMQ
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.server.url

    def kill(self) -> None:
        """As the machine's loss of power."""
        process = self.server.process()
        assert process is not None
        process.kill()
        psutil.wait_procs([process], timeout=10)
        self.server.stop()

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        self.server.start()

    def control(self, *arguments: str) -> str:
        """What rabbitmqctl prints."""
        done = subprocess.run(
            ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-n", self.server.node, *arguments],
            check=True, capture_output=True, text=True, cwd=self.server.place,
            env=self.server.environment(), user=self.server.user,
        )  # fmt: skip
        return done.stdout

    def prepare(self) -> None:
        """
        Start it, with the sample's queues on its disk.

        RabbitMQ 3.10 writes down that a quorum queue exists some seconds after it said so: killed before, it comes back
        with a queue that never finds its leader. A clean stop writes at once.
        """
        self.start()
        topology.declare_topology(self.url, Worker)
        self.server.stop()
        self.start()


@dataclass
class WorkerProcess:
    """A worker in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics_port: int

    def logged(self, event: str) -> int:
        """How often an event was logged."""
        return self.log.read_text().count(f'"event": "{event}"')

    def wait_for(self, event: str, timeout: float = 20) -> None:
        """Wait until an event is logged."""
        eventually(lambda: self.logged(event) or self.process.poll() is not None, timeout)
        assert self.process.poll() is None, self.log.read_text()

    def terminate(self, timeout: float = 30) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def metrics(self) -> str:
        """What /metrics says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as response:
            return response.read().decode()


def wire(
    message: Message,
    *,
    subject: str = "enterprises/e/accounts/a",
    event_id: str | None = None,
    **headers: Any,
) -> tuple[bytes, dict[str, Any]]:
    """An event as it travels: its body, and the properties with which pika publishes it."""
    content_type, body = events.encode(message)
    event_id = event_id or new_id()
    made: dict[str, Any] = make_headers(
        event_id=event_id,
        event_type=events.event_type(type(message)),
        source="numerator/test",
        subject=subject,
        ordering_key=subject,
        time=NOON,
        enterprise="enterprises/e",
        traceparent="",
    )
    return body, {"headers": made | headers, "content_type": content_type, "message_id": event_id}
