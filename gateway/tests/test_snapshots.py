"""Snapshots and admissions come by push and by pull, survive a cold start, and reach the routes."""

import asyncio
import contextlib
import socket
import threading
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pytest
from numerator.rollout.v1 import serving_pb2 as pb

from gateway import snapshots
from gateway.errors import Problem
from gateway.serving import NO_ADMISSIONS, Knowledge
from gateway.snapshots import ADMISSIONS_KEY, SNAPSHOT_KEY, Intake, Kept, Pull, Push
from gateway.tests.snapshots_made import (
    FLAG,
    Told,
    document,
    enterprise,
    envelope,
    flag,
    published,
    record,
    rollout,
)
from gateway.tests.test_api import problem
from services.chassis.clock import SystemClock
from services.chassis.testing.measures import counted
from services.chassis.testing.waiting import eventually as wait_until

loop = pytest.mark.asyncio(loop_scope="session")
IN = "enterprises/in"
REFUSED = "numerator_gateway_snapshot_refused_total"


@pytest.fixture
def intake():
    return Intake(Knowledge(SystemClock(), 60))


class Source:
    """A rollout service that answers as told, in pages of two records."""

    def __init__(self):
        self.snapshot = pb.Snapshot()
        self.told = Told()
        self.asked = []
        self.error = None
        self.between = lambda: None

    def pull(self, intake):
        return Pull(intake, self.get_snapshot, self.get_admissions)

    async def get_snapshot(self, request):
        self.asked.append((request.if_newer, request.sha256))
        if self.error:
            raise self.error
        if (request.if_newer, request.sha256) == (self.snapshot.version, self.snapshot.sha256):
            return pb.Snapshot(version=self.snapshot.version, sha256=self.snapshot.sha256)
        return self.snapshot

    async def get_admissions(self, request):
        if self.error:
            raise self.error
        answer = self.told.answer(request, page_size=2)
        self.between()
        return answer


@pytest.fixture
def source():
    return Source()


def states(knowledge, *names):
    """The states of enterprises, by their records."""
    records = [knowledge.admissions.record(FLAG, name) for name in names]
    return [each and each.state for each in records]


# --- the intake


def test_snapshot__a_bad_document_changes_nothing(intake):
    """A refused document leaves what is served and its staleness as they were; it is counted each time it comes."""
    intake.snapshot(envelope(document(7)))
    before, confirmed = intake.knowledge.snapshot, intake.knowledge._snapshot_confirmed
    bad = envelope(document(8))
    bad.sha256 = "0" * 64

    with counted(2, REFUSED):
        intake.snapshot(bad)
        intake.snapshot(bad)

    assert intake.knowledge.snapshot is before
    assert intake.knowledge._snapshot_confirmed == confirmed
    intake.snapshot(envelope(document(8)))
    assert intake.knowledge.snapshot.version == 8


def test_snapshot__damaged_on_the_way(intake):
    """The same version and hash with the right bytes is taken after all."""
    good = envelope(document(8))
    damaged = pb.Snapshot(version=good.version, sha256=good.sha256, document=good.document[:-1])

    intake.snapshot(damaged)
    intake.snapshot(good)

    assert intake.knowledge.snapshot.version == 8


def test_changes__one_after_the_other(intake):
    """A change that follows what we have is taken; one that we have is confirmed; others are a gap."""
    told = Told(record("ACTIVE"))
    intake.admissions([told.answer(pb.GetAdmissionsRequest())], None)
    first, second = told.change(record("SUSPENDED")), told.change(record("ACTIVE"))

    assert not intake.changes(second)
    assert states(intake.knowledge, IN) == ["ACTIVE"]
    assert intake.changes(first)
    assert states(intake.knowledge, IN) == ["SUSPENDED"]
    assert intake.changes(first)
    assert intake.changes(second)
    assert not intake.changes(first)
    assert states(intake.knowledge, IN) == ["ACTIVE"]
    assert intake.knowledge.admissions.key == told.key


def test_changes__that_start_from_nothing(intake):
    """Before we know anything a change is a gap; after the service said that there is nothing, it is not."""
    event = Told().change(record("ACTIVE"))

    assert not intake.changes(event)
    intake.admissions([Told().answer(pb.GetAdmissionsRequest())], None)
    assert intake.changes(event)
    assert states(intake.knowledge, IN) == ["ACTIVE"]


def test_changes__too_many_for_an_event(intake):
    """A change that names nothing has to be asked for."""
    told = Told(record("ACTIVE"))
    intake.admissions([told.answer(pb.GetAdmissionsRequest())], None)
    event = told.change(record("SUSPENDED"))
    del event.records[:]

    assert not intake.changes(event)
    assert intake.knowledge.admissions.version == 1


def test_changes__of_a_restored_database(intake):
    """The same version with another token is another history: a gap."""
    told = Told(record("ACTIVE"))
    told.change(record("SUSPENDED"))
    intake.admissions([told.answer(pb.GetAdmissionsRequest())], None)
    told.restore(1)
    told.change(record("ACTIVE", "enterprises/other"))

    assert not intake.changes(told.change(record("ACTIVE")))


def test_changes__what_enterprises_are_like(intake):
    """What rules may ask of an enterprise comes the same way."""
    intake.admissions([Told().answer(pb.GetAdmissionsRequest())], None)

    assert intake.changes(Told().change(enterprises=[enterprise(IN, plan="enterprise")]))
    assert intake.knowledge.admissions.enterprise(IN).attributes == {"plan": "enterprise"}


# --- the files


def save(intake, path):
    Kept(path).save(intake.knowledge)


def test_kept__cold_start(intake, tmp_path):
    """What was taken last is there after a restart, and stale until somebody confirms it."""
    intake.snapshot(envelope(document(7)))
    told = Told(record("ACTIVE"), enterprises=[enterprise(IN, plan="enterprise")])
    intake.admissions([told.answer(pb.GetAdmissionsRequest())], None)
    save(intake, tmp_path / "deep" / "snapshot")

    fresh = Intake(Knowledge(SystemClock(), 60))
    Kept(tmp_path / "deep" / "snapshot").load(fresh)

    serving = fresh.knowledge.serving
    assert (serving.snapshot.version, serving.admissions.key, serving.stale) == (7, told.key, True)
    assert states(fresh.knowledge, IN) == ["ACTIVE"]
    assert serving.context_of(IN).attributes["plan"] == "enterprise"


@pytest.mark.parametrize("name", ["snapshot", "snapshot.admissions"])
@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: b"\xff\xff", lambda whole: whole[:-3]])
def test_kept__damaged(intake, tmp_path, name, damage):
    """A damaged file is as none."""
    intake.snapshot(envelope(document(7)))
    intake.admissions([Told(record("ACTIVE")).answer(pb.GetAdmissionsRequest())], None)
    save(intake, tmp_path / "snapshot")
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))

    fresh = Intake(Knowledge(SystemClock(), 60))
    Kept(tmp_path / "snapshot").load(fresh)

    assert fresh.knowledge.serving is None


def test_kept__writes_what_changed_and_survives_a_full_disk(intake, tmp_path):
    """Only what changed is written, all of it or nothing; a folder that takes no file costs a warning."""
    kept = Kept(tmp_path / "snapshot")
    intake.snapshot(envelope(document(7)))
    intake.admissions([Told().answer(pb.GetAdmissionsRequest())], None)
    kept.save(intake.knowledge)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    kept.save(intake.knowledge)
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before
    intake.snapshot(envelope(document(8)))
    kept.save(intake.knowledge)

    after = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert after.keys() == before.keys() == {"snapshot", "snapshot.admissions"}
    assert after["snapshot.admissions"] == before["snapshot.admissions"]
    assert after["snapshot"] != before["snapshot"]
    (tmp_path / "file").touch()
    save(intake, tmp_path / "file" / "snapshot")


@loop
async def test_kept__after_a_while(intake, tmp_path, monkeypatch):
    """Changes are kept some at a time, not one by one."""
    monkeypatch.setattr(snapshots, "KEEP_SECONDS", 0.01)
    intake.admissions([Told().answer(pb.GetAdmissionsRequest())], None)
    keeping = asyncio.create_task(Kept(tmp_path / "snapshot").run(intake.knowledge))
    intake.snapshot(envelope(document(7)))

    await asyncio.to_thread(wait_until, (tmp_path / "snapshot").exists)

    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


# --- the pull


@loop
async def test_pull__newer_same_and_failing(intake, source):
    """What is newer is taken, what is the same confirmed, and a failure leaves things as they are."""
    pull, knowledge = source.pull(intake), intake.knowledge
    source.snapshot = envelope(document(3))
    source.told.change(record("ACTIVE"))

    await pull.once()
    assert (knowledge.serving.snapshot.version, knowledge.serving.admissions.version) == (3, 1)
    served = knowledge.serving
    knowledge._snapshot_confirmed = knowledge._admissions_confirmed = knowledge._began - 30
    await pull.once()
    assert knowledge.staleness() < 5
    assert knowledge.serving is served
    source.error = Problem(503, "UNAVAILABLE", "no")
    knowledge._snapshot_confirmed = knowledge._began - 30
    await pull.once()
    assert knowledge.staleness() > 5
    assert source.asked == [(0, ""), *[(3, source.snapshot.sha256)] * 2]


@loop
async def test_pull__before_the_first_rollout(intake, source):
    """A service without any rollout means that nobody is in, which is known and not unknown."""
    pull = source.pull(intake)
    await pull.once()
    await pull.once()

    serving = intake.knowledge.serving
    assert (serving.snapshot.version, serving.admissions.key, serving.stale) == (0, (0, ""), False)


@loop
async def test_pull__page_by_page(intake, source):
    """Many records come in pages, and only what changed comes again."""
    names = [f"enterprises/{n}" for n in range(5)]
    source.snapshot = envelope(document())
    source.told.change(*[record("ACTIVE", name) for name in names])
    pull = source.pull(intake)
    await pull.once()
    assert states(intake.knowledge, *names) == ["ACTIVE"] * 5

    source.told.change(*[record("SUSPENDED", name) for name in names[:3]])
    await pull.once()

    assert states(intake.knowledge, *names) == ["SUSPENDED"] * 3 + ["ACTIVE"] * 2
    assert intake.knowledge.admissions.key == source.told.key


@loop
async def test_pull__of_pages_that_change_meanwhile(intake, source):
    """A record that changes while pages are read is not lost: the next pull begins at the first page's version."""
    names = [f"enterprises/{n}" for n in range(5)]
    source.told.change(*[record("ACTIVE", name) for name in names])

    def change():
        source.between = lambda: None
        source.told.change(record("SUSPENDED", names[0]))

    source.between = change
    pull = source.pull(intake)
    await pull.once()
    assert intake.knowledge.admissions.version == 1
    await pull.once()

    assert states(intake.knowledge, *names) == ["SUSPENDED"] + ["ACTIVE"] * 4
    assert intake.knowledge.admissions.key == source.told.key


@loop
async def test_pull__what_was_pushed_meanwhile_stays(intake, source):
    """An answer to a question that is out of date is dropped, and the question asked again."""
    source.told.change(record("ACTIVE"))
    pull = source.pull(intake)
    await pull.once()
    stale_answer = source.told.change(record("SUSPENDED"))

    def push():
        source.between = lambda: None
        assert intake.changes(stale_answer)
        assert intake.changes(source.told.change(record("REVOKED")))

    source.between = push
    await pull.once()

    assert states(intake.knowledge, IN) == ["REVOKED"]
    assert intake.knowledge.admissions.key == source.told.key
    assert pull._asked.is_set()


@loop
async def test_pull__a_service_that_went_back(intake, source):
    """When the service's database was restored, its older versions replace ours, whole; pushed ones do not."""
    pull, knowledge = source.pull(intake), intake.knowledge
    source.snapshot = envelope(document(9))
    source.told.change(record("ACTIVE"))
    source.told.change(record("ACTIVE", "enterprises/lost"))
    await pull.once()
    source.snapshot = envelope(document(4))
    source.told.restore(1)
    source.told.change(record("SUSPENDED"))

    intake.snapshot(source.snapshot)
    assert knowledge.snapshot.version == 9
    await pull.once()

    assert knowledge.snapshot.version == 4
    assert knowledge.admissions.key == source.told.key
    assert states(knowledge, IN, "enterprises/lost") == ["SUSPENDED", None]


@loop
async def test_pull__a_service_that_begins_anew(intake, source):
    """The same version with another content is taken; and a database without any is nothing, not what we remember."""
    pull, knowledge = source.pull(intake), intake.knowledge
    source.snapshot = envelope(document(1))
    source.told.change(record("ACTIVE"))
    await pull.once()
    source.snapshot = envelope(document(1, rule=flag(state="DISABLED")))
    await pull.once()
    assert knowledge.snapshot.sha256 == source.snapshot.sha256
    source.snapshot, source.told = pb.Snapshot(), Told()

    await pull.once()

    assert (knowledge.snapshot.version, knowledge.admissions.key) == (0, (0, ""))
    assert states(knowledge, IN) == [None]


@loop
async def test_pull__at_once_when_asked(intake, source, monkeypatch):
    """It need not wait for its turn."""
    monkeypatch.setattr(snapshots, "PULL_SECONDS", 60)
    pull = source.pull(intake)
    pulling = asyncio.create_task(pull.run())
    await asyncio.to_thread(wait_until, lambda: len(source.asked) == 1)

    await asyncio.to_thread(pull.ask)

    await asyncio.to_thread(wait_until, lambda: len(source.asked) == 2)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)


# --- the push


def publish(url, exchange, *events):
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for each in events:
            body = each if isinstance(each, bytes) else each.SerializeToString()
            key = ADMISSIONS_KEY if hasattr(each, "from_version") else SNAPSHOT_KEY
            channel.basic_publish(exchange, key, body)


@pytest.fixture
def exchange(amqp_url):
    name = f"gateway-test-{uuid4().hex}"
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(name, "topic")
        yield name
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().exchange_delete(name)


@pytest.fixture
def informed(intake):
    """An intake that has been told that there are no admissions."""
    intake.knowledge.take_admissions(NO_ADMISSIONS, instead_of=None)
    return intake


def test_push__newest_wins_and_rubbish_is_passed_over(informed, amqp_url, exchange, eventually):
    """A pushed snapshot is taken; older ones and rubbish are not."""
    push = Push(amqp_url, informed, lambda: None, exchange=exchange)
    push.start()
    try:
        assert push.connected.wait(10)
        publish(amqp_url, exchange, published(document(5)), b"\xff rubbish", published(document(4)))
        eventually(lambda: informed.knowledge.snapshot is not None)
        publish(amqp_url, exchange, published(document(6)))
        eventually(lambda: informed.knowledge.snapshot.version == 6)
    finally:
        push.stop()

    assert not push.is_alive()


def test_push__every_change_of_admissions(informed, amqp_url, exchange, eventually):
    """Hundreds of changes in a row all arrive, in their order, and none has to be asked for."""
    told, asked = Told(), []
    push = Push(amqp_url, informed, lambda: asked.append(1), exchange=exchange)
    push.start()
    try:
        assert push.connected.wait(10)
        changes = [told.change(record("ACTIVE", f"enterprises/{n}")) for n in range(300)]
        publish(amqp_url, exchange, *changes)
        eventually(lambda: informed.knowledge.admissions.key == told.key)
    finally:
        push.stop()

    assert states(informed.knowledge, *[f"enterprises/{n}" for n in range(300)]) == ["ACTIVE"] * 300
    assert len(asked) == 1  # when it was connected


def test_push__asks_after_a_gap(informed, amqp_url, exchange, eventually):
    """A change that does not follow, and one that cannot be read, are asked for."""
    told, asked = Told(), []
    push = Push(amqp_url, informed, lambda: asked.append(1), exchange=exchange)
    push.start()
    try:
        assert push.connected.wait(10)
        lost, next_one = told.change(record("ACTIVE")), told.change(record("SUSPENDED"))
        publish(amqp_url, exchange, next_one)
        eventually(lambda: len(asked) == 2)
        publish(amqp_url, exchange, lost, next_one)
        eventually(lambda: informed.knowledge.admissions.key == told.key)
    finally:
        push.stop()

    assert len(asked) == 2


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


def test_push__comes_back(informed, amqp_url, exchange, eventually):
    """After a lost connection the push listens again, and asks for what it has missed."""
    broker = urlsplit(amqp_url)
    forwarder = Forwarder(broker.hostname, broker.port)
    through = amqp_url.replace(f":{broker.port}", f":{forwarder.port}")
    asked = []
    push = Push(through, informed, lambda: asked.append(1), exchange=exchange)
    push.start()
    try:
        assert push.connected.wait(10)
        forwarder.cut()
        eventually(lambda: not push.connected.is_set())
        assert push.connected.wait(10)
        eventually(lambda: len(asked) == 2)
        publish(amqp_url, exchange, published(document(2)))
        eventually(lambda: informed.knowledge.snapshot is not None)
    finally:
        push.stop()
        forwarder.close()


# --- at the routes

BOXES = "/v1/enterprises/x/boxes"
X = "enterprises/x"


async def _known(gateway, *, snapshot=1, admissions=1):
    def known():
        serving = gateway.gateway.knowledge.serving
        return (serving.snapshot.version, serving.admissions.version) == (snapshot, admissions)

    await asyncio.to_thread(wait_until, known)


@loop
async def test_route__admitted_then_waiting_then_killed(gateway, services, member):
    """A changed admission changes what the route answers, within one pull."""
    made = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)
    services.rollouts.told.change(record("WAITLISTED", X, reason="NOT_VERIFIED", queue_key="3"))
    await _known(gateway, admissions=2)
    refused = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)
    services.rollouts.told.change(record("ACTIVE", X))
    services.rollouts.snapshot = envelope(
        document(2, rule=flag(state="DISABLED"), rollouts={FLAG: rollout(killed=True)})
    )
    await _known(gateway, snapshot=2, admissions=3)
    killed = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member)
    open_to_all = await gateway.http.get("/v1/boxes/b", headers=member)

    assert made.status_code == 200
    told = await problem(refused, 403, "NOT_ADMITTED")
    assert told["admission"] == {
        "state": "WAITLISTED",
        "stage": "private-beta",
        "reason": "NOT_VERIFIED",
        "position": 1,
        "nextStep": "Ask for verification.",
    }
    assert told["metadata"]["feature"] == FLAG
    assert (await problem(killed, 403, "NOT_ADMITTED"))["admission"]["reason"] == "EDITION_KILLED"
    assert open_to_all.status_code == 200


@loop
async def test_route__limits_of_the_stage(gateway, services, member):
    """So many requests a minute of an enterprise that is in; the other limits travel to the services, with its calls only."""
    limits = {"requestsPerMinute": 3, "boundAccounts": 20}
    services.rollouts.snapshot = envelope(document(2, rollouts={FLAG: rollout(**limits)}))
    await _known(gateway, snapshot=2)

    answers = [await gateway.http.post(BOXES, json={"displayName": "b"}, headers=member) for _ in range(4)]
    free = await gateway.http.get("/v1/boxes/b", headers=member)

    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    told = await problem(answers[-1], 429, "STAGE_RATE_LIMITED")
    assert told["metadata"] == {"feature": FLAG, "stage": "private-beta", "limit": "3"}
    assert 0 < int(answers[-1].headers["retry-after"]) <= 20
    assert free.status_code == 200
    *with_feature, without = services.boxes.principals
    assert [dict(each.limits) for each in with_feature] == [{"bound_accounts": 20}] * 3
    assert dict(without.limits) == {}


@loop
async def test_route__operators_pass(gateway, services):
    """An operator is not asked for an admission; the service decides whether it may."""
    token = await gateway.http.post(
        "/oauth2/token", data={"grant_type": "client_credentials"}, auth=("ops", "secret")
    )
    headers = {"authorization": f"Bearer {token.json()['access_token']}"}

    answer = await gateway.http.post(BOXES, json={"displayName": "b"}, headers=headers)

    await problem(answer, 403, "CALLER_NOT_ALLOWED")
