"""Fixtures of the tests of targeting."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from numerator.targeting.v1 import targeting_pb2 as pb
from numerator.targeting.v1 import targeting_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import Follower
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, serving
from services.targeting import store
from services.targeting.api import People
from services.targeting.index import Index
from services.targeting.rpc import TargetingServicer
from services.targeting.tests.world import World


@pytest.fixture
def serve(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock
) -> Iterator[Callable[..., World]]:
    """Serves targeting with a smallest audience of ten; takes the options of the server, too."""
    with ExitStack() as stack:

        def start(minimum: int = 10, **options: object) -> World:
            database, index = make_database("targeting", clock=clock), Index()
            people = People(database, index)
            follower = Follower(database, store.PEOPLE, people.follow, load=people.load)
            follower.start()
            stack.callback(follower.stop)
            offer = Offer(
                pb_grpc.add_TargetingServiceServicer_to_server,
                TargetingServicer(database, index, follower, minimum),
                pb.DESCRIPTOR.services_by_name["TargetingService"],
            )
            running = stack.enter_context(serving(offer, **options))
            return World(database, clock, index, follower, running)

        yield start


@pytest.fixture
def world(serve: Callable[..., World]) -> World:
    """The service as it runs."""
    return serve()
