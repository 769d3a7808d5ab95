"""Fixtures of the tests of placement."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from numerator.placement.v1 import placement_pb2 as pb
from numerator.placement.v1 import placement_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import Follower
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, serving
from services.placement import store
from services.placement.api import Memory
from services.placement.engine import Engine
from services.placement.rpc import PlacementServicer
from services.placement.tests.world import KEY, LIFE, World
from services.placement.tokens import Tokens


@pytest.fixture
def serve(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock
) -> Iterator[Callable[..., World]]:
    """Serves placement; takes the options of the server."""
    with ExitStack() as stack:

        def start(**options: object) -> World:
            database, engine = make_database("placement", clock=clock, max_size=20), Engine()
            memory = Memory(database, engine)
            follower = Follower(database, store.STATE, memory.follow, load=memory.load)
            follower.start()
            stack.callback(follower.stop)
            offer = Offer(
                pb_grpc.add_PlacementServiceServicer_to_server,
                PlacementServicer(database, engine, Tokens(KEY), LIFE, clock),
                pb.DESCRIPTOR.services_by_name["PlacementService"],
            )
            running = stack.enter_context(serving(offer, **options))
            return World(database, clock, engine, follower, running)

        yield start


@pytest.fixture
def world(serve: Callable[..., World]) -> World:
    """The service as it runs."""
    return serve()
