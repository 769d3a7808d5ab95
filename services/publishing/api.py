"""Publishing's api process: the parts put together."""

from numerator.publishing.v1 import publishing_pb2
from numerator.publishing.v1.publishing_pb2_grpc import add_PublishingServiceServicer_to_server

from services.chassis.database import Database
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.publishing.rpc.publishing import PublishingServicer
from services.publishing.settings import Settings

DATABASE_CONNECTIONS = 16


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(
        settings.database_url.get_secret_value(), schema="publishing", max_size=DATABASE_CONNECTIONS
    )
    return (
        Server(settings, telemetry, needs={"database": database.check})
        .add(
            add_PublishingServiceServicer_to_server,
            PublishingServicer(database),
            publishing_pb2.DESCRIPTOR.services_by_name["PublishingService"],
        )
        .serve()
    )
