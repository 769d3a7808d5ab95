"""
How fast analytics takes a file of engagement in, as a ratio to reading the same file with `json.loads` and no more.

    python -m tests.bench.ingest [FILE …]

Files are JSON Lines as in docs/engagements.md; without any, 574 posts and 100,000 reposts are made up. The api process runs
as in production, on a PostgreSQL of its own that flushes to the disk.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc
from rich.console import Console
from rich.table import Table

from deploy.local.postgres import Postgres
from services.chassis.testing.databases import Databases
from services.chassis.testing.processes import Processes
from services.chassis.testing.rpc import member, metadata_of
from services.chassis.testing.servers import free_ports

ENTERPRISE = "enterprises/bench"
OWNER = metadata_of(member(ENTERPRISE))
POSTS, REPOSTS = 574, 100_000
CHUNK_BYTES = 64 * 1024


def made_up(seed: int = 1) -> bytes:
    """Cascades of reposts: most answer another one, in no order, and one in a hundred comes twice."""
    chance = random.Random(seed)

    def new_id() -> str:
        return f"{chance.getrandbits(64):016x}"

    posts = [new_id() for _ in range(POSTS)]
    lines = [{"type": "post", "post": post, "user": new_id(), "time": 1356906812} for post in posts]
    ids = [new_id() for _ in range(REPOSTS)]
    reposts = [
        {
            "type": "repost",
            "id": id_,
            "post": chance.choice(posts),
            "parent": chance.choice([None, chance.choice(ids)]),
            "user": new_id(),
            "time": f"2012-12-31T{chance.randrange(8, 24):02d}:{chance.randrange(60):02d}:41+08:00",
        }
        for id_ in ids
    ]
    reposts += chance.sample(reposts, REPOSTS // 100)
    return b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, *reposts])


def parts(whole: bytes) -> Iterator[pb.IngestEngagementsRequest]:
    """A file as the gateway sends it on."""
    yield pb.IngestEngagementsRequest(parent=ENTERPRISE)
    for first in range(0, len(whole), CHUNK_BYTES):
        part = pb.IngestEngagementsRequest()
        part.body.data = whole[first : first + CHUNK_BYTES]
        yield part


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(
    stub: pb_grpc.AnalyticsServiceStub, whole: bytes
) -> tuple[pb.IngestEngagementsResponse, float, float]:
    """The report on a file, the seconds until it was there, and those until all of it was in the numbers as well."""
    began = time.perf_counter()
    report = stub.IngestEngagements(parts(whole), metadata=OWNER, timeout=600)
    taken_in = time.perf_counter() - began
    question = pb.QueryMetricsRequest(parent=ENTERPRISE, metrics=["posts", "engagements"])
    while not (answer := stub.QueryMetrics(question, metadata=OWNER, timeout=60)).HasField("fresh_time"):
        pass
    in_numbers = time.perf_counter() - began
    assert sum(answer.rows[0].values) == report.accepted_count
    return report, taken_in, in_numbers


def main(paths: Sequence[str]) -> None:
    """Measure, and print one table."""
    whole = b"".join(Path(path).read_bytes() for path in paths) if paths else made_up()
    lines = whole.splitlines()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)  # PostgreSQL's user must reach it
        server = Postgres(home / "postgres", *free_ports(1))
        server.prepare()
        server.start()
        try:
            database = Databases(server.url).make("analytics")
            processes = Processes(
                "analytics", database, "amqp://none", home, ANALYTICS_STORE_PATH=str(home / "store")
            )
            processes.start("api")
            try:
                with processes.serving(pb.DESCRIPTOR.services_by_name["AnalyticsService"], 60) as served:
                    baseline = seconds(lambda: [json.loads(line) for line in lines])
                    stub = pb_grpc.AnalyticsServiceStub(served)
                    report, taken_in, in_numbers = measure(stub, whole)
                    again = seconds(lambda: stub.IngestEngagements(parts(whole), metadata=OWNER, timeout=600))
                    baseline = (baseline + seconds(lambda: [json.loads(line) for line in lines])) / 2
            finally:
                processes.stop()
            database.close()
        finally:
            server.stop()
    table = Table("", "rows/s", "times as long as json.loads", title=f"{len(lines):,} lines")
    for what, took in {
        "json.loads alone": baseline,
        "taken in": taken_in,
        "taken in and in the numbers": in_numbers,
        "sent again: nothing changes": again,
    }.items():
        table.add_row(what, f"{len(lines) / took:,.0f}", f"{took / baseline:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"accepted {report.accepted_count:,}, repeated {report.duplicate_count:,}, orphans {report.orphan_count:,}, "
        f"rejected {dict(report.rejected_by_reason)}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
