"""Rollout's api process, put together."""

from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import rollout_pb2_grpc as pb_grpc

from services.chassis.database import Database
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.rollout.rpc import RolloutServicer
from services.rollout.settings import Settings


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(settings.database_url.get_secret_value(), schema="rollout")
    server = Server(settings, telemetry, needs={"database": database.check})
    service = pb.DESCRIPTOR.services_by_name["RolloutService"]
    server.add(pb_grpc.add_RolloutServiceServicer_to_server, RolloutServicer(database), service)
    return server.serve()
