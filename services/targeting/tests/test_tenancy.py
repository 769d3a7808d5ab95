"""Enterprises do not see each other: by the check of each call, and by row-level security alone."""

from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from numerator.targeting.v1 import targeting_pb2 as pb

from services.chassis.database import PUBLIC, Tenant
from services.chassis.testing.databases import assert_tenant_tables_safe
from services.chassis.testing.outcomes import reason_of
from services.chassis.testing.rpc import member
from services.targeting.tests.world import CAMPERS, KUNLUN, TIANSHAN, World, camper, rule


def test_tables__keep_tenants_apart(world: World) -> None:
    """All tables with an enterprise are under row-level security."""
    assert_tenant_tables_safe(world.database)


def test_rows__are_seen_by_their_enterprise_only(world: World) -> None:
    """A tenant's transaction sees its own audiences and no other, and nobody's sees none."""
    world.create(CAMPERS)
    world.create(CAMPERS, member(KUNLUN))
    with world.database.transaction(Tenant(KUNLUN)) as tx:
        seen = [row["enterprise"] for row in tx.execute("select enterprise from audiences")]
    assert seen == [KUNLUN]
    with world.database.transaction(PUBLIC) as tx:
        assert not tx.execute("select from audiences").fetchall()


def calls(enterprise: str, audience: str) -> list[tuple[str, Message]]:
    """One call of each method that names something of an enterprise."""
    draft = pb.Audience(display_name="Spy", definition=rule(CAMPERS))
    return [
        ("CreateAudience", pb.CreateAudienceRequest(parent=enterprise, audience=draft)),
        ("GetAudience", pb.GetAudienceRequest(name=audience)),
        ("ListAudiences", pb.ListAudiencesRequest(parent=enterprise)),
        ("EstimateAudience", pb.EstimateAudienceRequest(parent=enterprise, definition=rule(CAMPERS))),
        ("DeleteAudience", pb.DeleteAudienceRequest(name=audience)),
        ("BuildAudience", pb.BuildAudienceRequest(name=audience)),
        ("SampleAudience", pb.SampleAudienceRequest(name=audience)),
    ]


@pytest.mark.parametrize("tenant_check", [True, False])
def test_calls__answer_as_if_others_did_not_exist(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """Every method, with the check of the calls and with row-level security alone: NOT_FOUND, and nothing changes."""
    world = serve(tenant_check=tenant_check)
    world.ingest([camper(number) for number in range(20)])
    audience = world.create(CAMPERS).name
    world.build(audience)
    before = world.rows("audiences")
    spy = world.as_(member(KUNLUN))
    missing = "enterprises/missing"
    for theirs, nobodys in zip(
        calls(TIANSHAN, audience), calls(missing, f"{missing}/audiences/x"), strict=True
    ):
        told = []
        for method, request in (theirs, nobodys):
            with pytest.raises(grpc.RpcError) as refused:
                getattr(spy, method)(request)
            told.append((refused.value.code(), reason_of(refused.value)))
        assert told == [(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")] * 2, theirs[0]
    assert world.rows("audiences") == before
