"""Targeting's api process, put together: the index of everybody, kept current, and the gRPC server."""

from collections.abc import Sequence

from numerator.targeting.v1 import targeting_pb2 as pb
from numerator.targeting.v1 import targeting_pb2_grpc as pb_grpc

from services.chassis.database import PLATFORM, Change, Database, Follower
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.targeting import store
from services.targeting.index import Index
from services.targeting.rpc import TargetingServicer
from services.targeting.settings import Settings

_PAGE = 5_000


class People:
    """Keeps the index as the database has it: all people when it starts, then each change."""

    def __init__(self, database: Database, index: Index) -> None:
        self._database = database
        self._index = index

    def load(self) -> int:
        """Put everybody into the index; returns the change from which to follow. What comes twice does no harm."""
        with self._database.transaction(PLATFORM) as tx:
            newest = store.last_change(tx)
            self._index.withdraw(store.withdrawn(tx))
        last = 0
        while True:
            with self._database.transaction(PLATFORM) as tx:
                page = store.page_people(tx, after=last, limit=_PAGE)
            if not page:
                return newest
            self._index.put(page)
            last = page[-1][0]

    def follow(self, changes: Sequence[Change]) -> None:
        """Put each change into the index."""
        for change in changes:
            people, withdrawn = store.people_of_change(change.body)
            self._index.withdraw(withdrawn)
            self._index.put(people)


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(settings.database_url.get_secret_value(), schema="targeting")
    index = Index()
    people = People(database, index)
    follower = Follower(database, store.PEOPLE, people.follow, load=people.load)
    servicer = TargetingServicer(database, index, follower, settings.minimum_audience)
    server = Server(
        settings, telemetry, needs={"database": database.check, "people": lambda: follower.healthy}
    )
    service = pb.DESCRIPTOR.services_by_name["TargetingService"]
    server.add(pb_grpc.add_TargetingServiceServicer_to_server, servicer, service)
    follower.start()
    try:
        return server.serve()
    finally:
        follower.stop()
