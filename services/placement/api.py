"""Placement's api process, put together: the engine, kept current, and the gRPC server."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from numerator.events.v1.targeting_pb2 import AudienceMembersListed
from numerator.placement.v1 import placement_pb2 as pb
from numerator.placement.v1 import placement_pb2_grpc as pb_grpc

from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Change, Database, Follower, Transaction
from services.chassis.names import enterprise_of
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry
from services.placement import store
from services.placement.engine import Engine, Fit, LivePlacement
from services.placement.model import CAP_WINDOW, CampaignState
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
            for audience in store.audiences_of_all(tx):
                self._put_audience(tx, audience)
            for placement, person, decision, at in store.exposures_since(tx, tx.now - CAP_WINDOW):
                self._engine.put_exposure(placement, person, decision, at)
            for campaign in store.campaigns_of_all(tx):
                self._put_campaign(tx, campaign.name)
        return newest

    def follow(self, changes: Sequence[Change]) -> None:
        """Bring each change into the engine, by reading anew what it names."""
        with self._database.transaction(PLATFORM) as tx:
            for change in changes:
                self._follow(tx, change.body)

    def _follow(self, tx: Transaction, change: Mapping[str, Any]) -> None:
        self._engine.withdraw(change.get("withdrawn", ()))
        for audience in change.get("audiences", ()):
            self._put_audience(tx, audience)
        for campaign in change.get("campaigns", ()):
            self._put_campaign(tx, campaign)
        for placement, person, decision, at in change.get("exposures", ()):
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
        campaign = store.get_campaign_of_all(tx, name)
        if campaign is None or campaign.state is not CampaignState.LIVE:
            self._engine.put_campaign(name, ())
            return
        sponsor = store.enterprise_name(tx, enterprise_of(name) or "")
        self._engine.put_campaign(
            name,
            [
                LivePlacement(placement, f"Sponsored by {sponsor}", campaign.start_time, campaign.end_time)
                for placement in store.placements_of(tx, name)
            ],
        )


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
    follower.start()
    try:
        return server.serve()
    finally:
        follower.stop()
