"""Enterprises do not see each other, whatever is called and whatever field names the other's resource."""

import pytest

from tests.contract.cross_tenant import measure
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("tenant_check", [True, False], ids=["checked", "row-level-security-alone"])
def test_cross_tenant__others_are_answered_for_as_missing(world: World, *, tenant_check: bool) -> None:
    """Every RPC and every field that names a resource: no difference, no word of the other's, no change."""
    world.story.ingest_profiles()

    result = measure(world, tenant_check=tenant_check)

    print(result)
    assert result.checked is tenant_check
    assert result.compared
    assert not result.leaks
    assert not result.accepted
    assert not result.unforeseen
    assert not result.changed
    assert not result.blunt
