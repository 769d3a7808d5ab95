from collections.abc import Iterator

import pytest

from deploy.otel.receiver import Receiver, receiving
from tests.world import World, fresh_world


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Gets what the processes of `world` export."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def world(receiver: Receiver) -> Iterator[World]:
    """A platform for all contract tests, on which the story is told up to the bound accounts."""
    with fresh_world("contract", 8100, **receiver.environment) as world:
        world.prepare()
        yield world
