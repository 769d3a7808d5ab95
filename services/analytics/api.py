"""Analytics' api process, put together: the columnar store, kept current with the log of facts, and the gRPC server."""

from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc

from services.analytics import metrics, store
from services.analytics.columns import Columns
from services.analytics.rpc import AnalyticsServicer
from services.analytics.settings import Settings
from services.chassis.database import PLATFORM, Database, Follower
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry


class Facts:
    """Keeps the columnar store as the log of facts has it."""

    def __init__(self, database: Database, columns: Columns) -> None:
        self._database = database
        self._columns = columns
        self._first = 0
        self.follower = Follower(database, store.FACTS, columns.apply, load=self._load)

    def ready(self) -> bool:
        """Whether all facts are in that were known when we began; one that is filled anew tells no numbers before."""
        return self.follower.healthy and self.follower.position >= self._first

    def _load(self) -> int:
        with self._database.transaction(PLATFORM) as tx:
            log = store.log(tx)
        self._first = log.newest
        return self._columns.open(log.id, log.newest)


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(settings.database_url.get_secret_value(), schema="analytics")
    columns = Columns(settings.store_path)
    facts = Facts(database, columns)
    server = Server(settings, telemetry, needs={"database": database.check, "facts": facts.ready})
    service = pb.DESCRIPTOR.services_by_name["AnalyticsService"]
    servicer = AnalyticsServicer(database, columns, facts.follower, window=settings.window)
    server.add(pb_grpc.add_AnalyticsServiceServicer_to_server, servicer, service)
    metrics.watch(columns)
    facts.follower.start()
    try:
        return server.serve()
    finally:
        facts.follower.stop()
        columns.close()
