"""What `/openapi.json` says is what the gateway does."""

from random import SystemRandom

import pytest

from tests.contract.openapi import SECONDS, UNREACHABLE, measure
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 300)]


def test_openapi__every_answer_is_in_it(world: World) -> None:
    """At least 2,000 requests, right and wrong: none is answered with 500 or above, nor with what the document does not say."""
    world.story.ingest_profiles()

    result = measure(world, seed=SystemRandom().getrandbits(31))

    print(result)
    assert result.cases >= 2_000
    assert result.operations == result.offered
    assert set(result.unreached) <= UNREACHABLE
    assert result.statuses[401] < result.cases // 10  # a token that has expired shows nothing
    assert not result.failures, "\n".join([f"seed {result.seed}", *result.failures])
