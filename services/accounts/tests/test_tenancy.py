"""Enterprises do not see each other: by the check of each call, and by row-level security alone."""

from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.options.v1 import options_pb2

from services.accounts.tests.test_sessions import log_in
from services.accounts.tests.world import PASSWORD, SERVER, World, reason_of
from services.chassis.database import PUBLIC, Tenant
from services.chassis.testing.databases import assert_tenant_tables_safe

TABLES = (
    "sessions",
    "refresh_tokens",
    "enterprises",
    "members",
    "clients",
    "data_keys",
    "accounts",
    "tokens",
    "bindings",
    "audit",
    "outbox",
)


def test_tables__keep_tenants_apart(world: World) -> None:
    """All tables are under row-level security. Two unique keys span enterprises, and why stands in the migration."""
    assert_tenant_tables_safe(world.database, unique_without_enterprise=("members_email", "accounts_held"))


def test_rows__are_seen_by_their_enterprise_only(world: World) -> None:
    """In every table: a tenant's transaction sees its own rows and no other, and nobody's sees none."""
    one, other = world.register(), world.register(email="owner@kunlun.example")
    for email in ("owner@tianshan.example", "owner@kunlun.example"):
        log_in(world, email=email)
    for company in (one, other):
        world.bind(company, f"of-{company.name[-4:]}")
        world.start(company)
        world.as_(company.owner).CreateClient(
            pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=["accounts.read"])
        )
    for table in TABLES:
        with world.database.transaction(Tenant(one.name)) as tx:
            seen = {row["enterprise"] for row in tx.execute(f"select enterprise from {table}")}
        assert seen == {one.name}, table
        with world.database.transaction(PUBLIC) as tx:
            assert not tx.execute(f"select enterprise from {table}").fetchall(), table


def test_audit__only_grows(world: World) -> None:
    """Not even a bug of ours can change what happened."""
    world.register()
    for statement in ("update audit set actor = 'x'", "delete from audit"):
        with pytest.raises(Exception, match="only grows"), world.database.transaction(PUBLIC) as tx:
            tx.execute(statement)


def calls(enterprise: str, account: str, client: str) -> list[tuple[str, Message]]:
    """One call of each method that names something of an enterprise."""
    return [
        ("GetEnterprise", pb.GetEnterpriseRequest(name=enterprise)),
        ("RequestVerification", pb.RequestVerificationRequest(name=enterprise)),
        (
            "CreateMember",
            pb.CreateMemberRequest(
                parent=enterprise,
                email="spy@x.example",
                display_name="Spy",
                role=options_pb2.OWNER,
                password=PASSWORD,
            ),
        ),
        ("ListMembers", pb.ListMembersRequest(parent=enterprise)),
        (
            "CreateClient",
            pb.CreateClientRequest(parent=enterprise, display_name="Spy", scopes=["accounts.read"]),
        ),
        ("ListClients", pb.ListClientsRequest(parent=enterprise)),
        ("DeleteClient", pb.DeleteClientRequest(name=client)),
        ("StartBinding", pb.StartBindingRequest(parent=enterprise, network="mastodon", server=SERVER)),
        ("CompleteBinding", pb.CompleteBindingRequest(parent=enterprise, state="state", code="code")),
        ("GetAccount", pb.GetAccountRequest(name=account)),
        ("ListAccounts", pb.ListAccountsRequest(parent=enterprise)),
        ("UnbindAccount", pb.UnbindAccountRequest(name=account)),
    ]


@pytest.mark.parametrize("tenant_check", [True, False])
def test_calls__answer_as_if_others_did_not_exist(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """Every method, with the check of the calls and with row-level security alone: NOT_FOUND, and nothing changes."""
    world = serve(tenant_check=tenant_check)
    victim, spy = world.register(), world.register(email="owner@kunlun.example")
    account = world.bind(victim, "brand")
    client = world.as_(victim.owner).CreateClient(
        pb.CreateClientRequest(parent=victim.name, display_name="CRM", scopes=["accounts.read"])
    )
    before = {table: world.rows(table, victim.name) for table in TABLES}
    missing = "enterprises/missing"
    for theirs, nobodys in zip(
        calls(victim.name, account.name, client.name),
        calls(missing, f"{missing}/accounts/x", f"{missing}/clients/x"),
        strict=True,
    ):
        told = []
        for method, request in (theirs, nobodys):
            with pytest.raises(grpc.RpcError) as refused:
                getattr(world.as_(spy.owner), method)(request)
            told.append((refused.value.code(), reason_of(refused.value)))
        assert told == [(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")] * 2, theirs[0]
    assert {table: world.rows(table, victim.name) for table in TABLES} == before
