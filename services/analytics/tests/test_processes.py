"""migrate, api and worker as they run in production, the api killed while it takes facts in, and what guardrails hear."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pika
import pytest
from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc
from numerator.events.v1.accounts_pb2 import AccountBound, AccountReauthRequired
from numerator.events.v1.analytics_pb2 import GuardrailMeasured

from services.analytics import store
from services.analytics.tests.test_guardrails import (
    BINDING,
    ERRORS,
    FAILED,
    LATENCY,
    PUBLISH,
    report,
    through,
    usage,
)
from services.analytics.tests.test_guardrails import (
    numbers as guardrail_numbers,
)
from services.analytics.tests.test_worker import BRAND, PUBLICATION, published, received
from services.analytics.tests.world import OWNER, TIANSHAN, fact, post, raw, repost
from services.chassis.database import Tenant
from services.chassis.events import decode, event_type
from services.chassis.testing.broker import Broker
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.processes import Processes
from services.chassis.testing.rpc import gateway, metadata_of

SERVICE = pb.DESCRIPTOR.services_by_name["AnalyticsService"]
FACTS = 240_000
UNFINISHED, FINISHED = "tmp_insert", "all"
"""How ClickHouse names a part while it is written, and when it is whole."""


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase]) -> TemporaryDatabase:
    """The service's database."""
    return make_database("analytics")


@pytest.fixture
def processes(database: TemporaryDatabase, amqp_url: str, tmp_path: Path) -> Processes:
    """The service's processes, with a store in `tmp_path`."""
    logs = tmp_path / "logs"
    logs.mkdir()
    return Processes("analytics", database, amqp_url, logs, ANALYTICS_STORE_PATH=str(tmp_path / "store"))


@contextmanager
def calling(processes: Processes) -> Iterator[pb_grpc.AnalyticsServiceStub]:
    """The api process, when it is ready."""
    with processes.serving(SERVICE, timeout=60) as served:
        yield pb_grpc.AnalyticsServiceStub(served)


def numbers(stub: pb_grpc.AnalyticsServiceStub, *metrics: str, dimension: str = "") -> dict[str, list[float]]:
    """The answer to a question of the owner of TIANSHAN, by one dimension."""
    request = pb.QueryMetricsRequest(
        parent=TIANSHAN, metrics=metrics, dimensions=[dimension] if dimension else [], page_size=10_000
    )
    answer = stub.QueryMetrics(request, metadata=metadata_of(OWNER), timeout=30)
    assert not answer.next_page_token
    return {"".join(row.dimensions): list(row.values) for row in answer.rows}


@pytest.mark.slow
def test_processes__files_and_events_become_numbers(
    processes: Processes, amqp_url: str, eventually: Callable[..., object]
) -> None:
    """What the broker brings and what a file holds meet in one answer; after a clean stop the store goes on."""
    processes.run("migrate")
    lines = [post("p"), repost("r1"), repost("r2", "77")]
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        broker = Broker(connection, "analytics")
        try:
            processes.start("api")
            processes.start("worker")
            with calling(processes) as stub:
                for _ in range(2):
                    broker.tell(published("77"), TIANSHAN, event_id="published-1")
                    broker.tell(received("1"), TIANSHAN)
                eventually(lambda: numbers(stub, "posts", "comments")[""] == [1, 1], timeout=30)
                report = stub.IngestEngagements(iter([_part(lines)]), metadata=metadata_of(OWNER), timeout=30)
                assert report.accepted_count == 3
                by_publication = {"": [1, 1, 0], PUBLICATION: [1, 1, 1]}
                asked = ("posts", "reposts", "comments")
                assert numbers(stub, *asked, dimension="publication") == by_publication
            processes.stop()
            processes.start("api")
            with calling(processes) as stub:
                assert numbers(stub, *asked, dimension="publication") == by_publication
        finally:
            processes.stop()


def _part(lines: list[dict[str, object]]) -> pb.IngestEngagementsRequest:
    part = pb.IngestEngagementsRequest(parent=TIANSHAN)
    part.body.data = raw(lines)
    return part


@pytest.mark.slow
def test_worker__tells_guardrails(
    processes: Processes, amqp_url: str, eventually: Callable[..., object]
) -> None:
    """
    What events and two gateways tell, each more than once, is heard through the broker as exact sums, and freshness grows
    while nothing happens.
    """
    processes.run("migrate")
    now = datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0)
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        broker, ear = Broker(connection, "analytics"), _Ear(connection)
        try:
            processes.start("api")
            processes.start("worker")
            for number, event in enumerate(
                (
                    published("1"),
                    published("2"),
                    FAILED,
                    AccountBound(account=BRAND),
                    AccountReauthRequired(account=BRAND),
                )
            ):
                for _ in range(3):
                    broker.tell(event, TIANSHAN, event_id=f"guardrail-{minute}-{number}", time=now)
            with calling(processes) as stub:
                for replica in ("a", "b", "a"):
                    for number in range(5):
                        sent = report(
                            number, usage(minute=now, requests=3, slow=1), replica=replica, through=now
                        )
                        stub.RecordUsage(sent, metadata=metadata_of(gateway()), timeout=10)
            expected = {PUBLISH: (3, 1), BINDING: (2, 1), ERRORS: (30, 0), LATENCY: (30, 10)}
            eventually(
                lambda: (
                    guardrail_numbers(ear.heard())
                    == {(metric, minute, TIANSHAN): value for metric, value in expected.items()}
                ),
                timeout=30,
            )
            fresh = eventually(lambda: through(ear.heard()).get(PUBLISH), timeout=20)
            eventually(lambda: through(ear.heard())[PUBLISH] > fresh, timeout=20)
            assert through(ear.heard())[ERRORS] == now
        finally:
            processes.stop()


class _Ear:
    """Hears what is told to guardrails."""

    def __init__(self, connection: pika.BlockingConnection) -> None:
        self._channel = connection.channel()
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.queue_bind(self._queue, "numerator.events", event_type(GuardrailMeasured))
        self._heard: list[GuardrailMeasured] = []

    def heard(self) -> list[GuardrailMeasured]:
        """All so far."""
        while True:
            method, properties, body = self._channel.basic_get(self._queue, auto_ack=True)
            if method is None:
                return self._heard
            self._heard.append(decode(properties.content_type, body, GuardrailMeasured))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_api__killed_while_it_takes_facts_in__has_each_once(
    processes: Processes, database: TemporaryDatabase, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    """Killed with -9 in the middle of an insert, again and again: at the end all facts are there, and none twice."""
    _fill_log(database)

    def parts(beginning: str) -> set[tuple[str, int]]:
        """The store's parts whose names begin so."""
        found = set()
        for path in (tmp_path / "store").glob(f"store/*/*/{beginning}*"):
            with suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_ino))
        return found

    met = 0
    try:
        for first_insert in (True, False, True, False):
            left, before = parts(UNFINISHED), parts(FINISHED)
            processes.start("api")

            def to_be_killed(
                left: set[tuple[str, int]] = left,
                before: set[tuple[str, int]] = before,
                first_insert: bool = first_insert,
            ) -> bool:
                """An insert is under way: the first since the start, or one after another was done."""
                now = parts(UNFINISHED)
                left &= now
                return bool(now - left) and (first_insert or bool(parts(FINISHED) - before))

            eventually(to_be_killed, timeout=60, interval=0.0005)
            processes.kill("api")
            met += bool(parts(UNFINISHED))
        assert met, "no kill met an insert"
        assert parts(FINISHED), "no insert was done before a kill"
        processes.start("api")
        with calling(processes) as stub:
            by_post = numbers(stub, "reposts", "engaged_people", dimension="post")
        assert by_post == {f"p{number}": [FACTS / 100] * 2 for number in range(100)}
    finally:
        processes.stop()


def _fill_log(database: TemporaryDatabase) -> None:
    """Large changes and small ones, as files and events make them."""
    facts = [
        fact(f"event:{number:08d}", post=f"p{number % 100}", person=f"user-{number:024d}")
        for number in range(FACTS)
    ]
    sizes = [1] * 100 + [5_000] * (FACTS // 5_000 - 1) + [4_900]
    begin = 0
    for size in sizes:
        with database.transaction(Tenant(TIANSHAN)) as tx:
            store.append_facts(tx, TIANSHAN, facts[begin : begin + size])
        begin += size
    assert begin == FACTS
