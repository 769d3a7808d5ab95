"""What rollout publishes is what the gateway admits by: the two sides of the snapshot, without anything between them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import rollout_pb2 as pb

from gateway.admission import Admissions, Snapshots
from gateway.errors import Problem
from gateway.snapshots import SnapshotIntake, SnapshotPull
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Tenant
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.outcomes import told
from services.rollout import store, usecases
from services.rollout.model import EDITION_FLAG, Rollout, Stage

NAME = "rollouts/edition"
STAGES = (Stage("private-beta", 10_000, 2), Stage("open-beta", 10_000, 3))
ENTERPRISES = [f"enterprises/e{number}" for number in range(6)]


class Platform:
    """Rollout's use cases on one side, a gateway's admissions on the other."""

    def __init__(self, database: TemporaryDatabase, clock: FixedClock) -> None:
        self.database = database
        self._clock = clock
        self.snapshots = Snapshots()
        self.admissions = Admissions(self.snapshots, domain=str(uuid4()))
        self._pull = SnapshotPull(self.snapshots, SnapshotIntake(self.snapshots, None), self._get_snapshot)

    def do(self, change: Callable[..., Rollout], *reason: str) -> None:
        """An operator changes the rollout."""
        with self.database.transaction(PLATFORM) as tx:
            change(tx, NAME, "", *reason)

    def tell(self, number: int, *, verified: bool) -> None:
        """Accounts tells of an enterprise."""
        self._clock.advance(timedelta(seconds=1))
        with self.database.transaction(PLATFORM) as tx:
            usecases.remember_enterprise(tx, ENTERPRISES[number], verified=verified, told=self._clock.now())

    def admitted(self) -> set[str]:
        """Whom the gateway lets in, after it pulled; that rollout says the same of each is checked on the way."""
        asyncio.run(self._pull.once())
        inside = set()
        for enterprise in ENTERPRISES:
            with self.database.transaction(Tenant(enterprise)) as tx:
                edition = usecases.edition_of(tx, enterprise)
            assert self.admissions.decide(EDITION_FLAG, enterprise).admitted == edition.admitted
            if edition.admitted:
                self.admissions.require(EDITION_FLAG, enterprise)
                inside.add(enterprise)
            else:
                with pytest.raises(Problem) as refused:
                    self.admissions.require(EDITION_FLAG, enterprise)
                assert (refused.value.status, refused.value.reason) == (403, "NOT_ADMITTED")
                if edition.record:
                    assert refused.value.metadata["reason"] == edition.reason
        return inside

    async def _get_snapshot(self, request: pb.GetSnapshotRequest) -> pb.Snapshot:
        with self.database.transaction(PLATFORM) as tx:
            version, sha256, document = store.get_snapshot(tx) or (0, "", b"")
        return pb.Snapshot(version=version, sha256=sha256, document=document)


@pytest.fixture
def platform(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> Platform:
    return Platform(make_database("rollout", clock=clock), clock)


def test_gateway__admits_whom_rollout_admits(platform: Platform) -> None:
    """In every state of a rollout and of an enterprise, from before the first rollout to after a rollback."""
    assert platform.admitted() == set()
    with platform.database.transaction(PLATFORM) as tx:
        usecases.create_rollout(tx, name=NAME, flag="", stages=STAGES)
    for number in range(5):
        platform.tell(number, verified=number != 1)
    assert platform.admitted() == set()

    platform.do(usecases.start)
    narrow = platform.admitted()
    assert narrow == {ENTERPRISES[0], ENTERPRISES[2]}
    platform.do(usecases.advance)
    assert platform.admitted() == {*narrow, ENTERPRISES[3]}
    platform.do(usecases.kill, "drill")
    assert platform.admitted() == set()
    platform.do(usecases.unkill)
    platform.do(usecases.rollback, "drill")
    assert platform.admitted() == narrow
    platform.tell(0, verified=False)
    assert platform.admitted() == {ENTERPRISES[2]}
    platform.tell(0, verified=True)
    assert platform.admitted() == narrow


def test_gateway__takes_what_is_pushed_in_any_order(platform: Platform) -> None:
    """Every event that was told is taken by a gateway with an older one, and none by one with a newer."""
    with platform.database.transaction(PLATFORM) as tx:
        usecases.create_rollout(tx, name=NAME, flag="", stages=STAGES)
    platform.do(usecases.start)
    for number in range(5):
        platform.tell(number, verified=True)
    pushed = told(platform.database, events.SnapshotPublished)

    assert [platform.snapshots.offer(e.version, e.sha256, e.document) for e in pushed] == [True] * len(pushed)
    assert not any(platform.snapshots.offer(e.version, e.sha256, e.document) for e in pushed)
    assert platform.admitted() == {ENTERPRISES[0], ENTERPRISES[1]}
