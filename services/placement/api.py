"""Placement's api process, put together: the engine, kept current, and the gRPC server."""

from collections.abc import Sequence
from datetime import datetime

from numerator.events.v1.targeting_pb2 import AudienceMembersListed
from numerator.placement.v1 import placement_pb2 as pb
from numerator.placement.v1 import placement_pb2_grpc as pb_grpc

from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Change, Database, Follower, Transaction
from services.chassis.names import enterprise_of
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.placement import metrics, store
from services.placement.engine import Engine, Fit, LivePlacement
from services.placement.model import CampaignState
from services.placement.rpc import PlacementServicer
from services.placement.settings import Settings
from services.placement.tokens import Tokens


class Memory:
    """Keeps the engine as the database has it: everything when it starts, then each change."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine

    def load(self) -> int:
        """Fill the engine; returns the change from which to follow. What comes twice does no harm."""
        with self._database.transaction(PLATFORM) as tx:
            newest = store.last_change(tx)
            self._engine.withdraw(store.withdrawn(tx))
            for audience in store.ready_audiences(tx):
                self._put_audience(tx, audience)
            for exposure in store.exposures_counting(tx):
                self._engine.put_exposure(*exposure)
            for campaign in store.live_campaigns(tx):
                self._put_campaign(tx, campaign)
        return newest

    def follow(self, changes: Sequence[Change]) -> None:
        """Bring changes into the engine, by reading anew what they name: once, however often it changed."""
        self._engine.withdraw(_named(changes, "withdrawn"))
        with self._database.transaction(PLATFORM) as tx:
            for audience in _named(changes, "audiences"):
                self._put_audience(tx, audience)
            for campaign in _named(changes, "campaigns"):
                self._put_campaign(tx, campaign)
        for change in changes:
            for placement, person, decision, at in change.body.get("exposures", ()):
                self._engine.put_exposure(placement, person, decision, datetime.fromisoformat(at))

    def _put_audience(self, tx: Transaction, audience: str) -> None:
        parts = (AudienceMembersListed.FromString(part) for part in store.audience_members(tx, audience))
        members = {
            member.user.removeprefix("users/"): Fit(member.relevance, tuple(member.evidence))
            for part in parts
            for member in part.members
        }
        self._engine.put_audience(audience, members)

    def _put_campaign(self, tx: Transaction, name: str) -> None:
        campaign = store.get_campaign(tx, name)
        sponsor = store.get_enterprise(tx, enterprise_of(name) or "")
        # Nothing is shown without saying whose it is.
        if campaign is None or campaign.state is not CampaignState.LIVE or sponsor is None:
            self._engine.put_campaign(name, ())
            return
        label = f"Sponsored by {sponsor.display_name}"
        self._engine.put_campaign(
            name,
            [
                LivePlacement(placement, label, campaign.start_time, campaign.end_time)
                for placement in store.placements_of(tx, name)
            ],
        )


def _named(changes: Sequence[Change], kind: str) -> list[str]:
    return list(dict.fromkeys(name for change in changes for name in change.body.get(kind, ())))


def serve(settings: Settings, telemetry: Telemetry) -> int:
    """Serve until SIGTERM; returns the exit code."""
    database = Database(settings.database_url.get_secret_value(), schema="placement")
    engine = Engine()
    memory = Memory(database, engine)
    follower = Follower(database, store.STATE, memory.follow, load=memory.load)
    tokens = Tokens(settings.token_key.get_secret_value())
    servicer = PlacementServicer(database, engine, tokens, settings.token_life, SystemClock())
    server = Server(
        settings, telemetry, needs={"database": database.check, "state": lambda: follower.healthy}
    )
    service = pb.DESCRIPTOR.services_by_name["PlacementService"]
    server.add(pb_grpc.add_PlacementServiceServicer_to_server, servicer, service)
    metrics.watch(engine)
    follower.start()
    try:
        return server.serve()
    finally:
        follower.stop()
