"""Targeting's api process, put together: the index of everybody, kept current, and the gRPC server."""

from collections.abc import Sequence

from numerator.targeting.v1 import targeting_pb2 as pb
from numerator.targeting.v1 import targeting_pb2_grpc as pb_grpc

from services.chassis.database import PLATFORM, Change, Database, Follower
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.targeting import metrics, store
from services.targeting.index import Index
from services.targeting.rpc import TargetingServicer
from services.targeting.settings import Settings

_PAGE = 1_000
"""People in one transaction."""


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
            self._index.put(page)
            if len(page) < _PAGE:
                return newest
            last = page[-1][0]

    def follow(self, changes: Sequence[Change]) -> None:
        """Bring changes into the index, by reading anew the people whom they name."""
        self._index.withdraw(name for change in changes for name in change.body.get("withdrawn", ()))
        # Whoever changed several times is read once, as they are now.
        numbers = sorted({number for change in changes for number in change.body.get("people", ())})
        for first in range(0, len(numbers), _PAGE):
            with self._database.transaction(PLATFORM) as tx:
                self._index.put(store.people_numbered(tx, numbers[first : first + _PAGE]))


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
    metrics.watch(index)
    follower.start()
    try:
        return server.serve()
    finally:
        follower.stop()
