"""Fixtures of the tests of rollout."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import rollout_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, serving
from services.rollout.rpc import RolloutServicer
from services.rollout.tests.world import World


@pytest.fixture
def serve(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock
) -> Iterator[Callable[..., World]]:
    """Serves rollout; takes the options of the server."""
    with ExitStack() as stack:

        def start(**options: object) -> World:
            database = make_database("rollout", clock=clock)
            offer = Offer(
                pb_grpc.add_RolloutServiceServicer_to_server,
                RolloutServicer(database),
                pb.DESCRIPTOR.services_by_name["RolloutService"],
            )
            return World(database, clock, stack.enter_context(serving(offer, **options)))

        yield start


@pytest.fixture
def world(serve: Callable[..., World]) -> World:
    """The service as it runs."""
    return serve()
