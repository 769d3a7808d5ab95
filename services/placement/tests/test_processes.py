"""migrate, api and worker as they run in production."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pika
import pytest
from google.protobuf.message import Message
from numerator.events.v1.accounts_pb2 import EnterpriseRegistered, EnterpriseVerified
from numerator.events.v1.targeting_pb2 import ConsentWithdrawn
from numerator.placement.v1 import placement_pb2 as pb
from numerator.placement.v1 import placement_pb2_grpc as pb_grpc

from services.chassis.events import encode, event_type
from services.chassis.ids import new_id
from services.chassis.messaging.envelope import make_headers
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.outcomes import reason_of
from services.chassis.testing.processes import Processes
from services.chassis.testing.rpc import anonymous, metadata_of
from services.placement.tests.world import AUDIENCE, FEED, KEY, OWNER, TIANSHAN, parts_of, stamp


class Broker:
    """The exchange of events, as other services use it."""

    def __init__(self, connection: pika.BlockingConnection) -> None:
        self._channel = connection.channel()
        self._channel.confirm_delivery()
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.queue_bind(self._queue, "numerator.events", "placement.#")

    def tell(self, message: Message, enterprise: str | None = TIANSHAN) -> None:
        """Tell an event."""
        content_type, body = encode(message)
        headers = make_headers(
            event_id=new_id(),
            event_type=event_type(type(message)),
            source="test",
            subject="test",
            ordering_key="test",
            time=datetime.now(UTC),
            enterprise=enterprise,
            traceparent="",
        )
        properties = pika.BasicProperties(content_type=content_type, headers=headers, delivery_mode=2)
        self._channel.basic_publish(
            "numerator.events", event_type(type(message)), body, properties, mandatory=True
        )

    def heard(self) -> list[str]:
        """The types of the events that placement has told since the last look."""
        types = []
        while (method := self._channel.basic_get(self._queue, auto_ack=True)[0]) is not None:
            types.append(method.routing_key)
        return types


@pytest.mark.slow
def test_processes__hear_decide_and_tell(
    make_database: Callable[..., TemporaryDatabase],
    amqp_url: str,
    tmp_path: Path,
    eventually: Callable[..., object],
) -> None:
    """What others tell reaches decisions and pages by worker and database; what follows is told to others."""
    processes = Processes(
        "placement", make_database("placement"), amqp_url, tmp_path, PLACEMENT_TOKEN_KEY=KEY
    )
    processes.run("migrate")
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        broker = Broker(connection)
        try:
            processes.start("api")
            processes.start("worker")
            with processes.serving(pb.DESCRIPTOR.services_by_name["PlacementService"]) as served:
                _story(pb_grpc.PlacementServiceStub(served), broker, eventually)
            heard: list[str] = []
            eventually(lambda: heard.extend(broker.heard()) or len(heard) == 3, timeout=30)
        finally:
            processes.stop()
    assert sorted(heard) == [
        "placement.campaign.started",
        "placement.exposure.recorded",
        "placement.registration.created",
    ]


def _story(stub: pb_grpc.PlacementServiceStub, broker: Broker, eventually: Callable[..., object]) -> None:
    def call(method: str, request: Message, principal=OWNER) -> Message:
        return getattr(stub, method)(request, metadata=metadata_of(principal), timeout=10)

    def tried(method: str, request: Message) -> Message | None:
        try:
            return call(method, request)
        except grpc.RpcError as error:
            if reason_of(error) != "AUDIENCE_NOT_READY":
                raise
            return None

    broker.tell(EnterpriseRegistered(enterprise=TIANSHAN, display_name="Tianshan Motors"), None)
    broker.tell(EnterpriseVerified(enterprise=TIANSHAN, display_name="Tianshan Motors"))
    for message in parts_of(AUDIENCE, {"ann": (1, ["topic:camping"]), "bo": (1, [])}, size=1):
        broker.tell(message)
    now = datetime.now(UTC)
    campaign = call(
        "CreateCampaign",
        pb.CreateCampaignRequest(
            parent=TIANSHAN,
            campaign=pb.Campaign(
                display_name="SUV weekend",
                start_time=stamp(now - timedelta(hours=1)),
                end_time=stamp(now + timedelta(days=1)),
                capacity=10,
            ),
        ),
    )
    placement = pb.Placement(
        touchpoint=pb.HOME_FEED,
        format=pb.EVENT_CARD,
        audience=AUDIENCE,
        daily_cap=5,
        creative=pb.Creative(title="Desert day"),
    )
    wanted = pb.CreatePlacementRequest(parent=campaign.name, placement=placement)
    eventually(lambda: tried("CreatePlacement", wanted), timeout=30)
    call("StartCampaign", pb.StartCampaignRequest(name=campaign.name))

    def decide() -> pb.Decision:
        return call("Decide", pb.DecideRequest(user="users/ann", touchpoint=pb.HOME_FEED), FEED)

    decision = eventually(lambda: (found := decide()).token and found, timeout=30)
    assert decision.label == "Sponsored by Tianshan Motors"
    call("RecordExposure", pb.RecordExposureRequest(token=decision.token), FEED)
    call("CreateRegistration", pb.CreateRegistrationRequest(token=decision.token, display_name="Ann"), FEED)

    def page() -> str:
        return call("ShowPage", pb.ShowPageRequest(enterprise="tianshan"), anonymous()).data.decode()

    eventually(lambda: "Verified enterprise" in page(), timeout=30)
    assert "9 of 10 places left" in page()
    broker.tell(ConsentWithdrawn(user="users/ann"), None)
    eventually(lambda: list(decide().reasons) == ["CONSENT_WITHDRAWN"], timeout=30)
