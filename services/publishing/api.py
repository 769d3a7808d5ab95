"""Publishing's api process: the parts put together."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from numerator.publishing.v1 import freezes_pb2, freezes_pb2_grpc, publishing_pb2, publishing_pb2_grpc

from services.chassis.database import Database
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.publishing.rpc.freezes import FreezeServicer
from services.publishing.rpc.publishing import PublishingServicer
from services.publishing.settings import Settings

DATABASE_CONNECTIONS = 16


def servicers(database: Database) -> list[tuple[Callable[[Any, Any], None], Any, ServiceDescriptor]]:
    """All services of this process: how each is registered, its servicer, its descriptor."""
    return [
        (
            publishing_pb2_grpc.add_PublishingServiceServicer_to_server,
            PublishingServicer(database),
            publishing_pb2.DESCRIPTOR.services_by_name["PublishingService"],
        ),
        (
            freezes_pb2_grpc.add_FreezeServiceServicer_to_server,
            FreezeServicer(database),
            freezes_pb2.DESCRIPTOR.services_by_name["FreezeService"],
        ),
    ]


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(
        settings.database_url.get_secret_value(), schema="publishing", max_size=DATABASE_CONNECTIONS
    )
    server = Server(settings, telemetry, needs={"database": database.check})
    for register, servicer, service in servicers(database):
        server.add(register, servicer, service)
    return server.serve()
