"""What the tests of rollout share: the service as it runs, and what accounts would have told it."""

import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from numerator.events.v1 import rollout_pb2 as events
from numerator.events.v1.analytics_pb2 import GuardrailMeasured
from numerator.rollout.v1 import (
    admissions_pb2,
    admissions_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    changes_pb2,
    changes_pb2_grpc,
    flags_pb2_grpc,
    rollout_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
)
from numerator.rollout.v1 import rollout_pb2 as pb

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.messaging.envelope import Event
from services.chassis.principal import Principal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.outcomes import field_reasons_of, reason_of, told
from services.chassis.testing.rpc import RunningServer, gateway, member, operator, shared_keys
from services.rollout import usecases
from services.rollout.settings import Settings
from services.rollout.worker import Worker

EDITION = "rollouts/edition"
FLAG = "enterprise-beta"
STAGES = """
  - {ring: private-beta, quota: 2}
  - {ring: open-beta, quota: 4}
  - {ring: everybody}
"""


def plan(name: str = EDITION, stages: str = STAGES, *, flag: str = FLAG, **keys: str) -> str:
    """A plan: its stages, and further keys, each with its value as a plan spells it."""
    more = "".join(f"{key}: {value}\n" for key, value in keys.items())
    return (
        f"rollout: {name.removeprefix('rollouts/')}\nflag: {flag}\n{more}stages:\n{stages.strip(chr(10))}\n"
    )


def enterprise(number: int) -> str:
    """An enterprise's name."""
    return f"enterprises/e{number}"


OTHER = Principal("OPERATOR", "operators/other")
THIRD = Principal("OPERATOR", "operators/third")
"""Others of the platform's staff than `operator()`."""


@dataclass(frozen=True)
class Refusal:
    """How a call was refused: by status and reason, in words, and which fields were wrong and why."""

    kind: grpc.StatusCode
    reason: str
    text: str
    fields: dict[str, str]


def refused(call: Callable[..., Any], *args: Any, **fields: Any) -> Refusal:
    """How a call is refused; it must be."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **fields)
    error = caught.value
    wrong = error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return Refusal(error.code(), reason_of(error), error.details(), field_reasons_of(error) if wrong else {})


def refusal(call: Callable[..., Any], *args: Any, **fields: Any) -> str:
    """The reason for which a call is refused; it must be."""
    return refused(call, *args, **fields).reason


class Stubs:
    """The services on one channel."""

    def __init__(self, channel: Any) -> None:
        self.rollouts = rollout_pb2_grpc.RolloutServiceStub(channel)
        self.admissions = admissions_pb2_grpc.AdmissionServiceStub(channel)
        self.edition = admissions_pb2_grpc.EditionServiceStub(channel)
        self.flags = flags_pb2_grpc.FlagServiceStub(channel)
        self.changes = changes_pb2_grpc.ChangeServiceStub(channel)
        self.audit = audit_pb2_grpc.AuditServiceStub(channel)
        self.serving = serving_pb2_grpc.ServingServiceStub(channel)


@dataclass
class World:
    """The service, served."""

    database: TemporaryDatabase
    clock: FixedClock
    running: RunningServer
    anchors: Path
    _moments: Iterator[int] = field(default_factory=itertools.count)

    def as_(self, principal: Principal) -> "Stubs":
        """The services, as somebody sees them."""
        return Stubs(self.running.as_(principal))

    @property
    def ops(self) -> rollout_pb2_grpc.RolloutServiceStub:
        """Rollouts, as an operator sees them."""
        return self.as_(operator()).rollouts

    def apply(self, text: str, **fields: Any) -> pb.ApplyPlanResponse:
        """A plan in force."""
        return self.ops.ApplyPlan(pb.ApplyPlanRequest(plan=text, **fields))

    def create(
        self, name: str = EDITION, stages: str = STAGES, *, flag: str = FLAG, **keys: str
    ) -> pb.Rollout:
        """A rollout in DRAFT."""
        return self.apply(plan(name, stages, flag=flag, **keys)).rollout

    def do(self, verb: str, name: str = EDITION, by: Principal | None = None, **fields: Any) -> pb.Rollout:
        """One of the verbs, as `Start`, by an operator; those that want a reason get one."""
        kind = getattr(pb, f"{verb}RolloutRequest")
        if "reason" in kind.DESCRIPTOR.fields_by_name:
            fields.setdefault("reason", "a test")
        stub = self.as_(by or operator()).rollouts
        done: pb.Rollout = getattr(stub, f"{verb}Rollout")(kind(name=name, **fields))
        return done

    def get(self, name: str = EDITION) -> pb.Rollout:
        """A rollout."""
        got: pb.Rollout = self.ops.GetRollout(pb.GetRolloutRequest(name=name))
        return got

    def status(self, name: str = EDITION) -> pb.RolloutStatus:
        """Where a rollout stands."""
        got: pb.RolloutStatus = self.ops.GetRolloutStatus(pb.GetRolloutStatusRequest(name=name))
        return got

    def admit(self, call: str, number: int, name: str = EDITION, **fields: Any) -> Any:
        """What operators do about one enterprise, as `AdmitEnterprise`; those that want a reason get one."""
        kind = getattr(admissions_pb2, f"{call}Request")
        if "reason" in kind.DESCRIPTOR.fields_by_name:
            fields.setdefault("reason", "a test")
        stub = self.as_(operator()).admissions
        return getattr(stub, call)(kind(name=name, enterprise=enterprise(number), **fields))

    def use(self, *numbers: int, stage: str, flag: str = FLAG) -> None:
        """Enterprises use what a flag guards."""
        exposures = [
            serving_pb2.Exposure(flag=flag, enterprise=enterprise(number), stage=stage) for number in numbers
        ]
        self.as_(gateway()).serving.ReportReplica(
            serving_pb2.ReportReplicaRequest(replica="gateway-1", exposures=exposures)
        )

    def tell(self, number: int, *, verified: bool, late: timedelta = timedelta()) -> None:
        """What accounts tells of an enterprise: each time a little later, or `late`."""
        moment = self.clock.now() + timedelta(milliseconds=next(self._moments)) - late
        with self.database.transaction(PLATFORM) as tx:
            usecases.remember_enterprise(tx, enterprise(number), verified=verified, told=moment)

    def verify(self, *numbers: int) -> None:
        """Verify enterprises, one after the other."""
        for number in numbers:
            self.tell(number, verified=True)

    @cached_property
    def worker(self) -> Worker:
        """The worker, whose handlers and periodic jobs a test calls itself."""
        return Worker(
            Settings(
                database_url="postgresql://unused",
                amqp_url="amqp://unused",
                principal_public_key=shared_keys().public,
                audit_anchors=self.anchors,
            )
        )

    def tick(self, **passed: float) -> None:
        """So much time passes, as `hours=2`, and then the scheduler does what there is to do."""
        self.clock.advance(timedelta(**passed))
        self.worker.move(self.database)

    def measure(self, metric: str, samples: Mapping[int, tuple[int, int]], ago: int = 1) -> None:
        """Analytics tells what enterprises did, and how often badly, in a minute so many minutes ago."""
        event = GuardrailMeasured(metric=metric, window_seconds=60)
        minute = self.clock.now().replace(second=0, microsecond=0)
        event.window_start.FromDatetime(minute - timedelta(minutes=ago))
        event.measured_through.FromDatetime(minute - timedelta(minutes=ago - 1))
        for number, (count, bad) in samples.items():
            event.samples.add(enterprise=enterprise(number), count=count, bad=bad)
        with self.database.transaction(PLATFORM) as tx:
            told = Event("id", "type", metric, None, self.clock.now(), event)
            self.worker.on_guardrail_measured(tx, told)

    def admissions(self, name: str = EDITION) -> list[admissions_pb2.Admission]:
        """A rollout's admissions."""
        return list(
            self.as_(operator())
            .admissions.ListAdmissions(admissions_pb2.ListAdmissionsRequest(parent=name, page_size=500))
            .admissions
        )

    def active(self) -> set[str]:
        """Who is in."""
        return {
            each.enterprise for each in self.admissions() if each.state == admissions_pb2.Admission.ACTIVE
        }

    def edition(self, number: int) -> admissions_pb2.Edition:
        """What an enterprise is told."""
        return self.as_(member(enterprise(number))).edition.GetEdition(admissions_pb2.GetEditionRequest())

    def snapshot(self, if_newer: int = 0, sha256: str = "") -> serving_pb2.Snapshot:
        """What a gateway gets."""
        request = serving_pb2.GetSnapshotRequest(if_newer=if_newer, sha256=sha256)
        got: serving_pb2.Snapshot = self.as_(gateway()).serving.GetSnapshot(request)
        return got

    def document(self) -> dict[str, Any]:
        """The newest snapshot's document."""
        document: dict[str, Any] = json.loads(zlib.decompress(self.snapshot().document))
        return document

    def changes(self, name: str = EDITION) -> list[changes_pb2.ChangeRequest]:
        """A rollout's change requests, newest first."""
        request = changes_pb2.ListChangeRequestsRequest(parent=name, page_size=500)
        return list(self.as_(operator()).changes.ListChangeRequests(request).change_requests)

    def audit(self, name: str = "") -> list[audit_pb2.AuditEvent]:
        """What was written down, newest first: all, or what concerns a rollout."""
        request = audit_pb2.ListAuditEventsRequest(rollout=name, page_size=500)
        return list(self.as_(operator()).audit.ListAuditEvents(request).events)

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

    def forge_anchors(self, name: str = EDITION) -> None:
        """Make a rollback impossible that would be exact: its anchors speak of an enterprise that nobody knows."""
        with self.database.transaction(PLATFORM) as tx:
            held = f'{{"{enterprise(999)}": "a"}}'
            tx.execute("update anchors set held = %s::jsonb where rollout = %s", (held, name))

    def everything(self) -> dict[str, list[str]]:
        """All that is stored, by table, as text."""
        with self.database.transaction(PLATFORM) as tx:
            tables = tx.execute(
                "select relname from pg_class where relnamespace = 'rollout'::regnamespace and relkind = 'r'"
                " and relname <> 'chassis_migrations' order by relname"
            ).fetchall()
            return {
                table: sorted(row["text"] for row in tx.execute(f"select t::text as text from {table} as t"))
                for table in (each["relname"] for each in tables)
            }
