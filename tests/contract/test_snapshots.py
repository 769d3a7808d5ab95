"""What rollout serves is what gateways admit by: both sides of the two streams, without anything between them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.message import Message
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import admissions_pb2, flags_pb2
from numerator.rollout.v1 import serving_pb2 as pb

from gateway.admission import Admissions
from gateway.errors import Problem
from gateway.replica import Exposures, Heartbeat
from gateway.serving import Knowledge
from gateway.snapshots import Intake, Pull
from services.chassis.clock import FixedClock
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import gateway, operator
from services.rollout import serving
from services.rollout.tests.conftest import serve
from services.rollout.tests.world import FLAG, World, enterprise

__all__ = ["serve"]

NUMBERS = range(1, 8)


class Replica:
    """A gateway's knowledge and admissions, fed by the service."""

    def __init__(self, world: World) -> None:
        self._service = world.as_(gateway()).serving
        self._world = world
        self.knowledge = Knowledge(world.clock, 60)
        self.intake = Intake(self.knowledge)
        self.admissions = Admissions(self.knowledge, domain=str(uuid4()))
        self.exposures = Exposures()
        self.counts: list[int] = []
        self._pull = Pull(self.intake, self._ask("GetSnapshot"), self._ask("GetAdmissions"))
        self.heartbeat = Heartbeat(
            self.knowledge,
            self.exposures,
            self._ask("ReportReplica"),
            set_count=self.counts.append,
            leaving=lambda: False,
        )

    def pull(self) -> None:
        asyncio.run(self._pull.once())

    def report(self) -> None:
        asyncio.run(self.heartbeat.once())

    def push(self, told: list[Message]) -> list[bool]:
        """Take events as the broker would bring them; whether each change of admissions followed."""
        followed = []
        for event in told:
            if isinstance(event, events.AdmissionsChanged):
                followed.append(self.intake.changes(event))
            else:
                self.intake.snapshot(
                    pb.Snapshot(version=event.version, sha256=event.sha256, document=event.document)
                )
        return followed

    def admitted(self) -> set[int]:
        """Whom the gateway lets in; that it tells each enterprise what rollout tells it is checked on the way."""
        return {number for number in NUMBERS if self._agrees(number)}

    def _agrees(self, number: int) -> bool:
        edition = self._world.edition(number)
        if not edition.admitted:
            with pytest.raises(Problem) as refused:
                self.admissions.require(FLAG, enterprise(number))
            assert (refused.value.status, refused.value.reason) == (403, "NOT_ADMITTED")
            told = refused.value.extensions["admission"]
            if edition.state:
                assert told == {
                    "state": admissions_pb2.Admission.State.Name(edition.state),
                    "stage": told["stage"],  # of the admission, also while it rests
                    "reason": edition.reason,
                    "position": edition.position,
                    "nextStep": edition.next_step,
                }
            return False
        decision = self.admissions.require(FLAG, enterprise(number))
        assert decision.admission is not None
        assert decision.rollout is not None
        assert decision.admission.stage == edition.stage
        limits = decision.rollout.limits
        assert (limits.requests_per_minute, limits.bound_accounts, limits.live_placements) == (
            edition.limits.requests_per_minute,
            edition.limits.bound_accounts,
            edition.limits.live_placements,
        )
        return True

    def _ask(self, method: str) -> Callable[[Any], Any]:
        call = getattr(self._service, method)

        async def ask(request: Message) -> Any:
            return call(request)

        return ask


@pytest.fixture
def rollouts(serve: Callable[..., World]) -> World:
    return serve()


@pytest.fixture
def replica(rollouts: World) -> Replica:
    return Replica(rollouts)


def everything(replica: Replica) -> tuple[tuple[int, str], list[str]]:
    """All that a replica knows of admissions."""
    table = replica.knowledge.admissions
    assert table is not None
    told = table.all()
    return table.key, sorted(map(str, [*told.records, *told.enterprises]))


def all_told(world: World) -> list[Message]:
    return [*world.told(events.SnapshotPublished), *world.told(events.AdmissionsChanged)]


def test_gateway__admits_whom_rollout_admits(rollouts: World, replica: Replica) -> None:
    """In every state of a rollout and of an enterprise, from before the first rollout to after a rollback."""

    def admitted() -> set[int]:
        replica.pull()
        return replica.admitted()

    assert admitted() == set()
    rollouts.create(limits="{default: {requests_per_min: 30, bound_accounts: 20}}")
    for number in NUMBERS[:-1]:
        rollouts.tell(number, verified=number != 2)
    assert admitted() == set()

    rollouts.do("Start")
    narrow = admitted()
    assert len(narrow) == 2
    rollouts.do("Advance")
    wide = admitted()
    assert len(wide) == 4
    assert narrow < wide
    rollouts.do("Kill")
    assert admitted() == set()
    rollouts.do("Unkill")
    assert admitted() == wide
    rollouts.do("Pause")
    rollouts.tell(7, verified=True)
    assert admitted() == wide
    rollouts.do("Resume")
    first, second, *_ = wide
    rollouts.tell(first, verified=False)
    assert admitted() == wide - {first}
    rollouts.tell(first, verified=True)
    assert admitted() == wide
    rollouts.admit("RevokeAdmission", second)
    assert second not in admitted()
    rollouts.do("Rollback")
    assert admitted() < wide
    rollouts.do("Kill")
    assert admitted() == set()


def test_gateway__prerequisites_and_ordinary_flags(rollouts: World, replica: Replica) -> None:
    """A rollout that requires an ordinary flag lets in whom both let in; attributes decide about the flag."""
    document = """
    flags:
      panel:
        variants: {on: true, off: false}
        defaultVariant: "off"
        targeting: {if: [{"==": [{var: plan}, enterprise]}, "on", "off"]}
      quarter: {percent: 25%}
    """
    rollouts.as_(operator()).flags.ApplyFlags(flags_pb2.ApplyFlagsRequest(document=document))
    rollouts.create(requires="[panel]")
    rollouts.do("Start")
    rollouts.verify(1, 2)
    rollouts.as_(operator()).admissions.SetEnterpriseAttributes(
        admissions_pb2.SetEnterpriseAttributesRequest(
            enterprise=enterprise(1), attributes={"plan": "enterprise"}
        )
    )
    replica.pull()

    assert replica.admissions.decide(FLAG, enterprise(1)).admitted
    assert replica.admissions.decide("panel", enterprise(1)).admitted
    assert replica.admissions.decide(FLAG, enterprise(2)).reason == "PREREQUISITE_OFF"
    serving_now = replica.admissions.serving()
    inside = [
        serving_now.evaluate("quarter", serving_now.context_of(enterprise(n))).value for n in range(2000)
    ]
    assert 400 < sum(inside) < 600


def test_gateway__every_change_follows_the_one_before(rollouts: World, replica: Replica) -> None:
    """What is pushed from the first version on leaves a gateway where a pull would."""
    replica.pull()
    rollouts.create()
    rollouts.do("Start")
    rollouts.verify(*NUMBERS)
    rollouts.do("Advance")
    rollouts.tell(2, verified=False)

    assert all(replica.push(all_told(rollouts)))
    pushed = everything(replica)
    other = Replica(rollouts)
    other.pull()

    assert pushed == everything(other)
    assert replica.admitted() == other.admitted()
    assert replica.knowledge.snapshot
    assert other.knowledge.snapshot
    assert replica.knowledge.snapshot.sha256 == other.knowledge.snapshot.sha256


def test_gateway__a_lost_change_is_a_gap(rollouts: World, replica: Replica) -> None:
    """Nothing is taken from then on, until the rest was asked for."""
    replica.pull()
    rollouts.create()
    rollouts.do("Start")
    rollouts.verify(*NUMBERS)
    first, lost, *rest = rollouts.told(events.AdmissionsChanged)

    assert lost
    assert replica.push([first, *rest]) == [True, *[False] * len(rest)]
    replica.pull()
    assert replica.push([rest[-1]]) == [True]
    assert replica.admitted() == {1, 2}


def test_gateway__many_pages(rollouts: World, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything, and what changed since, comes whole over any number of pages."""
    monkeypatch.setattr(serving, "_PAGE", 2)
    rollouts.create()
    rollouts.do("Start")
    rollouts.verify(*NUMBERS)
    replica.pull()
    assert replica.admitted() == {1, 2}
    rollouts.do("Advance")
    rollouts.verify(*NUMBERS)

    replica.pull()

    whole = Replica(rollouts)
    whole.pull()
    assert everything(replica) == everything(whole)
    assert len(replica.admitted()) == 4


def test_gateway__a_restored_database(
    rollouts: World,
    serve: Callable[..., World],
    make_database: Callable[..., TemporaryDatabase],
    clock: FixedClock,
) -> None:
    """Another history with versions as high as ours replaces what we knew, at the next pull; what it tells is not mixed in."""
    rollouts.create()
    rollouts.do("Start")
    rollouts.verify(1, 2, 3)
    replica = Replica(rollouts)
    replica.pull()
    assert replica.admitted() == {1, 2}

    restored = serve(make_database("rollout", clock=clock))
    restored.create()
    restored.do("Start")
    for number in (5, 6, 7, 3):
        restored.verify(number)
    replica._world, replica._service = restored, restored.as_(gateway()).serving
    replica._pull = Pull(replica.intake, replica._ask("GetSnapshot"), replica._ask("GetAdmissions"))

    assert not any(replica.push(restored.told(events.AdmissionsChanged)))
    replica.pull()
    assert replica.admitted() == {5, 6}
    fresh = Replica(restored)
    fresh.pull()
    assert everything(replica) == everything(fresh)


def test_gateway__reports(rollouts: World, replica: Replica) -> None:
    """The service sees which gateways serve what since when, and who has used the edition; each hears how many there are."""
    rollouts.create()
    rollouts.do("Start")
    rollouts.verify(1)
    other = Replica(rollouts)
    for each in (replica, other):
        each.pull()
    rollouts.clock.advance(timedelta(seconds=2))
    replica.exposures.note((FLAG, enterprise(1), "private-beta"))
    for each in (replica, other, replica):
        each.report()
    rollouts.verify(2)
    replica.pull()
    replica.report()

    found = rollouts.as_(operator()).serving.ListReplicas(pb.ListReplicasRequest())

    assert {each.replica: each.converged for each in found.replicas} == {
        replica.heartbeat.name: True,
        other.heartbeat.name: False,
    }
    assert found.converged_count == 1
    assert (replica.counts, other.counts) == ([1, 2, 2], [2])
    assert len(rollouts.rows("exposures")) == 1
    asyncio.run(other.heartbeat.leave())
    assert len(rollouts.as_(operator()).serving.ListReplicas(pb.ListReplicasRequest()).replicas) == 1
