"""What the tests of rollout share: the service as it runs, and what accounts would have told it."""

import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import rollout_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.principal import Principal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.outcomes import told
from services.chassis.testing.rpc import RunningServer, gateway, member, operator
from services.rollout import usecases

EDITION = "rollouts/edition"
FLAG = "enterprise-beta"
STAGES = (("private-beta", 10_000, 2), ("open-beta", 10_000, 4), ("everybody", 10_000, 0))


def enterprise(number: int) -> str:
    """An enterprise's name."""
    return f"enterprises/e{number}"


@dataclass
class World:
    """The service, served."""

    database: TemporaryDatabase
    clock: FixedClock
    running: RunningServer
    _stubs: dict[Principal, pb_grpc.RolloutServiceStub] = field(default_factory=dict)
    _moments: Iterator[int] = field(default_factory=itertools.count)

    def as_(self, principal: Principal) -> pb_grpc.RolloutServiceStub:
        """The service, as somebody sees it."""
        if principal not in self._stubs:
            self._stubs[principal] = pb_grpc.RolloutServiceStub(self.running.as_(principal))
        return self._stubs[principal]

    @property
    def ops(self) -> pb_grpc.RolloutServiceStub:
        """The service, as an operator sees it."""
        return self.as_(operator())

    def create(
        self, name: str = EDITION, stages: Any = STAGES, *, flag: str = "", **fields: Any
    ) -> pb.Rollout:
        """A rollout in DRAFT."""
        listed = [pb.Stage(id=id_, basis_points=share, quota=quota) for id_, share, quota in stages]
        return self.ops.CreateRollout(
            pb.CreateRolloutRequest(
                rollout_id=name.removeprefix("rollouts/"),
                rollout=pb.Rollout(flag=flag, stages=listed),
                **fields,
            )
        )

    def do(self, verb: str, name: str = EDITION, **fields: Any) -> pb.Rollout:
        """One of the verbs, as `Start`; those that want a reason get one."""
        kind = getattr(pb, f"{verb}RolloutRequest")
        if "reason" in kind.DESCRIPTOR.fields_by_name:
            fields.setdefault("reason", "a test")
        return getattr(self.ops, f"{verb}Rollout")(kind(name=name, **fields))

    def tell(self, number: int, *, verified: bool, late: timedelta = timedelta()) -> None:
        """What accounts tells of an enterprise: each time a little later, or `late`."""
        moment = self.clock.now() + timedelta(milliseconds=next(self._moments)) - late
        with self.database.transaction(PLATFORM) as tx:
            usecases.remember_enterprise(tx, enterprise(number), verified=verified, told=moment)

    def verify(self, *numbers: int) -> None:
        """Verify enterprises, one after the other."""
        for number in numbers:
            self.tell(number, verified=True)

    def admissions(self, name: str = EDITION) -> list[pb.Admission]:
        """A rollout's admissions."""
        return list(self.ops.ListAdmissions(pb.ListAdmissionsRequest(parent=name, page_size=500)).admissions)

    def active(self) -> set[str]:
        """Who is in."""
        return {each.enterprise for each in self.admissions() if each.state == pb.Admission.ACTIVE}

    def edition(self, number: int) -> pb.Edition:
        """What an enterprise is told."""
        return self.as_(member(enterprise(number))).GetEdition(pb.GetEditionRequest())

    def snapshot(self, if_newer: int = 0) -> pb.Snapshot:
        """What a gateway gets."""
        return self.as_(gateway()).GetSnapshot(pb.GetSnapshotRequest(if_newer=if_newer))

    def document(self) -> dict[str, Any]:
        """The newest snapshot's document."""
        document: dict[str, Any] = json.loads(zlib.decompress(self.snapshot().document))
        return document

    def told(self, kind: type[Message]) -> list[Any]:
        """The events of a class, oldest first."""
        return told(self.database, kind)

    def snapshots_told(self) -> list[int]:
        """The versions of the snapshots that were told."""
        return [each.version for each in self.told(events.SnapshotPublished)]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        with self.database.transaction(PLATFORM) as tx:
            return tx.execute(f"select * from {table}").fetchall()
