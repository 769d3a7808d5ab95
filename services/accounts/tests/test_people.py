"""Members, clients and who may come in, by gRPC."""

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import sessions_pb2
from numerator.accounts.v1.sessions_pb2_grpc import SessionServiceStub
from numerator.options.v1 import options_pb2

from services.accounts.model import CLIENT_SCOPES, NETWORK_SCOPES
from services.accounts.tests.world import (
    NETWORK_SECRET,
    OPERATOR_SECRET,
    PASSWORD,
    REVIEWER_SECRET,
    World,
    field_reasons_of,
    reason_of,
)
from services.chassis.testing.rpc import gateway, member, operator
from services.chassis.testing.servers import ROOT


def log_in(world: World, email: str, password: str = PASSWORD) -> pb.Identity:
    stub = SessionServiceStub(world.running.as_(gateway()))
    return stub.OpenSession(sessions_pb2.OpenSessionRequest(email=email, password=password)).identity


def authenticate(world: World, client_id: str, secret: str) -> pb.Identity:
    return world.as_(gateway()).AuthenticateClient(
        pb.AuthenticateClientRequest(client_id=client_id, client_secret=secret)
    )


def test_log_in__tells_who_it_is(world: World) -> None:
    """The member, the enterprise and the role, in any spelling of the address."""
    company = world.register()
    identity = log_in(world, " OWNER@tianshan.example")
    assert (identity.kind, identity.enterprise) == (options_pb2.MEMBER, company.name)
    assert identity.subject.startswith(f"{company.name}/members/")
    assert list(identity.roles) == [options_pb2.OWNER]


def test_log_in__answers_the_same_for_whatever_is_wrong(world: World) -> None:
    """Unknown address or wrong password: the same code, reason and text."""
    world.register()
    told = set()
    for email, password in [
        ("owner@tianshan.example", "wrong horse battery"),
        ("nobody@tianshan.example", PASSWORD),
    ]:
        with pytest.raises(grpc.RpcError) as refused:
            log_in(world, email, password)
        told.add((refused.value.code(), refused.value.details(), reason_of(refused.value)))
    assert len(told) == 1
    assert told.pop()[::2] == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


def test_log_in__is_for_the_gateway_only(world: World) -> None:
    """Not even an operator can try passwords here."""
    company = world.register()
    for caller in (company.owner, operator()):
        with pytest.raises(grpc.RpcError) as refused:
            SessionServiceStub(world.running.as_(caller)).OpenSession(
                sessions_pb2.OpenSessionRequest(email="a@b", password="c")
            )
        assert reason_of(refused.value) == "CALLER_NOT_ALLOWED"


def test_create_member__gives_a_colleague_a_role(world: World) -> None:
    """The colleague logs in with it and is listed, without anything of the password."""
    company = world.register()
    created = world.as_(company.owner).CreateMember(
        pb.CreateMemberRequest(
            parent=company.name,
            email="Li@tianshan.example",
            display_name="Li",
            role=options_pb2.EDITOR,
            password="another long password",
        )
    )
    identity = log_in(world, "li@tianshan.example", "another long password")
    assert identity.subject == created.name
    assert list(identity.roles) == [options_pb2.EDITOR]
    listed = world.as_(company.owner).ListMembers(pb.ListMembersRequest(parent=company.name))
    assert {each.email for each in listed.members} == {"owner@tianshan.example", "li@tianshan.example"}


@pytest.mark.parametrize(
    ("caller_role", "role", "email", "reason"),
    [
        ("ADMIN", "OWNER", "new@x.example", "ROLE_TOO_WIDE"),
        ("EDITOR", "ANALYST", "new@x.example", "ROLE_MISSING"),
        ("OWNER", "ADMIN", "owner@tianshan.example", "EMAIL_TAKEN"),
    ],
)
def test_create_member__is_refused(
    world: World, caller_role: str, role: str, email: str, reason: str
) -> None:
    """Nobody raises anybody above himself, and one address is one person."""
    company = world.register()
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(member(company.name, [caller_role])).CreateMember(
            pb.CreateMemberRequest(
                parent=company.name,
                email=email,
                display_name="New",
                role=options_pb2.Role.Value(role),
                password=PASSWORD,
            )
        )
    assert reason_of(refused.value) == reason
    assert len(world.rows("members")) == 1


def test_create_client__shows_the_secret_once(world: World) -> None:
    """It works, and is neither listed nor repeated nor kept."""
    company = world.register()
    owner = world.as_(company.owner)
    request = pb.CreateClientRequest(
        parent=company.name,
        display_name="CRM",
        scopes=["accounts.read", "publications.write"],
        request_id="r-1",
    )
    created = owner.CreateClient(request)
    client_id = created.name.rpartition("/")[2]
    identity = authenticate(world, client_id, created.secret)
    assert (identity.kind, identity.subject) == (options_pb2.CLIENT, created.name)
    assert (identity.enterprise, list(identity.scopes)) == (company.name, list(created.scopes))

    repeated = owner.CreateClient(request)
    assert (repeated.name, repeated.secret) == (created.name, "")
    listed = owner.ListClients(pb.ListClientsRequest(parent=company.name)).clients
    assert [(each.name, each.secret) for each in listed] == [(created.name, "")]
    for table in ("clients", "idempotency", "audit", "outbox"):
        assert created.secret not in str(world.rows(table))


def test_create_client__cannot_give_what_only_the_network_has(world: World) -> None:
    """An enterprise's app never gets at people's profiles."""
    company = world.register()
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(company.owner).CreateClient(
            pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=["profiles.write"])
        )
    assert field_reasons_of(refused.value) == {"scopes": "SCOPE_UNKNOWN"}


def test_delete_client__ends_its_access(world: World) -> None:
    """Its secret is worth nothing then, and a second deletion finds nothing."""
    company = world.register()
    owner = world.as_(company.owner)
    created = owner.CreateClient(
        pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=["accounts.read"])
    )
    owner.DeleteClient(pb.DeleteClientRequest(name=created.name))
    with pytest.raises(grpc.RpcError) as refused:
        authenticate(world, created.name.rpartition("/")[2], created.secret)
    assert reason_of(refused.value) == "CREDENTIALS_INVALID"
    with pytest.raises(grpc.RpcError) as refused:
        owner.DeleteClient(pb.DeleteClientRequest(name=created.name))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_platform_clients__come_from_the_settings(world: World) -> None:
    """Staff are operators of no enterprise; the network's systems may do what concerns people, and nothing else."""
    for name, secret in (("operator", OPERATOR_SECRET), ("reviewer", REVIEWER_SECRET)):
        staff = authenticate(world, name, secret)
        assert (staff.kind, staff.enterprise, staff.subject) == (options_pb2.OPERATOR, "", f"clients/{name}")
    network = authenticate(world, "network", NETWORK_SECRET)
    assert (network.kind, network.enterprise) == (options_pb2.CLIENT, "enterprises/network")
    assert frozenset(network.scopes) == NETWORK_SCOPES
    for client_id, secret in [
        ("operator", NETWORK_SECRET),
        ("operator", REVIEWER_SECRET),
        ("nobody", OPERATOR_SECRET),
    ]:
        with pytest.raises(grpc.RpcError) as refused:
            authenticate(world, client_id, secret)
        assert reason_of(refused.value) == "CREDENTIALS_INVALID"


def test_scopes__are_all_that_the_contracts_name() -> None:
    """A scope that a method asks for can be given to somebody, and no other can."""
    contracts = FileDescriptorSet.FromString((ROOT / ".local/stubs/numerator/descriptors.binpb").read_bytes())
    asked_for = {
        method.options.Extensions[options_pb2.access].scope
        for file in contracts.file
        for service in file.service
        for method in service.method
    } - {""}
    assert asked_for == CLIENT_SCOPES | NETWORK_SCOPES
