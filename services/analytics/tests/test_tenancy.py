"""Enterprises do not see each other: by the check of each call, and without it."""

from collections.abc import Callable

import grpc
import pytest

from services.analytics.tests.world import KUNLUN, TIANSHAN, World, post, repost
from services.chassis.database import PUBLIC, Tenant
from services.chassis.testing.databases import assert_tenant_tables_safe
from services.chassis.testing.outcomes import reason_of
from services.chassis.testing.rpc import member


def test_tables__keep_tenants_apart(world: World) -> None:
    """All tables with an enterprise are under row-level security."""
    assert_tenant_tables_safe(world.database)


@pytest.mark.parametrize("table", ["fact_ids", "posts", "changes"])
def test_rows__are_seen_by_their_enterprise_only(world: World, table: str) -> None:
    """A tenant's transaction sees its own rows and no other, and nobody's sees none."""
    for enterprise in (TIANSHAN, KUNLUN):
        world.ingest([post("p")], member(enterprise))
    with world.database.transaction(Tenant(KUNLUN)) as tx:
        assert [row["enterprise"] for row in tx.execute(f"select enterprise from {table}")] == [KUNLUN]
    with world.database.transaction(PUBLIC) as tx:
        assert not tx.execute(f"select from {table}").fetchall()


def test_ids__of_one_enterprise__are_free_for_another(world: World) -> None:
    """The same post and the same event ids are facts of each."""
    lines = [post("p"), repost("r")]
    for enterprise in (TIANSHAN, KUNLUN):
        assert world.ingest(lines, member(enterprise)).accepted_count == 2
    for enterprise in (TIANSHAN, KUNLUN):
        assert world.number("reposts", member(enterprise)) == 1


@pytest.mark.parametrize("tenant_check", [True, False])
def test_calls__answer_as_if_others_did_not_exist(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """With the check of the calls and without it: NOT_FOUND, as for one that does not exist, and nothing changes."""
    world = serve(tenant_check=tenant_check)
    world.ingest([post("p"), repost("r")])
    before, spy = world.newest(), member(KUNLUN)

    told = []
    for whose in (TIANSHAN, "enterprises/missing"):
        for call in (
            lambda whose=whose: world.ask(["reach"], ["post"], spy, parent=whose),
            lambda whose=whose: world.ingest([post("p2")], spy, whose),
            lambda whose=whose: world.ingest(b"", spy, whose),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            told.append((refused.value.code(), reason_of(refused.value)))

    assert set(told) == {(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")}
    assert world.newest() == before
