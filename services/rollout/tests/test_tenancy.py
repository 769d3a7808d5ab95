"""Enterprises do not see each other."""

from collections.abc import Callable

import pytest

from services.chassis.database import PUBLIC, Tenant
from services.chassis.testing.databases import assert_tenant_tables_safe
from services.rollout.tests.world import World, enterprise


def test_tables__keep_tenants_apart(world: World) -> None:
    """All tables with an enterprise are under row-level security."""
    assert_tenant_tables_safe(
        world.database, unique_without_enterprise=["audit_events_pkey"], global_rows=["audit_events"]
    )


@pytest.mark.parametrize("table", ["enterprises", "admissions"])
def test_rows__are_seen_by_their_enterprise_only(world: World, table: str) -> None:
    """A tenant's transaction sees its own rows and no other, and nobody's sees none."""
    world.create()
    world.verify(1, 2)
    with world.database.transaction(Tenant(enterprise(1))) as tx:
        assert [row["enterprise"] for row in tx.execute(f"select enterprise from {table}")] == [enterprise(1)]
    with world.database.transaction(PUBLIC) as tx:
        assert not tx.execute(f"select from {table}").fetchall()


@pytest.mark.parametrize("tenant_check", [True, False])
def test_edition__is_the_callers_own(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """It names no enterprise, so there is no other's to ask for."""
    world = serve(tenant_check=tenant_check)
    world.create()
    world.do("Start")
    world.verify(1)
    world.tell(2, verified=False)

    assert world.edition(1).admitted
    assert world.edition(2).reason == "NOT_VERIFIED"
    assert world.edition(3).reason == "NOT_ON_THE_LIST"
