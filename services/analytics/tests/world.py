"""What the tests of analytics share: the service as it runs, and lines of files."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc

from services.analytics import store, usecases
from services.analytics.columns import Columns
from services.analytics.model import Fact, Kind
from services.analytics.settings import Settings
from services.analytics.worker import Worker
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Follower, Tenant
from services.chassis.principal import Principal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import RunningServer, client, member

TIANSHAN = "enterprises/tianshan"
KUNLUN = "enterprises/kunlun"
OWNER = member(TIANSHAN)
APP = client(TIANSHAN, ["engagements.write", "analytics.read"])
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
NOON_SECONDS = int(NOON.timestamp())

_numbers = itertools.count()


def new_enterprise() -> str:
    """The name of an enterprise that no other test has used."""
    return f"enterprises/e{next(_numbers)}"


def post(name: str = "p", seconds: int = 0, **more: Any) -> dict[str, Any]:
    """The line of a post, so many seconds after noon."""
    return {"type": "post", "post": name, "user": "author", "time": NOON_SECONDS + seconds} | more


def repost(id_: str, of: str = "p", seconds: int = 60, **more: Any) -> dict[str, Any]:
    """The line of a repost, so many seconds after noon."""
    return {"type": "repost", "id": id_, "post": of, "user": "u", "time": NOON_SECONDS + seconds} | more


def fact(id_: str, kind: Kind = Kind.REPOST, time: datetime = NOON, **more: Any) -> Fact:
    """A fact, as the platform itself tells it."""
    return Fact(id_, kind, time, **more)


def raw(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """A file of these lines."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass
class World:
    """The service, served, with its columnar store."""

    database: TemporaryDatabase
    clock: FixedClock
    columns: Columns
    follower: Follower
    running: RunningServer
    _stubs: dict[Principal, pb_grpc.AnalyticsServiceStub] = field(default_factory=dict)

    def as_(self, principal: Principal) -> pb_grpc.AnalyticsServiceStub:
        """The service, as somebody sees it."""
        if principal not in self._stubs:
            self._stubs[principal] = pb_grpc.AnalyticsServiceStub(self.running.as_(principal))
        return self._stubs[principal]

    def ingest(
        self,
        lines: Iterable[Mapping[str, Any]] | bytes,
        principal: Principal = OWNER,
        parent: str = "",
        *,
        piece: int = 64 * 1024,
    ) -> pb.IngestEngagementsResponse:
        """Send a file, in pieces of so many bytes."""
        whole = lines if isinstance(lines, bytes) else raw(lines)

        def pieces() -> Iterator[pb.IngestEngagementsRequest]:
            yield pb.IngestEngagementsRequest(parent=parent or principal.enterprise)
            for first in range(0, len(whole), piece):
                part = pb.IngestEngagementsRequest()
                part.body.data = whole[first : first + piece]
                yield part

        return self.as_(principal).IngestEngagements(pieces())

    def remember(self, facts: Sequence[Fact], enterprise: str = TIANSHAN) -> None:
        """What the worker does with facts that the platform tells."""
        with self.database.transaction(Tenant(enterprise)) as tx:
            usecases.remember(tx, enterprise, facts)

    def ask(
        self,
        metrics: Sequence[str] = ("engagements",),
        dimensions: Sequence[str] = (),
        principal: Principal = OWNER,
        **fields: Any,
    ) -> pb.QueryMetricsResponse:
        """Ask a question."""
        request = pb.QueryMetricsRequest(
            parent=fields.pop("parent", principal.enterprise),
            metrics=metrics,
            dimensions=dimensions,
            **fields,
        )
        return self.as_(principal).QueryMetrics(request)

    def number(self, metric: str, principal: Principal = OWNER, **fields: Any) -> float:
        """One number."""
        return self.ask([metric], (), principal, **fields).rows[0].values[0]

    def newest(self) -> int:
        """The newest change of the log of facts."""
        with self.database.transaction(PLATFORM) as tx:
            return store.last_sequence(tx)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        with self.database.transaction(PLATFORM) as tx:
            return tx.execute(f"select * from {table}").fetchall()


def made_worker() -> Worker:
    """The worker, with windows of a minute."""
    return Worker(
        Settings.model_construct(
            window_seconds=60, tell_seconds=5
        )  # nothing of what is required is asked for
    )
