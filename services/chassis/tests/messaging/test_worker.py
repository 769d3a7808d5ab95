"""A worker process: each event has its effect once, whatever happens to the process, its broker and its database."""

import random
import re
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pika
import psycopg
import pytest
from numerator.events.v1.accounts_pb2 import AccountBound, AccountUnbound, EnterpriseVerified

from services.chassis.ids import new_id
from services.chassis.messaging import topology
from services.chassis.messaging.process import STUCK
from services.chassis.testing.probing import probe
from services.chassis.testing.proxy import Proxy
from services.chassis.testing.servers import free_ports
from services.chassis.tests.messaging.helpers import (
    UNBOUND,
    Broker,
    OwnBroker,
    Sample,
    WorkerProcess,
    wire,
)

DEAD = topology.dead_queue(UNBOUND)
Start = Callable[..., WorkerProcess]


def test_worker__handles_and_tells(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """An event has its effect, and the event that the handler emits is told."""
    start_worker()
    ids = database.emit("enterprises/e/accounts/1", message=AccountBound(handle="h"))
    eventually(lambda: database.effects("on_bound") == ids)
    eventually(lambda: database.unsent() == 0)
    assert [headers["type"] for headers, _ in broker.take(topology.UNROUTED)] == [
        "accounts.enterprise.verified"
    ]


def test_worker__duplicates(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """Each event three times over has one effect each."""
    ids = [new_id() for _ in range(100)]
    channel = broker.channel()
    for event_id in random.Random(1).sample(ids * 3, 300):
        body, properties = wire(AccountUnbound(account="a"), event_id=event_id, subject=f"s/{event_id}")
        channel.basic_publish("", UNBOUND, body, pika.BasicProperties(**properties))
    channel.connection.close()
    worker = start_worker()
    eventually(lambda: re.search(r"messaging_client_consumed_messages\w*{[^}]*} 300", worker.metrics()), 20)
    eventually(lambda: re.search(r"numerator_messaging_duplicates\w*{[^}]*} 200", worker.metrics()))
    assert worker.terminate() == 0
    assert sorted(database.effects()) == sorted(ids)
    assert broker.length(UNBOUND) == 0


def test_worker__refused(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """What a handler refuses is a dead letter at once, with reason and attempts, and with its own headers and body."""
    start_worker()
    body, properties = wire(AccountUnbound(account="a"), subject="refuse", custom="kept")
    broker.put(UNBOUND, body, **properties)
    eventually(lambda: broker.length(DEAD) == 1)
    ((headers, dead_body),) = broker.take(DEAD)
    assert (headers["numerator-reason"], headers["numerator-attempts"]) == ("NOT_NOW", 1)
    assert headers["numerator-detail"] == "not now"
    assert properties["headers"].items() <= headers.items()
    assert dead_body == body
    assert database.effects() == []


@pytest.mark.parametrize(("subject", "reason"), [("busy", "DOWN"), ("bug", "UNEXPECTED")])
def test_worker__tried_again(  # noqa: PLR0917 -- fixtures
    database: Sample, broker: Broker, start_worker: Start, eventually, subject: str, reason: str
) -> None:
    """What may pass is tried 8 times, with growing delays, then a dead letter with the reason (M5)."""
    start_worker(retry_unit="timedelta(milliseconds=20)")
    body, properties = wire(AccountUnbound(account="a"), subject=subject)
    broker.put(UNBOUND, body, **properties)
    eventually(lambda: broker.length(DEAD) == 1, 30)
    ((headers, _body),) = broker.take(DEAD)
    assert (headers["numerator-reason"], headers["numerator-attempts"]) == (reason, 8)
    assert database.query("select count(*) from attempts") == [8]
    assert not [name for name in headers if name.startswith("x-death")]


def test_worker__retries_stand_in_nobodys_way(
    database: Sample, broker: Broker, start_worker: Start, eventually
) -> None:
    """While an event waits for its next attempt, later ones pass."""
    start_worker()
    for _ in range(20):
        body, properties = wire(AccountUnbound(account="a"), subject="busy")
        broker.put(UNBOUND, body, **properties)
    (event_id,) = database.emit("s")
    eventually(lambda: database.effects() == [event_id], 5)


def poison(dice: random.Random) -> tuple[bytes, dict[str, Any]]:
    """A message that no handler can take, of some kind."""
    body, good = wire(AccountUnbound(account="a"))
    headers = good["headers"]
    junk = dice.randbytes(dice.randrange(200))
    kinds: list[tuple[bytes, dict[str, Any]]] = [
        (junk, {}),
        (junk, good),
        (body, {"headers": headers}),
        (
            body,
            good | {"content_type": dice.choice(["", "application/x-python-serialize", "text/plain", "\0"])},
        ),
        (body, good | {"headers": headers | {"type": "accounts.account.bound"}}),
        (body, good | {"headers": headers | {dice.choice(["id", "type", "subject", "time"]): ""}}),
        (body, good | {"headers": {name: headers[name] for name in ("id", "type", "subject")}}),
        (body, good | {"headers": headers | {"id": dice.choice([7, None, [], {}, "x" * 5000, "a\0"])}}),
        (body, good | {"headers": headers | {"enterprise": "nobody"}}),
        (zlib.compress(junk), good | {"headers": headers | {"compression": "zlib"}}),
        (
            junk,
            good | {"headers": headers | {"compression": "application/x-gzip"}, "content_encoding": "binary"},
        ),
        (b"\xff\xfe", good | {"content_encoding": "utf-16"}),
        (b"{}", good),
        (b"[" * dice.randrange(1, 100_000), good),
        (wire(EnterpriseVerified())[0] + b"}", good),
        (body, good | {"headers": headers | {"time": "99999-13-13"}}),
        (body, good | {"headers": headers | {"numerator-attempts": "many", "id": ""}}),
        (junk, {"headers": {"x-death": "nothing", "deep": {"a": [{"b": [1, None, b"\xff"]}]}}}),
    ]
    return dice.choice(kinds)


def test_worker__poison(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """1,000 messages of any bytes are dead letters with reasons; the process lives, and good ones pass (M4)."""
    worker = start_worker()
    dice, channel, good = random.Random(3), broker.channel(), []
    for number in range(1000):
        body, properties = poison(dice)
        channel.basic_publish("", UNBOUND, body, pika.BasicProperties(**properties))
        if number % 100 == 99:
            good.append(new_id())
            body, properties = wire(AccountUnbound(account="a"), event_id=good[-1], subject="s")
            channel.basic_publish("", UNBOUND, body, pika.BasicProperties(**properties))
    channel.connection.close()
    eventually(lambda: set(database.effects()) >= set(good), 60)
    eventually(lambda: broker.length(DEAD) == 1000, 60)
    assert database.effects() == good
    reasons = [headers["numerator-reason"] for headers, _body in broker.take(DEAD)]
    assert set(reasons) == {"MISSING_HEADER", "INVALID_HEADER", "WRONG_TYPE", "UNDECODABLE", "EMPTY"}
    assert worker.process.poll() is None
    assert worker.logged("consumer.lost_connection") == 0


def test_worker__unreadable_properties(
    database: Sample, broker: Broker, start_worker: Start, eventually
) -> None:
    """Properties that py-amqp cannot read end neither process nor connection."""
    worker = start_worker()
    raw_publish(broker, UNBOUND, b"body", content_type=b"\xff\xfe")
    eventually(lambda: broker.length(DEAD) == 1)
    ((headers, body),) = broker.take(DEAD)
    assert (headers["numerator-reason"], body) == ("UNREADABLE_PROPERTIES", b"body")
    assert worker.logged("consumer.connected") == 1


def raw_publish(broker: Broker, queue: str, body: bytes, *, content_type: bytes) -> None:
    """Publish with a content type of any bytes, which no client library does."""
    channel = broker.channel()
    properties = pika.BasicProperties(content_type="?" * len(content_type), delivery_mode=2)
    encode = properties.encode
    properties.encode = lambda: [piece.replace(b"?" * len(content_type), content_type) for piece in encode()]
    channel.basic_publish("", queue, body, properties)
    channel.connection.close()


def test_worker__huge_body(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """A body of 15 MB is a dead letter, and whole."""
    start_worker()
    _body, properties = wire(AccountUnbound(account="a"))
    broker.put(UNBOUND, b"x" * 15_000_000, **properties)
    eventually(lambda: broker.length(DEAD) == 1, 30)
    ((headers, body),) = broker.take(DEAD)
    assert (headers["numerator-reason"], len(body)) == ("TOO_LARGE", 15_000_000)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker__no_place_for_dead_letters(
    database: Sample, own_broker: OwnBroker, start_worker: Start, eventually
) -> None:
    """
    When a dead letter of ours has no place, the broker makes one and keeps it until there is a place (RQ-1).

    It tries again every three minutes; that it holds the message is enough here.
    """
    own_broker.prepare()
    worker = start_worker(own_broker.url)
    channel = own_broker.channel()
    channel.queue_unbind(DEAD, topology.DEAD, UNBOUND)
    channel.connection.close()
    own_broker.put(UNBOUND, b"poison")
    eventually(lambda: worker.logged("event.dead_lettered") == 1)
    # How many dead letters a queue holds, and their bytes; rabbitmqctl has no word for it.
    held = f"ra:local_query({{'%2F_{UNBOUND}', node()}}, fun rabbit_fifo:query_stat_dlx/1)."
    eventually(lambda: "{1,6}" in own_broker.control("eval", held), 20, 1)
    (event_id,) = database.emit("s")
    eventually(lambda: database.effects() == [event_id])


def test_worker__drains(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """SIGTERM lets 3 s handlers finish and answers for them; what had not begun goes back (NK-4, M7)."""
    worker = start_worker(concurrency=3)
    ids = database.emit(*[f"sleep/3/{n}" for n in range(5)])
    eventually(lambda: database.query("select count(*) from attempts") == [3])
    begin = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - begin < 15
    assert sorted(database.effects()) == sorted(ids[:3])
    eventually(lambda: broker.length(UNBOUND) == 2)
    assert sorted(headers["id"] for headers, _body in broker.take(UNBOUND)) == sorted(ids[3:])


@pytest.mark.parametrize("kind", ["sleep", "spin"])
def test_worker__stuck_handler(
    database: Sample, broker: Broker, start_worker: Start, eventually, kind: str
) -> None:
    """A handler that does not end, or does not even give way, cannot keep the process: nor does a second SIGTERM."""
    worker = start_worker(drain=2)
    database.emit(f"{kind}/4.5")
    eventually(lambda: database.query("select subject from attempts") == [f"{kind}/4.5"])
    begin = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(10) == 1
    assert time.monotonic() - begin < 4
    assert worker.logged("worker.stopped_late") == 1


def test_worker__queries_do_not_stop_the_others(
    database: Sample, broker: Broker, start_worker: Start, eventually
) -> None:
    """Ten handlers that wait a second each for the database take about a second together (PG-5)."""
    start_worker(concurrency=10)
    database.emit(*[f"sleep/1/{n}" for n in range(10)])
    eventually(lambda: len(database.effects()) == 10)
    with psycopg.connect(database.admin_url) as admin:
        (spread,) = admin.execute(
            "select max(received_time) - min(received_time) from sample.inbox"
        ).fetchone()
    assert spread.total_seconds() < 0.9


def test_worker__keeps_order(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """Two processes with many handlers at once, and yet the events of one subject have their effects in order."""
    start_worker()
    start_worker()
    subjects = [f"jitter/{number}" for number in range(5)]
    for number in range(30):
        for subject in subjects:
            database.emit(subject, message=AccountUnbound(account=str(number)))
    eventually(lambda: len(database.effects()) == 150, 30)
    for subject in subjects:
        values = database.query("select value from effects where subject = %s order by number", subject)
        assert values == [str(number) for number in range(30)]


def test_worker__metrics(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """/metrics answers, counts what was consumed and sent, and tells the outbox's lag."""
    worker = start_worker()
    ids = database.emit("s", "s", "refuse")
    eventually(lambda: len(database.effects()) == 2 and broker.length(DEAD) == 1)
    metrics = eventually(lambda: (text := worker.metrics()) and "dead_letters" in text and text)
    assert re.search(r"messaging_client_consumed_messages\w*{[^}]*on_unbound[^}]*} 3", metrics)
    assert re.search(r"messaging_client_sent_messages\w*{[^}]*} 3", metrics)
    assert re.search(r"numerator_messaging_dead_letters\w*{[^}]*NOT_NOW[^}]*} 1", metrics)
    assert re.search(r"numerator_outbox_lag\w*{[^}]*sample[^}]*} \d", metrics)
    assert len(ids) == 3


def test_worker__silent_collector(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """A collector that accepts and never answers delays no event, and no drain (OT-1)."""
    with socket.create_server(("127.0.0.1", 0)) as collector:
        worker = start_worker(collector=f"http://127.0.0.1:{collector.getsockname()[1]}", drain=15)
        for _ in range(3):
            ids = database.emit(*["s"] * 10)
            eventually(lambda ids=ids: set(ids) <= set(database.effects()))
        database.emit(*[f"sleep/1/{n}" for n in range(10)])
        eventually(lambda: len(database.effects()) == 40)
        assert worker.terminate() == 0
    (spread,) = database.query(
        "select max(received_time) - min(received_time) from (select * from inbox order by received_time desc limit 10)"
    )
    assert spread.total_seconds() < 0.9


def test_worker__jobs_do_not_overlap(
    database: Sample, broker: Broker, start_worker: Start, eventually
) -> None:
    """A periodic job that takes longer than its period runs again, but never twice at once."""
    start_worker()
    eventually(lambda: len(database.effects("tick")) >= 6, 20)
    events = database.effects("tick")
    assert events == (["begin", "end"] * len(events))[: len(events)]


def test_worker__database_away(database: Sample, broker: Broker, start_worker: Start, eventually) -> None:
    """Without its database a worker waits, and burns no attempts; afterwards all have their effect."""
    worker = start_worker()
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        admin.execute("alter role sample nologin")
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'sample'")
        ids = []
        try:
            for number in range(20):
                body, properties = wire(AccountUnbound(account="a"), subject=f"s/{number}")
                broker.put(UNBOUND, body, **properties)
                ids.append(properties["headers"]["id"])
            eventually(lambda: worker.logged("handler.waits_for_database") > 10, 20)
        finally:
            admin.execute("alter role sample login")
    eventually(lambda: set(database.effects()) == set(ids), 30)
    assert worker.logged("event.retried") == worker.logged("event.dead_lettered") == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker__broker_comes_later(
    database: Sample, own_broker: OwnBroker, start_worker: Start, eventually
) -> None:
    """A worker that starts before its broker waits for it, answers /metrics meanwhile, and can be stopped."""
    worker = start_worker(own_broker.url, ready=False)
    other = start_worker(own_broker.url, ready=False)
    eventually(lambda: other.logged("worker.started"), 20)
    eventually(lambda: other.logged("consumer.lost_connection"), 20)
    assert "numerator_outbox_lag" in other.metrics()
    assert other.terminate() == 0
    ids = database.emit("s")
    own_broker.start()
    eventually(lambda: database.effects() == ids, 60)
    assert worker.process.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker__broker_killed_during_events(
    database: Sample, own_broker: OwnBroker, start_worker: Start, eventually
) -> None:
    """Kill -9 of the broker, twice, while 2,000 events pass: none is lost, each has its effect once (M2)."""
    own_broker.prepare()
    worker = start_worker(own_broker.url)
    ids: list[str] = []

    def write() -> None:
        for _ in range(100):
            ids.extend(database.emit(*[f"s{n}" for n in range(20)]))

    writer = threading.Thread(target=write)
    writer.start()
    for done in (200, 1000):
        eventually(lambda done=done: len(database.effects()) >= done, 60)
        own_broker.kill()
        own_broker.start()
    writer.join()
    eventually(lambda: len(database.effects()) >= 2000, 100)
    assert sorted(database.effects()) == sorted(ids)
    assert database.unsent() == 0
    assert worker.process.poll() is None
    assert worker.logged("event.dead_lettered") == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker__killed_again_and_again(
    database: Sample, broker: Broker, start_worker: Start, eventually
) -> None:
    """Kill -9 of the worker, five times, among events: each has its effect once (M6)."""
    ids = []
    for round_ in range(5):
        worker = start_worker()
        ids += database.emit(*["s"] * 200)
        eventually(lambda round_=round_: len(database.effects()) >= 200 * round_ + 50, 30)
        worker.process.kill()
        worker.process.wait()
    start_worker()
    eventually(lambda: len(database.effects()) >= 1000, 60)
    assert sorted(database.effects()) == sorted(ids)


@pytest.fixture
def proxy(broker: Broker) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the broker, and the broker's URL through it."""
    (port,) = free_ports(1)
    target = pika.URLParameters(broker.url).port
    proxy = Proxy(port, target)
    yield proxy, broker.url.replace(f":{target}/", f":{port}/")
    proxy.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker__black_hole(
    database: Sample, broker: Broker, start_worker: Start, eventually, proxy: tuple[Proxy, str]
) -> None:
    """A broker that falls silent without closing (NK-6): the worker connects anew by itself, or ends to be restarted."""
    hole, url = proxy
    worker = start_worker(url, heartbeat=2, stuck=30)
    ids = database.emit("s")
    eventually(lambda: database.effects() == ids)
    hole.forwarding.clear()
    eventually(lambda: worker.logged("consumer.lost_connection") or worker.process.poll() == STUCK, 40)
    hole.forwarding.set()
    if worker.process.poll() is not None:
        worker = start_worker(url)
    ids += database.emit("s")
    eventually(lambda: sorted(database.effects()) == sorted(ids), 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker__watchdog(
    database: Sample, broker: Broker, start_worker: Start, proxy: tuple[Proxy, str]
) -> None:
    """A worker that sees neither message nor heartbeat for too long ends, for its supervisor to start it again."""
    hole, url = proxy
    worker = start_worker(url, heartbeat=60, stuck=4)
    hole.forwarding.clear()
    assert worker.process.wait(15) == STUCK
    assert worker.logged("worker.stuck") == 1


def test_worker__is_ready_with_broker_and_database(
    database: Sample, broker: Broker, start_worker: Start, eventually
) -> None:
    """M13: /readyz turns within 2 seconds with each loss and return, naming what is missing; /healthz does not care."""
    ports = dict(zip(("broker", "database"), free_ports(2), strict=True))
    targets = {"broker": pika.URLParameters(broker.url).port, "database": database.port}
    proxies = {name: Proxy(ports[name], targets[name]) for name in ports}
    worker = start_worker(
        broker.url.replace(f":{targets['broker']}/", f":{ports['broker']}/"), database_port=ports["database"]
    )
    port = worker.metrics_port
    eventually(lambda: probe(port, "/readyz") == (200, "ok"))
    seen = []

    proxies["database"].forwarding.clear()  # it hangs
    eventually(lambda: probe(port, "/readyz") == (503, "missing: database"), 2)
    seen.append(probe(port, "/healthz"))
    proxies["database"].close()  # it is gone
    proxies["database"] = Proxy(ports["database"], targets["database"])
    eventually(lambda: probe(port, "/readyz").status == 200, 3)
    proxies["broker"].close()
    eventually(lambda: probe(port, "/readyz") == (503, "missing: broker"), 2)
    seen.append(probe(port, "/healthz"))
    proxies["broker"] = Proxy(ports["broker"], targets["broker"])
    eventually(lambda: probe(port, "/readyz").status == 200)
    database.emit("sleep/2")
    eventually(lambda: database.query("select count(*) from attempts") == [1])
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: probe(port, "/readyz") == (503, "it stops"), 2)

    assert seen == [(200, "ok")] * 2
    assert worker.process.wait(20) == 0
    for each in proxies.values():
        each.close()
