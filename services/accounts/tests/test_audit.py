"""The audit trail, as its enterprise reads it."""

from datetime import timedelta

import grpc
import pytest
from numerator.accounts.v1 import audit_pb2 as pb
from numerator.accounts.v1 import audit_pb2_grpc as pb_grpc
from numerator.accounts.v1.accounts_pb2 import UnbindAccountRequest

from services.accounts.tests.world import Company, World, field_reasons_of
from services.chassis.principal import Principal
from services.chassis.testing.rpc import client, member, operator
from services.chassis.timestamps import stamp


def entries(
    world: World, company: Company, caller: Principal | None = None, **wanted: object
) -> list[pb.AuditLogEntry]:
    """What a caller, by default the owner, finds."""
    request = pb.ListAuditLogEntriesRequest(parent=company.name, **wanted)  # type: ignore[arg-type]
    stub = pb_grpc.AuditLogServiceStub(world.running.as_(caller or company.owner))
    return list(stub.ListAuditLogEntries(request).audit_log_entries)


def test_list__tells_who_did_what_newest_first(world: World) -> None:
    """A life of an account, with the reading of its token and the purpose of it."""
    company = world.register()
    account = world.bind(company, "brand")
    world.as_(company.owner).UnbindAccount(UnbindAccountRequest(name=account.name))

    found = entries(world, company, subject=account.name)

    assert [each.action for each in found] == [
        "token.revoked",
        "account.unbound",
        "token.read",
        "token.handed_over",
        "account.bound",
    ]
    (read,) = [each for each in found if each.action == "token.read"]
    assert (read.actor, read.subject) == (company.owner.subject, account.name)
    assert dict(read.detail) == {"purpose": "revocation", "field": "access_token"}
    assert read.name.startswith(f"{company.name}/auditLogEntries/")
    assert read.time.ToJsonString() == "2026-01-15T12:00:00Z"


def test_list__by_actor_action_subject_and_time(world: World) -> None:
    """Filters hold together, and an action by how it begins."""
    company = world.register()
    first = world.bind(company, "brand")
    world.clock.advance(timedelta(hours=1))
    second = world.bind(company, "dealer")
    noon = world.clock.now() - timedelta(hours=1)

    def actions(**wanted: object) -> list[str]:
        return [each.action for each in entries(world, company, **wanted)]

    assert set(actions(subject=first.name)) == {"account.bound", "token.handed_over"}
    assert actions(action_prefix="account.") == ["account.bound", "account.bound"]
    assert actions(action_prefix="account.", subject=second.name) == ["account.bound"]
    assert actions(action_prefix="_") == []
    assert actions(action_prefix="account.", end_time=stamp(noon + timedelta(minutes=1))) == ["account.bound"]
    assert actions(action_prefix="account.", start_time=stamp(noon), end_time=stamp(noon)) == []
    assert actions(actor="clients/operator") == []
    assert actions(actor=company.owner.subject) == actions()


def test_list__in_pages(world: World) -> None:
    """All entries once, whatever is written meanwhile; a token is good for its query only."""
    company = world.register()
    for number in range(3):
        world.bind(company, f"brand-{number}")
    everything = [each.name for each in entries(world, company)]
    stub = pb_grpc.AuditLogServiceStub(world.running.as_(company.owner))
    paged, token = [], ""
    while True:
        page = stub.ListAuditLogEntries(
            pb.ListAuditLogEntriesRequest(parent=company.name, page_size=2, page_token=token)
        )
        paged += [each.name for each in page.audit_log_entries]
        token = page.next_page_token
        if not token:
            break
        last = token
        world.bind(company, f"late-{len(paged)}")
    assert paged == everything
    with pytest.raises(grpc.RpcError) as refused:
        entries(world, company, actor="x", page_token=last)
    assert field_reasons_of(refused.value) == {"page_token": "PAGE_TOKEN_INVALID"}


def test_list__is_for_those_who_may(world: World) -> None:
    """Owners, admins, operators and clients with the scope; of another enterprise there is nothing."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    for caller in (
        member(company.name, ["ADMIN"]),
        client(company.name, ["accounts.read"]),
        operator(),
    ):
        assert len(entries(world, company, caller)) == 1
    for caller, code in (
        (member(company.name, ["EDITOR"]), grpc.StatusCode.PERMISSION_DENIED),
        (client(company.name, ["accounts.write"]), grpc.StatusCode.PERMISSION_DENIED),
        (other.owner, grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            entries(world, company, caller)
        assert refused.value.code() is code
