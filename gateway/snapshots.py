"""
How snapshots come: pushed by the broker within milliseconds, pulled from the rollout service as the safety net.

The push is a thread of its own with an exclusive queue that holds one message, because only the newest matters. The
pull runs every two seconds, and so a lost message or a dead broker costs two seconds. What was taken last is kept in
a file for a start without either.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pika
from google.protobuf.message import DecodeError
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import rollout_pb2 as rollout
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.spec import Basic, BasicProperties

from gateway.admission import EMPTY, BadSnapshotError, Snapshots
from gateway.errors import Problem
from services.chassis.ids import new_id
from services.chassis.logs import get_logger

EXCHANGE = "numerator.events"
ROUTING_KEY = "rollout.snapshot.published"
QUEUE_PREFIX = "gateway.snapshots."
"""The queues' names begin so; the gateway's user may declare no others."""
PULL_SECONDS = 2.0
_RECONNECT_SECONDS = 1.0
_POLL_SECONDS = 0.5

_log = get_logger("gateway.snapshots")
GetSnapshot = Callable[[rollout.GetSnapshotRequest], Awaitable[rollout.Snapshot]]


class SnapshotFile:
    """The last snapshot on disk: its envelope, as the rollout service sends it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, snapshots: Snapshots) -> bool:
        """Take what is kept, if it is there and whole."""
        try:
            kept = rollout.Snapshot.FromString(self._path.read_bytes())
            return snapshots.offer(kept.version, kept.sha256, kept.document)
        except FileNotFoundError:
            return False
        except (OSError, DecodeError, BadSnapshotError) as error:
            _log.warning("snapshot_file.refused", path=str(self._path), error=str(error))
            return False

    def save(self, envelope: rollout.Snapshot) -> None:
        """Keep an envelope. A failure is logged and no more: the file only helps a cold start."""
        fresh = self._path.with_name(f"{self._path.name}.{threading.get_ident()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(envelope.SerializeToString())
            fresh.replace(self._path)
        except OSError as error:
            _log.warning("snapshot_file.not_written", path=str(self._path), error=str(error))


class SnapshotIntake:
    """The one way in for snapshots, from any thread: checks, takes, keeps, and notes when we last knew the newest."""

    def __init__(self, snapshots: Snapshots, file: SnapshotFile | None) -> None:
        self._snapshots = snapshots
        self._file = file
        self._confirmed = time.monotonic()

    def take(self, envelope: rollout.Snapshot, *, instead_of: int | None = None) -> None:
        """Take a pushed or pulled snapshot. A damaged one is logged, and what we have stays."""
        try:
            taken = self._snapshots.offer(
                envelope.version, envelope.sha256, envelope.document, instead_of=instead_of
            )
        except BadSnapshotError as error:
            _log.error("snapshot.refused", version=envelope.version, error=str(error))
            return
        if taken:
            self.confirm()
            _log.info("snapshot.taken", version=envelope.version)
            if self._file:
                self._file.save(envelope)

    def confirm(self) -> None:
        """Note that what we have is the newest."""
        self._confirmed = time.monotonic()

    def staleness(self) -> float:
        """Seconds since we last knew that we have the newest."""
        return time.monotonic() - self._confirmed


class SnapshotPush(threading.Thread):
    """Listens to the broker, and reconnects for as long as it lives."""

    def __init__(self, amqp_url: str, intake: SnapshotIntake, *, exchange: str = EXCHANGE) -> None:
        super().__init__(name="snapshot-push", daemon=True)
        self._parameters = pika.URLParameters(amqp_url)
        self._parameters.heartbeat = 30
        self._parameters.blocked_connection_timeout = 10
        self._parameters.socket_timeout = 5
        self._intake = intake
        self._exchange = exchange
        self._stopping = threading.Event()
        self.connected = threading.Event()
        """Set while the queue is bound: from then on no snapshot is missed."""

    def run(self) -> None:
        away = False
        while not self._stopping.is_set():
            try:
                self._listen()
            except (AMQPError, OSError) as error:
                if self.connected.is_set() or not away:
                    _log.warning("snapshot_push.lost", error=repr(error))
                away = True
            self.connected.clear()
            self._stopping.wait(_RECONNECT_SECONDS)

    def stop(self) -> None:
        """End the thread, within a second."""
        self._stopping.set()
        if self.is_alive():
            self.join(_POLL_SECONDS + _RECONNECT_SECONDS + self._parameters.socket_timeout)

    def _listen(self) -> None:
        connection = pika.BlockingConnection(self._parameters)
        try:
            channel = connection.channel()
            limits = {"x-max-length": 1, "x-overflow": "drop-head"}
            # A name of its own for each connection: the queue of a lost one stays until the broker notices.
            queue = f"{QUEUE_PREFIX}{new_id()}"
            channel.queue_declare(queue, exclusive=True, arguments=limits)
            channel.queue_bind(queue, self._exchange, ROUTING_KEY)
            channel.basic_consume(queue, self._on_message, auto_ack=True, exclusive=True)
            self.connected.set()
            # A broker that takes the queue away cancels the consumer, and says so in no other way.
            while channel.consumer_tags and not self._stopping.is_set():
                connection.process_data_events(time_limit=_POLL_SECONDS)
        finally:
            if connection.is_open:
                connection.close()

    def _on_message(
        self, _channel: BlockingChannel, _deliver: Basic.Deliver, _properties: BasicProperties, body: bytes
    ) -> None:
        try:
            event = events.SnapshotPublished.FromString(body)
        except DecodeError as error:
            _log.error("snapshot.undecodable", error=str(error))
            return
        self._intake.take(
            rollout.Snapshot(version=event.version, sha256=event.sha256, document=event.document)
        )


class SnapshotPull:
    """Asks the rollout service for what is newer than what we have."""

    def __init__(self, snapshots: Snapshots, intake: SnapshotIntake, get_snapshot: GetSnapshot) -> None:
        self._snapshots = snapshots
        self._intake = intake
        self._get_snapshot = get_snapshot
        self._failing = False

    async def run(self) -> None:
        """Pull until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(PULL_SECONDS)

    async def once(self) -> None:
        """Ask once. A failure is logged when it begins; what we have stays."""
        current = self._snapshots.current
        have = current.version if current else 0
        try:
            reply = await self._get_snapshot(rollout.GetSnapshotRequest(if_newer=have))
            if 0 < reply.version < have:
                # The service has gone back, as after a restore: its word counts, not our memory.
                reply = await self._get_snapshot(rollout.GetSnapshotRequest())
        except Problem as problem:
            if not self._failing:
                _log.warning("snapshot_pull.failed", reason=problem.reason)
            self._failing = True
            return
        self._failing = False
        if reply.version == 0:
            self._snapshots.take(EMPTY, instead_of=have)
            self._intake.confirm()
        elif reply.document:
            # Unpacking a large document would hold up the event loop.
            instead_of = have if reply.version < have else None
            await asyncio.to_thread(self._intake.take, reply, instead_of=instead_of)
        else:
            self._intake.confirm()
