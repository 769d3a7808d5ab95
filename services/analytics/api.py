"""Analytics' api process, put together: the columnar store that follows the log of facts, and the gRPC server."""

from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc

from services.analytics import store
from services.analytics.columns import Columns
from services.analytics.rpc import AnalyticsServicer
from services.analytics.settings import Settings
from services.chassis.database import Database, Follower
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(settings.database_url.get_secret_value(), schema="analytics")
    columns = Columns(settings.store_path)
    follower = Follower(database, store.FACTS, columns.apply, after=columns.sequence)
    server = Server(
        settings, telemetry, needs={"database": database.check, "facts": lambda: follower.healthy}
    )
    service = pb.DESCRIPTOR.services_by_name["AnalyticsService"]
    server.add(
        pb_grpc.add_AnalyticsServiceServicer_to_server,
        AnalyticsServicer(database, columns, follower),
        service,
    )
    follower.start()
    try:
        return server.serve()
    finally:
        follower.stop()
        columns.close()
