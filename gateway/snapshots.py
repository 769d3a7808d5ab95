"""
How snapshots and admissions come: pushed by the broker within milliseconds, pulled from the rollout service as the safety net.

The push is a thread of its own with two exclusive queues: of snapshots only the newest matters, of admissions each change does,
and after a gap the pull is asked for the rest. The pull also runs every two seconds, and so a lost message or a dead broker
costs two seconds. What was taken last is kept in files for a start without either.
"""

import asyncio
import threading
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
from google.protobuf.message import DecodeError, Message
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import serving_pb2 as pb
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.spec import Basic, BasicProperties

from gateway import metrics
from gateway.errors import Problem
from gateway.serving import (
    NO_ADMISSIONS,
    NO_SNAPSHOT,
    AdmissionTable,
    BadSnapshotError,
    Knowledge,
    Snapshot,
    unpack,
)
from services.chassis.ids import new_id
from services.chassis.logs import get_logger

EXCHANGE = "numerator.events"
SNAPSHOT_KEY = "rollout.snapshot.published"
ADMISSIONS_KEY = "rollout.admissions.changed"
QUEUE_PREFIX = "gateway.serving."
"""The queues' names begin so; the gateway's user may declare no others."""
PULL_SECONDS = 2.0
KEEP_SECONDS = 5.0
"""How long a change may wait until it is in the files."""
_KEEP_SHARE = 20
"""Writing takes at most one part of so many of the time."""
_MOST_CHANGES = 1_000  # that wait in the queue; one that had to go is a gap
_RECONNECT_SECONDS = 1.0
_POLL_SECONDS = 0.5

_log = get_logger("gateway.snapshots")
GetSnapshot = Callable[[pb.GetSnapshotRequest], Awaitable[pb.Snapshot]]
GetAdmissions = Callable[[pb.GetAdmissionsRequest], Awaitable[pb.GetAdmissionsResponse]]


class Intake:
    """The one way in for what is pushed and pulled, from any thread: checks, takes, and notes that it is the newest."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self._refused = pb.Snapshot()

    def snapshot(self, envelope: pb.Snapshot, *, instead_of: Snapshot | None = None) -> None:
        """Take a snapshot. A damaged one is counted, logged the first time, and what we have stays."""
        if envelope == self._refused:
            metrics.refused.add(1)
            return
        try:
            snapshot = unpack(envelope, self.knowledge.snapshot)
        except BadSnapshotError as error:
            metrics.refused.add(1)
            _log.error("snapshot.refused", version=envelope.version, error=str(error))
            self._refused = envelope
            return
        if self.knowledge.take_snapshot(snapshot, instead_of=instead_of):
            _log.info("snapshot.taken", version=snapshot.version)

    def changes(self, event: events.AdmissionsChanged) -> bool:
        """Take changed admissions. False when they do not follow what we have: there is a gap to ask for."""
        have = self.knowledge.admissions
        if have is None:
            return False
        if have.key == (event.version, event.token):
            self.knowledge.confirm_admissions()
            return True
        if have.key != (event.from_version, event.from_token) or not (event.records or event.enterprises):
            return False
        table = have.changed(event.version, event.token, event.records, event.enterprises)
        return self.knowledge.take_admissions(table, instead_of=have)

    def admissions(
        self, pages: list[pb.GetAdmissionsResponse], have: AdmissionTable | None, *, newest: bool = True
    ) -> bool:
        """
        Take what the rollout service answered to somebody who has `have`. False when that is not what we have any more.

        While pages were read records went on to change, and some of the later pages are of a version after the first one's. So
        what we have then is called by the first one's, and the rest follows from there.
        """
        first = pages[0]
        if have and have.key == (first.version, first.token):
            self.knowledge.confirm_admissions()
            return True
        base = NO_ADMISSIONS if first.whole or have is None else have
        table = base.changed(
            first.version,
            first.token,
            (record for page in pages for record in page.records),
            (enterprise for page in pages for enterprise in page.enterprises),
        )
        taken = self.knowledge.take_admissions(table, instead_of=have, newest=newest)
        if taken and first.whole:
            _log.info("admissions.taken_anew", version=table.version)
        return taken


class Pull:
    """Asks the rollout service for what is newer than what we have: every two seconds, and when it is asked to."""

    def __init__(self, intake: Intake, get_snapshot: GetSnapshot, get_admissions: GetAdmissions) -> None:
        self._intake = intake
        self._get_snapshot = get_snapshot
        self._get_admissions = get_admissions
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failing = False

    def ask(self) -> None:
        """Have it pull at once; from any thread."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._asked.set)

    async def run(self) -> None:
        """Pull until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._asked.clear()
            await self.once()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), PULL_SECONDS)

    async def once(self) -> None:
        """Ask for both once. A failure is logged when it begins; what we have stays."""
        reasons = await asyncio.gather(_failure(self._pull_snapshot()), _failure(self._pull_admissions()))
        if any(reasons) and not self._failing:
            _log.warning("pull.failed", reasons=reasons)
        self._failing = any(reasons)

    async def _pull_snapshot(self) -> None:
        knowledge = self._intake.knowledge
        have = knowledge.snapshot
        request = pb.GetSnapshotRequest(if_newer=have.version, sha256=have.sha256) if have else None
        reply = await self._get_snapshot(request or pb.GetSnapshotRequest())
        if reply.document:
            # The service answers with a document whenever we have another one than it has: its word counts, not our memory.
            # Unpacking a large one would hold up the event loop.
            await asyncio.to_thread(self._intake.snapshot, reply, instead_of=have)
        elif have and (reply.version, reply.sha256) == (have.version, have.sha256):
            knowledge.confirm_snapshot()
        elif reply.version == 0:
            knowledge.take_snapshot(NO_SNAPSHOT, instead_of=have)

    async def _pull_admissions(self) -> None:
        have = self._intake.knowledge.admissions
        request = pb.GetAdmissionsRequest()
        if have:
            request.since, request.token = have.key
        pages = [await self._get_admissions(request)]
        while pages[-1].more:
            request.cursor = pages[-1].cursor
            pages.append(await self._get_admissions(request))
        if not await asyncio.to_thread(self._intake.admissions, pages, have):
            self._asked.set()  # changes were pushed meanwhile: once more, on what we have now


async def _failure(pull: Coroutine[Any, Any, None]) -> str:
    """Why a pull failed; empty when it did not."""
    try:
        await pull
    except Problem as problem:
        return problem.reason
    return ""


class Push(threading.Thread):
    """Listens to the broker, and reconnects for as long as it lives."""

    def __init__(
        self, amqp_url: str, intake: Intake, ask: Callable[[], None], *, exchange: str = EXCHANGE
    ) -> None:
        """
        Args:
            amqp_url: of the broker.
            intake: takes what comes.
            ask: is called when something may have been missed.
            exchange: where events are told.
        """
        super().__init__(name="snapshot-push", daemon=True)
        self._parameters = pika.URLParameters(amqp_url)
        self._parameters.heartbeat = 30
        self._parameters.blocked_connection_timeout = 10
        self._parameters.socket_timeout = 5
        self._intake = intake
        self._ask = ask
        self._exchange = exchange
        self._stopping = threading.Event()
        self.connected = threading.Event()
        """Set while the queues are bound: from then on nothing is missed."""

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
            for key, most, take in (
                (SNAPSHOT_KEY, 1, self._on_snapshot),
                (ADMISSIONS_KEY, _MOST_CHANGES, self._on_changes),
            ):
                limits = {"x-max-length": most, "x-overflow": "drop-head"}
                # A name of its own for each connection: the queue of a lost one stays until the broker notices.
                queue = f"{QUEUE_PREFIX}{new_id()}"
                channel.queue_declare(queue, exclusive=True, arguments=limits)
                channel.queue_bind(queue, self._exchange, key)
                channel.basic_consume(queue, take, auto_ack=True, exclusive=True)
            self.connected.set()
            self._ask()
            # A broker that takes a queue away cancels its consumer, and says so in no other way.
            while len(channel.consumer_tags) > 1 and not self._stopping.is_set():
                connection.process_data_events(time_limit=_POLL_SECONDS)
        finally:
            if connection.is_open:
                connection.close()

    def _on_snapshot(
        self, _channel: BlockingChannel, _deliver: Basic.Deliver, _properties: BasicProperties, body: bytes
    ) -> None:
        event = events.SnapshotPublished()
        if _decoded(event, body):
            self._intake.snapshot(
                pb.Snapshot(version=event.version, sha256=event.sha256, document=event.document)
            )

    def _on_changes(
        self, _channel: BlockingChannel, _deliver: Basic.Deliver, _properties: BasicProperties, body: bytes
    ) -> None:
        event = events.AdmissionsChanged()
        if not _decoded(event, body) or not self._intake.changes(event):
            self._ask()


def _decoded(event: Message, body: bytes) -> bool:
    try:
        event.ParseFromString(body)
    except DecodeError as error:
        _log.error("event.undecodable", type=event.DESCRIPTOR.full_name, error=str(error))
        return False
    return True


class Kept:
    """What was served last, on disk: a file for the snapshot, and `<name>.admissions` beside it."""

    def __init__(self, path: Path) -> None:
        self._snapshot_path = path
        self._admissions_path = path.with_name(f"{path.name}.admissions")
        self._writing = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._admissions: AdmissionTable | None = None

    def load(self, intake: Intake) -> None:
        """Take what is kept, as far as it is there and whole. It is stale until the rollout service confirms it."""
        try:
            snapshot = unpack(pb.Snapshot.FromString(self._snapshot_path.read_bytes()))
            told = zlib.decompress(self._admissions_path.read_bytes())
            admissions = pb.GetAdmissionsResponse.FromString(told)
        except FileNotFoundError:
            return
        except (OSError, DecodeError, BadSnapshotError, zlib.error) as error:
            _log.warning("kept.refused", path=str(self._snapshot_path), error=str(error))
            return
        intake.knowledge.take_snapshot(snapshot, newest=False)
        intake.admissions([admissions], None, newest=False)

    async def run(self, knowledge: Knowledge) -> None:
        """Keep what is served, some seconds after it has changed, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.to_thread(self.save, knowledge)
            took = loop.time() - began
            await asyncio.sleep(max(KEEP_SECONDS, _KEEP_SHARE * took))

    def save(self, knowledge: Knowledge) -> None:
        """Keep what is served, if it has changed. A failure is logged and no more: the files only help a cold start."""
        with self._writing:
            snapshot, admissions = knowledge.snapshot, knowledge.admissions
            try:
                if snapshot and snapshot.version and snapshot is not self._snapshot:
                    _write(self._snapshot_path, snapshot.envelope.SerializeToString())
                    self._snapshot = snapshot
                if admissions and admissions is not self._admissions:
                    _write(self._admissions_path, zlib.compress(admissions.all().SerializeToString(), 1))
                    self._admissions = admissions
            except OSError as error:
                _log.warning("kept.not_written", path=str(self._snapshot_path), error=str(error))


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing."""
    fresh = path.with_name(f"{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_bytes(content)
    fresh.replace(path)
