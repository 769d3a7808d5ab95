"""Snapshots come by push and by pull, survive a cold start, and reach the routes."""

import asyncio
import contextlib
import socket
import threading
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pytest
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import rollout_pb2 as rollout

from gateway.admission import Snapshots
from gateway.errors import Problem
from gateway.snapshots import ROUTING_KEY, SnapshotFile, SnapshotIntake, SnapshotPull, SnapshotPush
from gateway.tests.snapshots_made import FLAG, document, envelope, flag, record
from gateway.tests.test_api import problem
from services.chassis.testing.waiting import eventually as wait_until

loop = pytest.mark.asyncio(loop_scope="session")


def intake(tmp_path):
    snapshots = Snapshots()
    file = SnapshotFile(tmp_path / "deep" / "snapshot")
    return snapshots, file, SnapshotIntake(snapshots, file)


# --- the file


def test_file__cold_start(tmp_path):
    """What was taken last is there after a restart."""
    _, file, subject = intake(tmp_path)
    subject.take(envelope(document(7)))

    fresh = Snapshots()
    assert file.load(fresh)
    assert fresh.current.version == 7


@pytest.mark.parametrize("content", [b"", b"\xff\xff", rollout.Snapshot(version=1).SerializeToString()])
def test_file__damaged(tmp_path, content):
    """A damaged file is as none."""
    _, file, subject = intake(tmp_path)
    subject.take(envelope(document(7)))
    (tmp_path / "deep" / "snapshot").write_bytes(content)

    assert not file.load(Snapshots())


def test_intake__a_bad_document_changes_nothing(tmp_path):
    """A refused document leaves snapshot, file and staleness as they were."""
    snapshots, file, subject = intake(tmp_path)
    subject.take(envelope(document(7)))
    before = subject._confirmed
    bad = envelope(document(8))
    bad.sha256 = "0" * 64

    subject.take(bad)

    assert snapshots.current.version == 7
    assert subject._confirmed == before
    kept = Snapshots()
    assert file.load(kept)
    assert kept.current.version == 7


# --- the pull


class Source:
    """A rollout service that answers as told."""

    def __init__(self):
        self.reply = rollout.Snapshot()
        self.asked = []
        self.error = None

    async def __call__(self, request):
        self.asked.append(request.if_newer)
        if self.error:
            raise self.error
        if request.if_newer >= self.reply.version:
            return rollout.Snapshot(version=self.reply.version, sha256=self.reply.sha256)
        return self.reply


@loop
async def test_pull__newer_same_and_failing(tmp_path):
    """A newer version is taken, the same one confirmed, and a failure leaves things as they are."""
    snapshots, _, subject = intake(tmp_path)
    source = Source()
    pull = SnapshotPull(snapshots, subject, source)

    source.reply = envelope(document(3))
    await pull.once()
    assert snapshots.current.version == 3
    subject._confirmed = 0
    await pull.once()
    assert subject.staleness() < 5
    source.error = Problem(503, "UNAVAILABLE", "no")
    subject._confirmed = 0
    await pull.once()
    assert subject.staleness() > 5
    assert snapshots.current.version == 3


@loop
async def test_pull__before_the_first_rollout(tmp_path):
    """A service without any rollout means that nobody is in, which is known and not unknown."""
    snapshots, _, subject = intake(tmp_path)

    await SnapshotPull(snapshots, subject, Source()).once()

    assert snapshots.current.version == 0


@loop
async def test_pull__a_service_that_went_back(tmp_path):
    """When the service's database was restored, its older version replaces ours, a pushed one does not."""
    snapshots, _, subject = intake(tmp_path)
    subject.take(envelope(document(9)))
    source = Source()
    source.reply = envelope(document(4))

    await SnapshotPull(snapshots, subject, source).once()

    assert source.asked == [9, 0]
    assert snapshots.current.version == 4


# --- the push


def publish(url, exchange, body):
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().basic_publish(exchange, ROUTING_KEY, body)


@pytest.fixture
def exchange(amqp_url):
    name = f"gateway-test-{uuid4().hex}"
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(name, "topic")
        yield name
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().exchange_delete(name)


def event(version):
    made = envelope(document(version))
    return events.SnapshotPublished(
        version=version, sha256=made.sha256, document=made.document
    ).SerializeToString()


def test_push__newest_wins_and_rubbish_is_passed_over(tmp_path, amqp_url, exchange, eventually):
    """A pushed snapshot is taken; older ones and rubbish are not."""
    snapshots, _, subject = intake(tmp_path)
    push = SnapshotPush(amqp_url, subject, exchange=exchange)
    push.start()
    try:
        assert push.connected.wait(10)
        for body in (event(5), b"\xff rubbish", event(4)):
            publish(amqp_url, exchange, body)
        eventually(lambda: snapshots.current is not None)
        publish(amqp_url, exchange, event(6))
        eventually(lambda: snapshots.current.version == 6)
    finally:
        push.stop()

    assert not push.is_alive()


class Forwarder:
    """Passes TCP connections on, until they are cut."""

    def __init__(self, host, port):
        self._target = (host, port)
        self._open = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def cut(self):
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def close(self):
        self._listener.close()
        self.cut()


def test_push__comes_back(tmp_path, amqp_url, exchange, eventually):
    """After a lost connection the push listens again."""
    snapshots, _, subject = intake(tmp_path)
    broker = urlsplit(amqp_url)
    forwarder = Forwarder(broker.hostname, broker.port)
    through = amqp_url.replace(f":{broker.port}", f":{forwarder.port}")
    push = SnapshotPush(through, subject, exchange=exchange)
    push.start()
    try:
        assert push.connected.wait(10)
        forwarder.cut()
        eventually(lambda: not push.connected.is_set())
        assert push.connected.wait(10)
        publish(amqp_url, exchange, event(2))
        eventually(lambda: snapshots.current is not None and snapshots.current.version == 2)
    finally:
        push.stop()
        forwarder.close()


# --- at the routes

BOXES = "/v1/enterprises/x/boxes"


async def _known(gateway, version):
    await asyncio.to_thread(wait_until, lambda: gateway.gateway.snapshots.current.version == version)


@loop
async def test_route__admitted_then_suspended_then_killed(gateway, services, member):
    """A changed admission changes what the route answers, within one pull."""
    made = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)
    waiting = record("WAITLISTED", reason="NOT_VERIFIED", position=2, nextStep="Ask for verification.")
    services.rollouts.snapshot = envelope(document(2, records={"enterprises/x": waiting}))
    await _known(gateway, 2)
    refused = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)
    killed_flag = flag(state="DISABLED")
    services.rollouts.snapshot = envelope(
        document(3, rule=killed_flag, records={"enterprises/x": record("ACTIVE")})
    )
    await _known(gateway, 3)
    killed = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)
    open_to_all = await gateway.http.get("/v1/boxes/b", headers=member)

    assert made.status_code == 200
    told = await problem(refused, 403, "NOT_ADMITTED")
    assert told["admission"] == {
        "state": "WAITLISTED",
        "stage": "private-beta",
        "reason": "NOT_VERIFIED",
        "position": 2,
        "nextStep": "Ask for verification.",
    }
    assert told["metadata"]["feature"] == FLAG
    assert (await problem(killed, 403, "NOT_ADMITTED"))["admission"]["reason"] == "EDITION_KILLED"
    assert open_to_all.status_code == 200


@loop
async def test_route__operators_pass(gateway, services):
    """An operator is not asked for an admission; the service decides whether it may."""
    token = await gateway.http.post(
        "/oauth2/token", data={"grant_type": "client_credentials"}, auth=("ops", "secret")
    )
    headers = {"authorization": f"Bearer {token.json()['access_token']}"}

    answer = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=headers)

    await problem(answer, 403, "CALLER_NOT_ALLOWED")
