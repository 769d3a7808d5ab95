"""Fixtures of the tests of analytics."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc

from services.analytics.api import Facts
from services.analytics.columns import Columns
from services.analytics.rpc import AnalyticsServicer
from services.analytics.tests.world import World
from services.chassis.clock import FixedClock
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, serving
from services.chassis.testing.waiting import eventually


@pytest.fixture
def serve(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock, tmp_path: Path
) -> Iterator[Callable[..., World]]:
    """Serves analytics; takes the options of the server. Once in a test: chDB opens one folder in a process."""
    with ExitStack() as stack:

        def start(**options: object) -> World:
            database, columns = make_database("analytics", clock=clock), Columns(tmp_path / "store")
            stack.callback(columns.close)
            facts = Facts(database, columns)
            facts.follower.start()
            eventually(facts.ready)
            stack.callback(facts.follower.stop)
            offer = Offer(
                pb_grpc.add_AnalyticsServiceServicer_to_server,
                AnalyticsServicer(database, columns, facts.follower, window=timedelta(minutes=1)),
                pb.DESCRIPTOR.services_by_name["AnalyticsService"],
            )
            running = stack.enter_context(serving(offer, **options))
            return World(database, clock, columns, facts.follower, running)

        yield start


@pytest.fixture
def world(serve: Callable[..., World]) -> World:
    """The service as it runs."""
    return serve()


@pytest.fixture
def columns(tmp_path: Path) -> Iterator[Columns]:
    """An empty columnar store that follows a log."""
    columns = Columns(tmp_path / "store")
    columns.open("log", 0)
    yield columns
    columns.close()
