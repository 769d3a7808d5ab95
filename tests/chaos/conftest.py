from collections.abc import Iterator
from random import SystemRandom

import pytest

from tests.world import World, fresh_world


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """A platform for all that is broken here, on which the story is told up to the bound accounts."""
    with fresh_world("chaos", 8150) as world:
        world.prepare()
        yield world


@pytest.fixture
def seed() -> int:
    """Another one in each run; printed with what fails."""
    return SystemRandom().randrange(1 << 32)
