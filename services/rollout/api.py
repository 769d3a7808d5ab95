"""Rollout's api process, put together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from numerator.rollout.v1 import (
    admissions_pb2,
    admissions_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    changes_pb2,
    changes_pb2_grpc,
    flags_pb2,
    flags_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
)

from services.chassis.database import Database
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.rollout import audit, serving
from services.rollout.flagd import Serving, serving_flagd
from services.rollout.rpc.admissions import AdmissionServicer, EditionServicer
from services.rollout.rpc.audit import AuditServicer
from services.rollout.rpc.changes import ChangeServicer
from services.rollout.rpc.rollouts import RolloutServicer
from services.rollout.rpc.serving import FlagServicer, ServingServicer
from services.rollout.settings import Settings


def servicers(
    database: Database, anchors: Path | None
) -> list[tuple[Callable[[Any, Any], None], Any, ServiceDescriptor]]:
    """All services of this process: how each is registered, its servicer, its descriptor."""
    return [
        (
            rollout_pb2_grpc.add_RolloutServiceServicer_to_server,
            RolloutServicer(database),
            _of(rollout_pb2, "Rollout"),
        ),
        (
            admissions_pb2_grpc.add_AdmissionServiceServicer_to_server,
            AdmissionServicer(database),
            _of(admissions_pb2, "Admission"),
        ),
        (
            admissions_pb2_grpc.add_EditionServiceServicer_to_server,
            EditionServicer(database),
            _of(admissions_pb2, "Edition"),
        ),
        (flags_pb2_grpc.add_FlagServiceServicer_to_server, FlagServicer(database), _of(flags_pb2, "Flag")),
        (
            changes_pb2_grpc.add_ChangeServiceServicer_to_server,
            ChangeServicer(database),
            _of(changes_pb2, "Change"),
        ),
        (
            audit_pb2_grpc.add_AuditServiceServicer_to_server,
            AuditServicer(database, anchors),
            _of(audit_pb2, "Audit"),
        ),
        (
            serving_pb2_grpc.add_ServingServiceServicer_to_server,
            ServingServicer(database),
            _of(serving_pb2, "Serving"),
        ),
    ]


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(settings.database_url.get_secret_value(), schema="rollout")
    audit.anchor_to(settings.audit_anchors)
    server = Server(settings, telemetry, needs={"database": database.check})
    for register, servicer, service in servicers(database, settings.audit_anchors):
        server.add(register, servicer, service)
    with serving_flagd(settings, database, lambda tx: Serving(*serving.everything(tx))):
        return server.serve()


def _of(file: Any, name: str) -> ServiceDescriptor:
    service: ServiceDescriptor = file.DESCRIPTOR.services_by_name[f"{name}Service"]
    return service
