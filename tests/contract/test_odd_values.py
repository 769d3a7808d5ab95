"""Whatever stands in a field, the answer says what is wrong with it."""

import pytest

from tests.contract.odd_values import measure
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_odd_values__are_no_internal_errors(world: World) -> None:
    """Of every method, every field, with values that are too large, unknown, of another kind or made by hand."""
    world.story.ingest_profiles()

    result = measure(world)

    print(result)
    assert result.calls > 10 * result.methods
    assert not result.internal
