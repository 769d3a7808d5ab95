"""Fixtures of the tests of rollout."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.chassis.clock import FixedClock
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, serving
from services.rollout import audit
from services.rollout.api import servicers
from services.rollout.tests.world import World


@pytest.fixture
def serve(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock, tmp_path: Path
) -> Iterator[Callable[..., World]]:
    """Serves rollout, on a fresh database unless one is given; takes the options of the server."""
    with ExitStack() as stack:

        def start(database: TemporaryDatabase | None = None, **options: object) -> World:
            database = database or make_database("rollout", clock=clock)
            offers = [Offer(*each) for each in servicers(database, tmp_path / "anchors")]
            audit.anchor_to(tmp_path / "anchors")
            stack.callback(audit.anchor_to, None)
            running = stack.enter_context(serving(*offers, **options))
            return World(database, clock, running, tmp_path / "anchors")

        yield start


@pytest.fixture
def world(serve: Callable[..., World]) -> World:
    """The service as it runs."""
    return serve()
