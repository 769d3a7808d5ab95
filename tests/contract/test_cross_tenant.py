"""Enterprises do not see each other, whatever is called and whatever field names the other's resource."""

import pytest

from tests.contract.cross_tenant import Result, measure
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def results(world: World) -> tuple[Result, Result]:
    """With the application's check, and by row-level security alone."""
    world.story.ingest_profiles()
    return measure(world)


@pytest.mark.parametrize("tenant_check", [True, False], ids=["checked", "row-level-security-alone"])
def test_cross_tenant__others_are_answered_for_as_missing(
    results: tuple[Result, Result], *, tenant_check: bool
) -> None:
    """Every RPC and every field that names a resource: no difference, no word of the other's, no change."""
    result = results[0] if tenant_check else results[1]

    print(result)
    assert result.checked is tenant_check
    assert result.compared
    assert not result.leaks
    assert not result.accepted
    assert not result.unforeseen
    assert not result.changed
    assert not result.blunt
    assert not result.untried
