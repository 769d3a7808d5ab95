"""migrate, api and worker as they run in production."""

import json
from collections.abc import Callable
from pathlib import Path

import pika
import pytest
from numerator.targeting.v1 import targeting_pb2 as pb
from numerator.targeting.v1 import targeting_pb2_grpc as pb_grpc

from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.processes import Processes
from services.chassis.testing.rpc import metadata_of
from services.targeting.tests.world import CAMPERS, FEEDER, OWNER, TIANSHAN, camper, rule


@pytest.mark.slow
def test_processes__serve_and_tell(
    make_database: Callable[..., TemporaryDatabase], amqp_url: str, tmp_path: Path, eventually
) -> None:
    """People go in, an audience is built, and its parts and its completion come out at the broker, in order."""
    processes = Processes(
        "targeting", make_database("targeting"), amqp_url, tmp_path, TARGETING_MINIMUM_AUDIENCE="10"
    )
    processes.run("migrate")
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "numerator.events", "targeting.#")
        try:
            processes.start("api")
            processes.start("worker")
            with processes.serving(pb.DESCRIPTOR.services_by_name["TargetingService"]) as served:
                stub = pb_grpc.TargetingServiceStub(served)
                _story(stub)
            heard: list[str] = []

            def hear() -> bool:
                while (method := channel.basic_get(queue, auto_ack=True)[0]) is not None:
                    heard.append(method.routing_key)
                return len(heard) == 4

            eventually(hear, timeout=30)
        finally:
            processes.stop()
    assert heard == ["targeting.audience.members_listed"] * 3 + ["targeting.audience.computed"]


def _story(stub: pb_grpc.TargetingServiceStub) -> None:
    part = pb.IngestProfilesRequest()
    part.body.data = b"\n".join(json.dumps(camper(number)).encode() for number in range(2_500))
    report = stub.IngestProfiles(iter([part]), metadata=metadata_of(FEEDER), timeout=30)
    assert report.accepted_count == 2_500
    audience = pb.Audience(display_name="People", definition=rule(CAMPERS))
    created = stub.CreateAudience(
        pb.CreateAudienceRequest(parent=TIANSHAN, audience=audience), metadata=metadata_of(OWNER), timeout=10
    )
    built = stub.BuildAudience(
        pb.BuildAudienceRequest(name=created.name), metadata=metadata_of(OWNER), timeout=30
    )
    assert (built.size, built.version) == (2_500, 1)
