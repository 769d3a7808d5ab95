"""The worker: what accounts tells, to decisions; by its handlers, and as the processes run."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pika
import pytest
from google.protobuf.message import Message
from numerator.events.v1.accounts_pb2 import (
    EnterpriseRegistered,
    EnterpriseVerificationRevoked,
    EnterpriseVerified,
)
from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import rollout_pb2_grpc as pb_grpc

from services.chassis.database import PLATFORM
from services.chassis.messaging.envelope import Event
from services.chassis.testing.broker import Broker
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.processes import Processes
from services.chassis.testing.rpc import gateway, member, metadata_of, operator
from services.rollout.tests.world import STAGES, World, enterprise
from services.rollout.worker import Worker

ONE = enterprise(1)
HANDLERS: dict[type[Message], str] = {
    EnterpriseRegistered: "on_enterprise_registered",
    EnterpriseVerified: "on_enterprise_verified",
    EnterpriseVerificationRevoked: "on_enterprise_verification_revoked",
}


def hear(world: World, kind: type[Message], after: int) -> None:
    """The worker hears an event that was told so many seconds after noon."""
    told = world.clock.now() + timedelta(seconds=after)
    with world.database.transaction(PLATFORM) as tx:
        event = Event("id", "type", ONE, ONE, told, kind(enterprise=ONE))
        getattr(Worker(), HANDLERS[kind])(tx, event)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ([(EnterpriseRegistered, 0)], "NOT_VERIFIED"),
        ([(EnterpriseRegistered, 0), (EnterpriseVerified, 1)], ""),
        ([(EnterpriseVerified, 1), (EnterpriseRegistered, 0)], ""),
        (
            [(EnterpriseRegistered, 0), (EnterpriseVerified, 1), (EnterpriseVerificationRevoked, 2)],
            "VERIFICATION_REVOKED",
        ),
        ([(EnterpriseVerificationRevoked, 2), (EnterpriseVerified, 1)], "NOT_VERIFIED"),
        ([(EnterpriseVerified, 3), (EnterpriseVerificationRevoked, 2), (EnterpriseVerified, 1)], ""),
    ],
)
def test_events__in_any_order__the_newest_word_counts(
    world: World, order: list[tuple[type[Message], int]], reason: str
) -> None:
    """Each event has a queue of its own, so they overtake each other; what was told last is what holds."""
    world.create()
    world.do("Start")

    for kind, after in order:
        hear(world, kind, after)

    assert [each.reason for each in world.admissions()] == [reason]


@pytest.mark.slow
def test_processes__admit_and_tell(
    make_database: Callable[..., TemporaryDatabase],
    amqp_url: str,
    tmp_path: Path,
    eventually: Callable[..., object],
) -> None:
    """A company is admitted once however often it is told of, a hundred at once fill the quota and no more, all of it is told."""
    processes = Processes("rollout", make_database("rollout"), amqp_url, tmp_path)
    processes.run("migrate")
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        broker = Broker(connection, "rollout")
        try:
            processes.start("api")
            processes.start("worker")
            with processes.serving(pb.DESCRIPTOR.services_by_name["RolloutService"]) as served:
                stub = pb_grpc.RolloutServiceStub(served)
                _start_rollout(stub)
                broker.tell(EnterpriseRegistered(enterprise=ONE), ONE, subject=ONE)
                for _ in range(2):
                    broker.tell(EnterpriseVerified(enterprise=ONE), ONE, subject=ONE, event_id="verified-1")

                def admitted() -> bool:
                    asked = metadata_of(member(ONE))
                    return stub.GetEdition(pb.GetEditionRequest(), metadata=asked, timeout=10).admitted

                eventually(admitted, timeout=30)
                for number in range(2, 102):
                    broker.tell(EnterpriseVerified(enterprise=enterprise(number)), enterprise(number))

                def all_decided() -> bool:
                    asked = pb.GetRolloutRequest(name="rollouts/edition")
                    rollout = stub.GetRollout(asked, metadata=metadata_of(operator()), timeout=10)
                    assert rollout.admitted_count <= 2
                    return (rollout.admitted_count, rollout.waiting_count) == (2, 99)

                eventually(all_decided, timeout=60)
                newest = stub.GetSnapshot(
                    pb.GetSnapshotRequest(), metadata=metadata_of(gateway()), timeout=10
                ).version
            heard: list[str] = []

            def all_told() -> bool:
                heard.extend(broker.heard())
                return heard.count("rollout.snapshot.published") == newest

            eventually(all_told, timeout=30)
        finally:
            processes.stop()
    assert heard.count("rollout.admission.granted") == 2
    assert heard.count("rollout.stage.entered") == 1


def _start_rollout(stub: pb_grpc.RolloutServiceStub) -> None:
    staff = metadata_of(operator())
    stages = [pb.Stage(id=id_, basis_points=share, quota=quota) for id_, share, quota in STAGES]
    wanted = pb.CreateRolloutRequest(rollout_id="edition", rollout=pb.Rollout(stages=stages))
    created = stub.CreateRollout(wanted, metadata=staff, timeout=10)
    stub.StartRollout(pb.StartRolloutRequest(name=created.name), metadata=staff, timeout=10)
