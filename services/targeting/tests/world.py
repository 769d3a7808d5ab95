"""What the tests of targeting share: the service as it runs, and people who do not exist."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import ParseDict
from numerator.targeting.v1 import targeting_pb2 as pb
from numerator.targeting.v1 import targeting_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Follower
from services.chassis.principal import Principal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import RunningServer, client, member
from services.targeting.index import Index

TIANSHAN = "enterprises/tianshan"
KUNLUN = "enterprises/kunlun"
OWNER = member(TIANSHAN)
FEEDER = client("enterprises/network", ["profiles.write"])
"""A partner app that sends profiles; it belongs to an enterprise, what it sends does not."""

CAMPERS = {"topics": {"values": ["camping"]}}


def rule(definition: dict[str, Any]) -> pb.Rule:
    """A definition, from its JSON form."""
    return ParseDict(definition, pb.Rule())


def camper(number: int, **facts: Any) -> dict[str, Any]:
    """The line of somebody who likes camping."""
    return {"user": f"u{number}", "topics": ["Camping"], "city": "Chengdu", "gender": "f", "age": 30} | facts


@dataclass
class World:
    """The service, served, with its index."""

    database: TemporaryDatabase
    clock: FixedClock
    index: Index
    follower: Follower
    running: RunningServer
    _stubs: dict[Principal, pb_grpc.TargetingServiceStub] = field(default_factory=dict)

    def as_(self, principal: Principal) -> pb_grpc.TargetingServiceStub:
        """The service, as somebody sees it."""
        if principal not in self._stubs:
            self._stubs[principal] = pb_grpc.TargetingServiceStub(self.running.as_(principal))
        return self._stubs[principal]

    @property
    def owner(self) -> pb_grpc.TargetingServiceStub:
        """The service, as the owner of TIANSHAN sees it."""
        return self.as_(OWNER)

    def ingest(
        self, lines: Iterable[dict[str, Any]] | bytes, *, piece: int = 64 * 1024
    ) -> pb.IngestProfilesResponse:
        """Send a file, in pieces of so many bytes."""
        raw = (
            lines
            if isinstance(lines, bytes)
            else b"".join(json.dumps(each).encode() + b"\n" for each in lines)
        )

        def pieces() -> Iterator[pb.IngestProfilesRequest]:
            for first in range(0, len(raw), piece):
                part = pb.IngestProfilesRequest()
                part.body.data = raw[first : first + piece]
                yield part

        return self.as_(FEEDER).IngestProfiles(pieces())

    def create(self, definition: dict[str, Any], principal: Principal = OWNER, **fields: Any) -> pb.Audience:
        """An audience that is described."""
        wanted = pb.Audience(display_name="People", definition=rule(definition))
        return self.as_(principal).CreateAudience(
            pb.CreateAudienceRequest(parent=principal.enterprise, audience=wanted, **fields)
        )

    def build(self, name: str, principal: Principal = OWNER, **fields: Any) -> pb.Audience:
        """Build an audience."""
        return self.as_(principal).BuildAudience(pb.BuildAudienceRequest(name=name, **fields))

    def estimate(self, definition: dict[str, Any], principal: Principal = OWNER) -> pb.AudienceEstimate:
        """Estimate a definition."""
        return self.as_(principal).EstimateAudience(
            pb.EstimateAudienceRequest(parent=principal.enterprise, definition=rule(definition))
        )

    def withdraw(self, number: int) -> pb.Consent:
        """Withdraw a person's consent."""
        return self.as_(FEEDER).WithdrawConsent(pb.WithdrawConsentRequest(name=f"users/u{number}"))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        with self.database.transaction(PLATFORM) as tx:
            return tx.execute(f"select * from {table}").fetchall()
