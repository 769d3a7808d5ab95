"""Enterprises do not see each other, and do not come where operators and gateways are."""

from collections.abc import Callable, Iterator

import grpc
import pytest
from numerator.options.v1 import options_pb2
from numerator.rollout.v1 import (
    admissions_pb2,
    audit_pb2,
    changes_pb2,
    flags_pb2,
    rollout_pb2,
    serving_pb2,
)

from services.chassis.database import PUBLIC, Tenant
from services.chassis.principal import Principal
from services.chassis.testing.databases import assert_tenant_tables_safe
from services.chassis.testing.outcomes import reason_of
from services.chassis.testing.rpc import anonymous, client, gateway, member, operator
from services.rollout.tests.world import EDITION, FLAG, World, enterprise

FILES = (rollout_pb2, admissions_pb2, flags_pb2, changes_pb2, audit_pb2, serving_pb2)


def test_tables__keep_tenants_apart(world: World) -> None:
    """All tables with an enterprise are under row-level security; what must be unique without one are random ids of ours."""
    assert_tenant_tables_safe(
        world.database,
        unique_without_enterprise={"invitations_pkey", "invitations_token_hash_key", "audit_events_pkey"},
        global_rows={"audit_events"},
    )


@pytest.fixture
def filled(world: World) -> World:
    """A world in which each table with an enterprise has rows of two."""
    world.create(stages="- {ring: a, audience: {waitlist: joined}}")
    world.do("Start")
    world.verify(1, 2)
    ops = world.as_(operator()).admissions
    for number in (1, 2):
        world.as_(member(enterprise(number))).edition.JoinWaitlist(admissions_pb2.JoinWaitlistRequest())
        entry = admissions_pb2.ListEntry(
            enterprise=enterprise(number), kind=admissions_pb2.ListEntry.ALLOW, reason="a test"
        )
        ops.SetListEntry(admissions_pb2.SetListEntryRequest(parent=EDITION, entry=entry))
        invitation = admissions_pb2.Invitation(enterprise=enterprise(number))
        ops.CreateInvitation(admissions_pb2.CreateInvitationRequest(parent=EDITION, invitation=invitation))
        world.use(number, stage="a", flag=FLAG)
        world.measure("publish.error_rate", {number: (10, 1)}, number)
    return world


@pytest.mark.parametrize(
    "table",
    [
        "enterprises", "admissions", "list_entries", "waitlist_entries", "invitations", "exposures", "measurements",
        "audit_events",
    ],
)  # fmt: skip
def test_rows__are_seen_by_their_enterprise_only(filled: World, table: str) -> None:
    """A tenant's transaction sees its own rows and no other, and nobody's sees none."""
    assert {row["enterprise"] for row in filled.rows(table)} >= {enterprise(1), enterprise(2)}
    with filled.database.transaction(Tenant(enterprise(1))) as tx:
        assert {row["enterprise"] for row in tx.execute(f"select enterprise from {table}")} == {enterprise(1)}
    with filled.database.transaction(PUBLIC) as tx:
        assert not tx.execute(f"select from {table}").fetchall()


@pytest.mark.parametrize("tenant_check", [True, False])
def test_edition__is_the_callers_own(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """It names no enterprise, so there is no other's to ask for, to join with, or to accept for."""
    world = serve(tenant_check=tenant_check)
    world.create(stages="- {ring: a, audience: {waitlist: joined}}")
    world.do("Start")
    world.verify(1)
    world.tell(2, verified=False)
    world.as_(member(enterprise(1))).edition.JoinWaitlist(admissions_pb2.JoinWaitlistRequest())

    assert world.edition(1).admitted
    assert (world.edition(2).reason, world.edition(2).on_waitlist) == ("NOT_VERIFIED", False)
    assert world.edition(3).reason == "NOT_ON_THE_LIST"
    for number in (1, 2, 3):
        assert world.edition(number).enterprise == enterprise(number)


def methods() -> Iterator[tuple[str, str, set[str]]]:
    """Every method of rollout: its service's name, its own, and who may call it."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                access = method.GetOptions().Extensions[options_pb2.access]
                yield (
                    service.full_name,
                    method.name,
                    {options_pb2.Caller.Name(each) for each in access.callers},
                )


@pytest.mark.parametrize(
    "principal",
    [member(enterprise(1)), client(enterprise(1)), gateway(), operator(), anonymous()],
    ids=lambda each: each.kind,
)
def test_methods__are_for_whom_the_contract_names(world: World, principal: Principal) -> None:
    """Every one of them, for every kind of caller: whoever is not named gets nowhere."""
    kinds = {"MEMBER", "CLIENT", "GATEWAY", "OPERATOR", "ANONYMOUS"}
    channel, closed = world.running.as_(principal), {}
    for service, name, callers in methods():
        assert callers <= kinds
        if principal.kind not in callers:
            closed[name] = refusal_of(channel, service, name)

    assert closed
    assert set(closed.values()) <= {"CALLER_NOT_ALLOWED", "CREDENTIALS_MISSING"}


def refusal_of(channel: grpc.Channel, service: str, name: str) -> str:
    """Why an empty request is refused."""
    call = channel.unary_stream(f"/{service}/{name}")
    with pytest.raises(grpc.RpcError) as refused:
        list(call(b"", timeout=10))
    return reason_of(refused.value)


def test_members__may_call_the_edition_and_nothing_else() -> None:
    """What enterprises reach of rollout is four methods that name nobody."""
    reached = {name for _, name, callers in methods() if callers & {"MEMBER", "CLIENT", "ANONYMOUS"}}

    assert reached == {"GetEdition", "JoinWaitlist", "LeaveWaitlist", "AcceptInvitation"}
