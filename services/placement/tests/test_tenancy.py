"""Enterprises do not see each other: by the check of each call, and by row-level security alone."""

from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from numerator.placement.v1 import placement_pb2 as pb

from services.chassis.database import PUBLIC, Tenant
from services.chassis.testing.databases import assert_tenant_tables_safe
from services.chassis.testing.outcomes import reason_of
from services.chassis.testing.rpc import member
from services.placement.tests.world import AUDIENCE, KUNLUN, TIANSHAN, World, stamp

TABLES = (
    "enterprises",
    "modules",
    "campaigns",
    "placements",
    "audiences",
    "audience_versions",
    "audience_parts",
    "exposures",
    "registrations",
)


def fill(world: World) -> tuple[str, str]:
    """Something of TIANSHAN in every table; returns a module and a campaign in preparation."""
    placement = world.live({"ann": (1, ["x"])})
    token = world.decide("ann").token
    world.expose(token)
    world.register(token)
    module = world.owner.CreateModule(
        pb.CreateModuleRequest(parent=TIANSHAN, module=wanted_module(world, "SUV weekend"))
    )
    draft = world.campaign()
    world.place(draft.name)
    assert placement.name != draft.name
    return module.name, draft.name


def wanted_module(world: World, title: str) -> pb.Module:
    now = world.clock.now()
    return pb.Module(title=title, start_time=stamp(now), end_time=stamp(now.replace(year=now.year + 1)))


def test_tables__keep_tenants_apart(world: World) -> None:
    """All tables with an enterprise are under row-level security."""
    assert_tenant_tables_safe(world.database)


def test_rows__are_seen_by_their_enterprise_only(world: World) -> None:
    """In every table: another tenant's transaction sees no row, and nobody's sees none."""
    fill(world)
    for table in TABLES:
        for scope, sees in ((Tenant(TIANSHAN), True), (Tenant(KUNLUN), False), (PUBLIC, False)):
            with world.database.transaction(scope) as tx:
                found = tx.execute(f"select enterprise from {table}").fetchall()
            assert bool(found) is sees, (table, scope)


def calls(world: World, enterprise: str, module: str, campaign: str) -> list[tuple[str, Message]]:
    """One call of each method that names something of an enterprise."""
    now = world.clock.now()
    wanted = pb.Campaign(
        display_name="Spy", start_time=stamp(now), end_time=stamp(now.replace(year=now.year + 1))
    )
    placement = pb.Placement(
        touchpoint=pb.SEARCH, format=pb.EVENT_CARD, audience=AUDIENCE, creative=pb.Creative(title="Spy")
    )
    return [
        ("CreateModule", pb.CreateModuleRequest(parent=enterprise, module=wanted_module(world, "Spy"))),
        ("GetModule", pb.GetModuleRequest(name=module)),
        ("ListModules", pb.ListModulesRequest(parent=enterprise)),
        ("DeleteModule", pb.DeleteModuleRequest(name=module)),
        ("CreateCampaign", pb.CreateCampaignRequest(parent=enterprise, campaign=wanted)),
        ("GetCampaign", pb.GetCampaignRequest(name=campaign)),
        ("ListCampaigns", pb.ListCampaignsRequest(parent=enterprise)),
        ("StartCampaign", pb.StartCampaignRequest(name=campaign)),
        ("EndCampaign", pb.EndCampaignRequest(name=campaign)),
        ("CreatePlacement", pb.CreatePlacementRequest(parent=campaign, placement=placement)),
        ("ListPlacements", pb.ListPlacementsRequest(parent=campaign)),
        ("ListRegistrations", pb.ListRegistrationsRequest(parent=campaign)),
    ]


@pytest.mark.parametrize("tenant_check", [True, False])
def test_calls__answer_as_if_others_did_not_exist(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """Every method, with the check of the calls and with row-level security alone: NOT_FOUND, and nothing changes."""
    world = serve(tenant_check=tenant_check)
    module, campaign = fill(world)
    before = {table: world.rows(table) for table in TABLES}
    spy = world.as_(member(KUNLUN))
    missing = "enterprises/missing"
    for theirs, nobodys in zip(
        calls(world, TIANSHAN, module, campaign),
        calls(world, missing, f"{missing}/modules/x", f"{missing}/campaigns/x"),
        strict=True,
    ):
        told = []
        for method, request in (theirs, nobodys):
            with pytest.raises(grpc.RpcError) as refused:
                getattr(spy, method)(request)
            told.append((refused.value.code(), reason_of(refused.value)))
        assert told == [(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")] * 2, theirs[0]
    assert {table: world.rows(table) for table in TABLES} == before
