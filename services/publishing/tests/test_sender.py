"""
The sender as a process that is killed, on a real network that loses replies: exactly once by the network's own log.

The network honours keys in one mode and ignores them in the other; the accounts say which, as their servers would.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from psycopg.conninfo import conninfo_to_dict

from deploy.sandbox.people import Person
from services.chassis.database import Tenant
from services.chassis.sealing import seal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.measures import measured_at
from services.chassis.testing.probing import probe
from services.chassis.testing.proxy import Proxy
from services.chassis.testing.rpc import shared_keys
from services.chassis.testing.servers import free_ports
from services.publishing import store, usecases
from services.publishing.failpoints import POINTS
from services.publishing.model.accounts import Account
from services.publishing.model.deliveries import FINAL, Delivery
from services.publishing.model.interactions import Interaction, InteractionKind, InteractionState
from services.publishing.tests.conftest import ROOT, Sandbox, url_of
from services.publishing.tests.fakes import ENTERPRISE

USERS = ("tianshan", "tianshan-dealer", "tianshan-jobs", "tianshan-care")
SOFTWARE = {"honours": "mastodon", "serial": "hollo", "ignores": "gotosocial"}
TENANT = Tenant(ENTERPRISE)
SENDER_POINTS = sorted(POINTS - {"deliveries_materialised"})
QUICK = "reply_read"
"""The point that also the quick suite takes: the post is there, and nobody but the network knows."""
PATIENCE = 40.0


class Senders:
    """Starts senders, as the supervisor does, and sees that none is left."""

    def __init__(self, database: TemporaryDatabase, key: X25519PrivateKey) -> None:
        (self.metrics_port,) = free_ports(1)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self._environment = os.environ | {  # noqa: TID251  what a child process gets
            "PUBLISHING_DATABASE_URL": url_of(database.url),
            "PUBLISHING_PRIVATE_KEY": pem,
            "PUBLISHING_METRICS_PORT": "0",
            "PUBLISHING_INTERACTIONS_INTERVAL": "0.3",
            "PUBLISHING_REQUEST_TIMEOUT": "1.5",
            "PUBLISHING_LEASE_MARGIN": "1",
            "PUBLISHING_SERVER_MARGIN": "1",
            "PUBLISHING_VISIBILITY_LAG": "0.5",
            # A network that fails four times in ten fails one delivery of twenty five times in a row, now and then.
            "PUBLISHING_LONGEST_DELAY": "1",
            "AMQP_URL": "amqp://127.0.0.1:1",
            "PRINCIPAL_PUBLIC_KEY": shared_keys().public,
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, fail_point: str = "", **settings: str) -> subprocess.Popen[bytes]:
        environment = self._environment | {"PUBLISHING_FAIL_POINT": fail_point} | settings
        process = subprocess.Popen(
            [sys.executable, "-m", "services.publishing", "sender"], cwd=ROOT, env=environment
        )
        self._running.append(process)
        return process

    def restored(self, since: datetime) -> None:
        """What an ops person runs after a restoration."""
        subprocess.run(
            [sys.executable, "-m", "services.publishing", "restored", "--since", since.isoformat()],
            cwd=ROOT, env=self._environment, check=True,
        )  # fmt: skip

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


class World:
    """Four accounts of a company, bound on the sandbox; publications go to all of them."""

    def __init__(
        self,
        database: TemporaryDatabase,
        sandbox: Sandbox,
        senders: Senders,
        accounts: list[Account],
    ) -> None:
        self.database = database
        self.sandbox = sandbox
        self.senders = senders
        self.accounts = accounts

    def publish(self, text: str, delay: timedelta | None = None) -> str:
        name = self.draft(text, delay)
        self.schedule(name)
        self.materialise(name)
        return name

    def draft(self, text: str, delay: timedelta | None = None) -> str:
        with self.database.transaction(TENANT) as tx:
            return usecases.create_publication(
                tx, ENTERPRISE, text=text, variants=(), accounts=(), exclude_accounts=(),
                schedule_time=tx.now + delay if delay else None,
            ).name  # fmt: skip

    def schedule(self, name: str) -> None:
        with self.database.transaction(TENANT) as tx:
            usecases.schedule_publication(tx, ENTERPRISE, name, None)

    def materialise(self, name: str) -> None:
        with self.database.transaction(TENANT) as tx:
            usecases.materialise(tx, ENTERPRISE, name)

    def back_up(self) -> datetime:
        """Copy all rows; returns when."""
        since = datetime.now(UTC)
        with psycopg.connect(self.database.admin_url) as connection:
            connection.execute("create schema backup")
            for table in self._tables(connection):
                connection.execute(f"create table backup.{table} as table publishing.{table}")  # type: ignore[arg-type]
        return since

    def restore(self) -> None:
        """All rows as they were."""
        with psycopg.connect(self.database.admin_url) as connection:
            for table in self._tables(connection):
                connection.execute(f"truncate publishing.{table}")  # type: ignore[arg-type]
                connection.execute(
                    f"insert into publishing.{table} overriding system value table backup.{table}"  # type: ignore[arg-type]
                )

    @staticmethod
    def _tables(connection: psycopg.Connection) -> list[str]:
        return [
            name
            for (name,) in connection.execute(
                "select tablename from pg_tables where schemaname = 'publishing'"
            )
        ]

    def deliveries(self) -> list[Delivery]:
        with self.database.transaction(TENANT) as tx:
            rows = tx.execute("select name from deliveries").fetchall()
            return [usecases.get_delivery(tx, ENTERPRISE, row["name"]) for row in rows]

    def interactions(self) -> list[Interaction]:
        with self.database.transaction(TENANT) as tx:
            return store.interactions(tx, ENTERPRISE, None, 100)

    def done(self) -> bool:
        return all(delivery.state in FINAL for delivery in self.deliveries())

    def assert_exactly_once(self, texts: list[str]) -> None:
        """By the network's log each account has each text as often as it was given, and our record agrees."""
        expected = Counter((user, text) for user in USERS for text in texts)
        seen = Counter((post["account"], post["text"]) for post in self.sandbox.posts())
        lost, doubled = expected - seen, seen - expected
        assert (lost, doubled) == (Counter(), Counter())
        assert {delivery.state for delivery in self.deliveries()} == {"PUBLISHED"}
        ids = {delivery.network_post_id for delivery in self.deliveries()}
        assert ids == {post["status_id"] for post in self.sandbox.posts()}


@pytest.fixture(params=["honours", "ignores"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def world(
    make_database: Callable[..., TemporaryDatabase],
    sandbox: Sandbox,
    sandbox_account: Callable[..., Account],
    mode: str,
) -> Iterator[World]:
    sandbox.control("mode", mode=mode)
    database = make_database("publishing")
    key = X25519PrivateKey.generate()
    accounts = []
    for number, user in enumerate(USERS, 1):
        name = f"{ENTERPRISE}/accounts/a{number}"
        token = seal(key.public_key(), sandbox.token(user).encode(), name)
        accounts.append(
            sandbox_account(
                number,
                user,
                software=SOFTWARE[mode],
                sealed_token=token,
                bind_time=datetime.now(UTC) - timedelta(minutes=1),
            )
        )
    with database.transaction(TENANT) as tx:
        for account in accounts:
            usecases.bind_account(tx, account, tx.now)
    senders = Senders(database, key)
    yield World(database, sandbox, senders, accounts)
    senders.close()


@pytest.mark.parametrize(
    "point", [QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SENDER_POINTS if each != QUICK)]
)
def test_sender__killed_at_each_point__exactly_once(
    world: World, eventually: Callable[..., object], point: str, tmp_path: Path
) -> None:
    """Wherever the process dies, the next one ends the work, and every account has every post once."""
    texts = ["An SUV weekend", "The same text", "The same text"]
    for text in texts:
        world.publish(text)

    killed = world.senders.start(f"{point}:kill")
    assert killed.wait(PATIENCE) == -signal.SIGKILL
    world.senders.start()
    eventually(world.done, PATIENCE)

    world.assert_exactly_once(texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "lost_reply_after_commit", "probability": 0.4},
        {"kind": "error_500_after_commit", "probability": 0.4},
        {"kind": "error_500_before", "probability": 0.4},
        {"kind": "reset_before", "probability": 0.4},
        {"kind": "black_hole", "count": 2},
        {"kind": "latency", "milliseconds": 2000, "count": 3},
        {"kind": "too_many_requests", "retry_after": 2, "count": 3},
    ],
    ids=lambda fault: fault["kind"],
)
def test_sender__network_fails__exactly_once(
    world: World, eventually: Callable[..., object], fault: dict[str, object]
) -> None:
    """Whatever the network does with a request, it ends with one post per account and text."""
    world.sandbox.fault(**fault, seed=7)  # type: ignore[arg-type]
    texts = [f"Post {number % 3}" for number in range(5)]
    for text in texts:
        world.publish(text)

    world.senders.start()
    eventually(world.done, PATIENCE)

    world.assert_exactly_once(texts)


@pytest.mark.slow
def test_sender__two_and_one_dies_again_and_again__exactly_once(
    world: World, eventually: Callable[..., object], tmp_path: Path
) -> None:
    """Two senders, one of them killed at every point in turn, on a network that loses replies."""
    world.sandbox.fault("lost_reply_after_commit", probability=0.1, seed=3)
    texts = [f"Post {number % 4}" for number in range(8)]
    for text in texts:
        world.publish(text)

    world.senders.start()
    for point in SENDER_POINTS:
        doomed = world.senders.start(f"{point}:kill")
        world.publish(extra := f"At {point}")
        texts.append(extra)
        try:
            doomed.wait(3)
        except subprocess.TimeoutExpired:
            doomed.kill()
    eventually(world.done, PATIENCE)

    world.assert_exactly_once(texts)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["sending_committed", "before_request"])
def test_sender__stopped_past_its_lease__sends_nothing_when_it_wakes(
    world: World, eventually: Callable[..., object], point: str, tmp_path: Path
) -> None:
    """A zombie: stopped with the deliveries in its hand, another one finishes them, then the first wakes up."""
    world.publish("An SUV weekend")
    zombie = world.senders.start(
        f"{point}:stop:{tmp_path / 'stopped'}"
    )  # once, or its next delivery stops it again
    eventually(lambda: Path(f"/proc/{zombie.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", 20)

    world.senders.start()
    eventually(world.done, PATIENCE)
    zombie.send_signal(signal.SIGCONT)
    zombie.send_signal(signal.SIGTERM)
    assert zombie.wait(30) == 0

    world.assert_exactly_once(["An SUV weekend"])


@pytest.mark.parametrize("mode", ["honours"], indirect=True)
def test_sender__terminated__finishes_what_it_has(world: World, eventually: Callable[..., object]) -> None:
    """SIGTERM: requests under way are waited for, and their outcomes are on record before the process ends."""
    world.sandbox.fault("latency", milliseconds=800)
    world.publish("An SUV weekend")
    sender = world.senders.start()
    eventually(lambda: any(each.state == "SENDING" for each in world.deliveries()), 20)

    sender.terminate()

    assert sender.wait(20) == 0
    assert all(each.state in {"PUBLISHED", "QUEUED"} for each in world.deliveries())


@pytest.mark.parametrize("mode", ["honours"], indirect=True)
def test_sender__scheduled__never_early_and_soon(world: World, eventually: Callable[..., object]) -> None:
    """A post goes out within two seconds after its time, and not before."""
    world.publish("First")
    world.senders.start()
    eventually(world.done, PATIENCE)
    name = world.publish("Later", timedelta(seconds=2))

    eventually(world.done, PATIENCE)

    later = [each for each in world.deliveries() if each.publication == name]
    assert len(later) == 4
    for delivery in later:
        assert delivery.publish_time is not None
        assert timedelta() <= delivery.publish_time - delivery.due_time < timedelta(seconds=2)


def test_sender__question__comes_in_and_is_answered_once(
    world: World, eventually: Callable[..., object]
) -> None:
    """A comment comes in, linked to the delivery; its answer goes out once, although its first reply is lost."""
    world.publish("An SUV weekend")
    world.senders.start()
    eventually(world.done, PATIENCE)
    (post,) = [each for each in world.sandbox.posts() if each["account"] == "tianshan"]
    with Person(world.sandbox.url, "li-na") as li_na:
        li_na.comment(post["status_id"], "How much is it?")
        li_na.repost(post["status_id"])

    eventually(lambda: len(world.interactions()) == 2, 10)
    kinds = {each.kind: each for each in world.interactions()}
    question = kinds[InteractionKind.COMMENT]
    assert question.text == "@tianshan How much is it?"
    assert {each.delivery for each in kinds.values()} == {
        each.name for each in world.deliveries() if each.network_post_id == post["status_id"]
    }
    world.sandbox.fault("lost_reply_after_commit", count=1)
    with world.database.transaction(TENANT) as tx:
        usecases.answer_interaction(tx, ENTERPRISE, question.name, "Come and see!")
    eventually(
        lambda: any(each.state is InteractionState.ANSWERED for each in world.interactions()), PATIENCE
    )

    answers = [each for each in world.sandbox.posts() if each["in_reply_to_id"]]
    assert [(each["account"], each["text"]) for each in answers[1:]] == [("tianshan", "@li-na Come and see!")]


@pytest.mark.parametrize("mended", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_sender__database_restored__exactly_once(
    world: World, eventually: Callable[..., object], mode: str, *, mended: bool
) -> None:
    """
    The backup knows deliveries as waiting, as under way, and not at all; all were sent after it.

    Without the command a network that ignores keys gets them twice, or this test would prove nothing.
    """
    world.publish("Before the backup")
    killed = world.senders.start("sending_committed:kill")
    assert killed.wait(PATIENCE) == -signal.SIGKILL
    world.publish("The same text")
    world.publish("The same text")
    scheduled, draft = world.draft("Scheduled"), world.draft("Draft")
    world.schedule(scheduled)
    since = world.back_up()
    world.materialise(scheduled)
    world.schedule(draft)
    world.materialise(draft)
    sender = world.senders.start()
    eventually(world.done, PATIENCE)
    sender.terminate()
    assert sender.wait(PATIENCE) == 0

    world.restore()
    assert Counter(each.state for each in world.deliveries()) == {"SENDING": 4, "QUEUED": 8}
    if mended:
        world.senders.restored(since)
    world.materialise(scheduled)
    world.schedule(draft)
    world.materialise(draft)
    world.publish("After the restoration")
    world.senders.start()
    eventually(world.done, PATIENCE)

    texts = [
        "Before the backup",
        "The same text",
        "The same text",
        "Scheduled",
        "Draft",
        "After the restoration",
    ]
    if mended or mode == "honours":
        world.assert_exactly_once(texts)
    else:
        with pytest.raises(AssertionError):
            world.assert_exactly_once(texts)


@pytest.mark.parametrize("mode", ["honours"], indirect=True)
def test_sender__one_account_in_a_black_hole__the_others_go_on(
    world: World, eventually: Callable[..., object]
) -> None:
    """An unknown outcome holds its own account's posts, and nobody else's."""
    world.sandbox.fault("black_hole", accounts=["tianshan"])
    for number in range(5):
        world.publish(f"Post {number}")
    began = time.monotonic()
    world.senders.start()

    eventually(lambda: len(world.sandbox.posts()) == 15, 20)

    assert time.monotonic() - began < 15
    held = [each for each in world.deliveries() if each.account == world.accounts[0].name]
    assert sum(each.state == "QUEUED" for each in held) == 4


def test_sender__is_ready_with_its_database(
    make_database: Callable[..., TemporaryDatabase], eventually: Callable[..., object]
) -> None:
    """M13: /readyz turns within 2 seconds with the database's loss and return; the process lives on."""
    database = make_database("publishing")
    target, (port,) = int(conninfo_to_dict(database.url)["port"] or 0), free_ports(1)
    proxy, senders = Proxy(port, target), Senders(database, X25519PrivateKey.generate())
    process = senders.start(
        PUBLISHING_DATABASE_URL=url_of(database.url).replace(f":{target}/", f":{port}/"),
        PUBLISHING_METRICS_PORT=str(senders.metrics_port),
    )
    try:
        eventually(lambda: probe(senders.metrics_port, "/readyz") == (200, "ok"), timeout=PATIENCE)
        proxy.forwarding.clear()
        eventually(lambda: probe(senders.metrics_port, "/readyz") == (503, "missing: database"), timeout=2)
        assert probe(senders.metrics_port, "/healthz") == (200, "ok")
        proxy.close()
        proxy = Proxy(port, target)
        eventually(lambda: probe(senders.metrics_port, "/readyz") == (200, "ok"), timeout=3)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        senders.close()
        proxy.close()


@pytest.mark.parametrize("mode", ["honours"], indirect=True)
def test_sender__counts_what_it_does(world: World, eventually: Callable[..., object]) -> None:
    """Outcomes by step and state, and how late deliveries left, on the metrics port of its own process."""
    world.publish("An SUV weekend")
    port = world.senders.metrics_port
    world.senders.start(PUBLISHING_METRICS_PORT=str(port))
    eventually(world.done, PATIENCE)

    # The database hears of an outcome before it is counted.
    eventually(lambda: measured_at(port, "numerator_publishing_outcomes_total", state="PUBLISHED") == 4)
    assert measured_at(port, "numerator_publishing_outcomes_total", step="SEND") == 4
    assert measured_at(port, "numerator_publishing_lateness_seconds_count") == 4
