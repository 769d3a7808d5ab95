"""What the tests of placement share: the service as it runs, and what other services would have told it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from numerator.events.v1.targeting_pb2 import AudienceComputed, AudienceMember, AudienceMembersListed
from numerator.placement.v1 import placement_pb2 as pb
from numerator.placement.v1 import placement_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Follower, Tenant
from services.chassis.principal import Principal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import RunningServer, client, member
from services.placement import store, usecases
from services.placement.engine import Engine
from services.placement.tokens import Token, Tokens

TIANSHAN = "enterprises/tianshan"
KUNLUN = "enterprises/kunlun"
OWNER = member(TIANSHAN)
FEED = client("enterprises/network", ["decisions.read", "exposures.write"])
"""The network's own client, which asks what to show."""
AUDIENCE = f"{TIANSHAN}/audiences/campers"
KEY = "a-key-of-the-tests-with-32-characters"
LIFE = timedelta(minutes=30)


def stamp(moment: datetime) -> Timestamp:
    """A moment as the contract has it."""
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def parts_of(
    audience: str, people: Mapping[str, tuple[float, Sequence[str]]], version: int = 1, size: int = 1_000
) -> list[AudienceMembersListed | AudienceComputed]:
    """What targeting tells of an audience: its parts, then that it is complete."""
    members = [
        AudienceMember(user=f"users/{person}", relevance=relevance, evidence=evidence)
        for person, (relevance, evidence) in people.items()
    ]
    cut = [members[first : first + size] for first in range(0, len(members), size)]
    return [
        *(
            AudienceMembersListed(audience=audience, version=version, part=number, members=part)
            for number, part in enumerate(cut)
        ),
        AudienceComputed(audience=audience, version=version, size=len(members), parts=len(cut)),
    ]


@dataclass
class World:
    """The service, served, with its engine."""

    database: TemporaryDatabase
    clock: FixedClock
    engine: Engine
    follower: Follower
    running: RunningServer
    _stubs: dict[Principal, pb_grpc.PlacementServiceStub] = field(default_factory=dict)

    def as_(self, principal: Principal) -> pb_grpc.PlacementServiceStub:
        """The service, as somebody sees it."""
        if principal not in self._stubs:
            self._stubs[principal] = pb_grpc.PlacementServiceStub(self.running.as_(principal))
        return self._stubs[principal]

    @property
    def owner(self) -> pb_grpc.PlacementServiceStub:
        """The service, as the owner of TIANSHAN sees it."""
        return self.as_(OWNER)

    @property
    def feed(self) -> pb_grpc.PlacementServiceStub:
        """The service, as the network's client sees it."""
        return self.as_(FEED)

    # What other services tell

    def name(self, enterprise: str = TIANSHAN, display_name: str = "Tianshan Motors") -> None:
        """Accounts tells of an enterprise."""
        with self.database.transaction(Tenant(enterprise)) as tx:
            usecases.name_enterprise(tx, enterprise, display_name)

    def hear(self, *told: AudienceMembersListed | AudienceComputed) -> None:
        """Targeting tells of an audience, each message in a transaction of its own."""
        for message in told:
            with self.database.transaction(Tenant(message.audience.partition("/audiences/")[0])) as tx:
                if isinstance(message, AudienceComputed):
                    usecases.complete_audience(tx, message)
                else:
                    usecases.keep_part(tx, message)

    def audience(
        self, people: Mapping[str, tuple[float, Sequence[str]]], name: str = AUDIENCE, version: int = 1
    ) -> str:
        """An audience that has arrived."""
        self.hear(*parts_of(name, people, version))
        return name

    def withdraw(self, person: str) -> None:
        """Targeting tells that a person withdrew."""
        with self.database.transaction(PLATFORM) as tx:
            usecases.withdraw(tx, person)

    # What the enterprise does

    def campaign(self, principal: Principal = OWNER, **fields: Any) -> pb.Campaign:
        """A campaign in preparation, whose flight is the next week."""
        wanted = {
            "display_name": "SUV weekend",
            "start_time": stamp(self.clock.now()),
            "end_time": stamp(self.clock.now() + timedelta(days=7)),
        } | fields
        return self.as_(principal).CreateCampaign(
            pb.CreateCampaignRequest(parent=principal.enterprise, campaign=pb.Campaign(**wanted))
        )

    def place(self, campaign: str, principal: Principal = OWNER, **fields: Any) -> pb.Placement:
        """A placement of a campaign."""
        wanted = {
            "touchpoint": pb.HOME_FEED,
            "format": pb.EVENT_CARD,
            "audience": AUDIENCE,
            "creative": pb.Creative(title="SUV weekend"),
        } | fields
        return self.as_(principal).CreatePlacement(
            pb.CreatePlacementRequest(parent=campaign, placement=pb.Placement(**wanted))
        )

    def start(self, campaign: str) -> pb.Campaign:
        """Put a campaign live, and wait until decisions know it."""
        started = self.owner.StartCampaign(pb.StartCampaignRequest(name=campaign))
        self.settle()
        return started

    def live(self, people: Mapping[str, tuple[float, Sequence[str]]], **fields: Any) -> pb.Placement:
        """A placement of a live campaign for these people. `capacity` is the campaign's."""
        self.name()
        self.audience(people)
        campaign = self.campaign(capacity=fields.pop("capacity", 0)).name
        placement = self.place(campaign, **fields)
        self.start(campaign)
        return placement

    # What the network does

    def decide(self, person: str, touchpoint: pb.Touchpoint = pb.HOME_FEED) -> pb.Decision:
        """What a person sees."""
        return self.feed.Decide(pb.DecideRequest(user=f"users/{person}", touchpoint=touchpoint))

    def expose(self, token: str) -> pb.Exposure:
        """The person saw it."""
        return self.feed.RecordExposure(pb.RecordExposureRequest(token=token))

    def register(self, token: str, display_name: str = "Li Na") -> pb.Registration:
        """The person signs up."""
        return self.feed.CreateRegistration(
            pb.CreateRegistrationRequest(token=token, display_name=display_name)
        )

    def token(self, decision: str, person: str, placement: str, *, life: timedelta = LIFE) -> str:
        """The token of a decision, as if it had been made."""
        expires = int((self.clock.now() + life).timestamp())
        return Tokens(KEY).sign(Token(decision, person, placement, "HOME_FEED", expires))

    # Looking

    def settle(self) -> None:
        """Wait until decisions know all that was written."""
        with self.database.transaction(PLATFORM) as tx:
            newest = store.last_change(tx)
        assert self.follower.caught_up(newest, 10)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        with self.database.transaction(PLATFORM) as tx:
            return tx.execute(f"select * from {table}").fetchall()
