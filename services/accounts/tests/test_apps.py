"""Partner apps: their rights, their secrets, and what ends their access tokens, by gRPC."""

from datetime import timedelta

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.duration_pb2 import Duration
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import apps_pb2, grants_pb2, groups_pb2
from numerator.accounts.v1.apps_pb2_grpc import AppServiceStub
from numerator.accounts.v1.grants_pb2_grpc import GrantServiceStub
from numerator.accounts.v1.groups_pb2_grpc import GroupServiceStub
from numerator.options.v1 import options_pb2

from services.accounts.model import CLIENT_SCOPES
from services.accounts.store.clients import purge_old_secrets
from services.accounts.tests.world import Company, World, field_reasons_of, reason_of
from services.chassis.database import PLATFORM
from services.chassis.principal import Principal
from services.chassis.testing.rpc import gateway, member
from services.chassis.testing.servers import ROOT

HOUR = timedelta(hours=1)


def apps(world: World, principal: Principal) -> AppServiceStub:
    return AppServiceStub(world.running.as_(principal))


def group(world: World, company: Company, name: str = "Urumqi") -> str:
    stub = GroupServiceStub(world.running.as_(company.owner))
    request = groups_pb2.CreateAccountGroupRequest(parent=company.name, display_name=name)
    return stub.CreateAccountGroup(request).name


def create(
    world: World, company: Company, scopes: tuple[str, ...] = ("accounts.read",), **more: list[str]
) -> pb.Client:
    """A client with these scopes in the whole enterprise, and `more` ones in groups; dots as underscores."""
    grants = [pb.Client.Grant(scope=scope.replace("_", "."), groups=groups) for scope, groups in more.items()]
    request = pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=scopes, grants=grants)
    return world.as_(company.owner).CreateClient(request)


def authenticate(world: World, client: pb.Client, secret: str) -> pb.Identity:
    request = pb.AuthenticateClientRequest(client_id=client.name.rpartition("/")[2], client_secret=secret)
    return world.as_(gateway()).AuthenticateClient(request)


def works(world: World, client: pb.Client, secret: str) -> bool:
    try:
        authenticate(world, client, secret)
    except grpc.RpcError as error:
        return reason_of(error) != "CREDENTIALS_INVALID"
    return True


def revoked(world: World) -> list[str]:
    """Whose tokens are refused."""
    request = apps_pb2.ListRevocationsRequest()
    return [each.subject for each in apps(world, gateway()).ListRevocations(request).revocations]


def rotate(world: World, company: Company, client: pb.Client, grace: timedelta, **more: str) -> pb.Client:
    duration = Duration()
    duration.FromTimedelta(grace)
    request = apps_pb2.RotateClientSecretRequest(name=client.name, grace=duration, **more)
    return apps(world, company.owner).RotateClientSecret(request)


def get(world: World, company: Company, client: pb.Client) -> pb.Client:
    return apps(world, company.owner).GetClient(apps_pb2.GetClientRequest(name=client.name))


def test_grants__reach_the_identity(world: World) -> None:
    """A client has some scopes in the whole enterprise and others in groups; both are told, by ids, to the gateway."""
    company = world.register()
    one, other = group(world, company), group(world, company, "Kashgar")
    client = create(world, company, publications_write=[one, other], accounts_write=[one])
    identity = authenticate(world, client, client.secret)
    ids = sorted(name.rpartition("/")[2] for name in (one, other))
    assert list(identity.scopes) == ["accounts.read"]
    assert {each.right: list(each.groups) for each in identity.grants} == {
        "accounts.write": [one.rpartition("/")[2]],
        "publications.write": ids,
    }
    assert identity.HasField("authenticate_time")
    read = get(world, company, client)
    assert {each.scope: list(each.groups) for each in read.grants} == {
        "accounts.write": [one],
        "publications.write": sorted((one, other)),
    }
    assert read.secret == ""


def test_grants__explain_themselves(world: World) -> None:
    """Why a client may do something with an account in a group is told as for members."""
    company = world.register()
    account = world.bind(company, "tianshan")
    place = group(world, company)
    client = create(world, company, publications_write=[place])
    stub = GrantServiceStub(world.running.as_(company.owner))
    request = grants_pb2.ExplainAccessRequest(
        name=account.name, subject=client.name, right="publications.write"
    )
    assert not stub.ExplainAccess(request).allowed
    GroupServiceStub(world.running.as_(company.owner)).PlaceAccounts(
        groups_pb2.PlaceAccountsRequest(
            parent=company.name,
            rows=[groups_pb2.PlaceAccountsRequest.Row(account=account.name, group=place)],
        )
    )
    told = stub.ExplainAccess(request)
    assert (told.allowed, told.held, told.group) == (True, "publications.write", place)


def test_grants__go_with_their_group(world: World) -> None:
    """A deleted group leaves no right behind."""
    company = world.register()
    place = group(world, company)
    client = create(world, company, publications_write=[place])
    GroupServiceStub(world.running.as_(company.owner)).DeleteAccountGroup(
        groups_pb2.DeleteAccountGroupRequest(name=place)
    )
    assert not get(world, company, client).grants


@pytest.mark.parametrize(
    ("scopes", "scope", "fields"),
    [
        (["profiles.write"], "", {"scopes": "SCOPE_UNKNOWN"}),
        ([], "", {"scopes": "RIGHTS_MISSING"}),
        ([], "audiences.read", {"grants": "SCOPE_NOT_PER_GROUP"}),
        ([], "profiles.write", {"grants": "SCOPE_NOT_PER_GROUP"}),
    ],
)
def test_rights__are_checked(world: World, scopes: list[str], scope: str, fields: dict[str, str]) -> None:
    """What cannot be given is refused, at creation and later."""
    company = world.register()
    grants = [pb.Client.Grant(scope=scope, groups=[group(world, company)])] if scope else []
    client = create(world, company)
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(company.owner).CreateClient(
            pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=scopes, grants=grants)
        )
    assert field_reasons_of(refused.value) == fields
    with pytest.raises(grpc.RpcError) as refused:
        apps(world, company.owner).UpdateClient(
            apps_pb2.UpdateClientRequest(
                name=client.name,
                rights=apps_pb2.UpdateClientRequest.Rights(scopes=scopes, grants=grants),
            )
        )
    assert field_reasons_of(refused.value) == fields
    assert get(world, company, client).scopes == ["accounts.read"]


def test_grants__name_groups_of_the_enterprise(world: World) -> None:
    """Neither another enterprise's group nor one that there is not."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    for name in (group(world, other), f"{company.name}/accountGroups/none"):
        with pytest.raises(grpc.RpcError) as refused:
            create(world, company, publications_write=[name])
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_clients__are_given_nothing_that_their_maker_has_not(world: World) -> None:
    """Only who is OWNER or ADMIN of the whole enterprise makes clients, and these may do all that a client can be given."""
    company = world.register()
    place = group(world, company).rpartition("/")[2]
    partly = Principal(
        "MEMBER", f"{company.name}/members/m", company.name, grants={"ADMIN": frozenset({place})}
    )
    for caller in (partly, member(company.name, ["EDITOR"])):
        with pytest.raises(grpc.RpcError) as refused:
            world.as_(caller).CreateClient(
                pb.CreateClientRequest(parent=company.name, display_name="x", scopes=["accounts.read"])
            )
        assert reason_of(refused.value) == "ROLE_MISSING"
    contracts = FileDescriptorSet.FromString((ROOT / ".local/stubs/numerator/descriptors.binpb").read_bytes())
    for file in contracts.file:
        for service in file.service:
            for method in service.method:
                access = method.options.Extensions[options_pb2.access]
                if access.scope in CLIENT_SCOPES and access.roles:
                    assert {options_pb2.OWNER, options_pb2.ADMIN} <= set(access.roles), method.name


def test_update__refuses_tokens_with_other_rights(world: World) -> None:
    """A new name ends nothing; new rights end the access tokens, and what the client gets next has them."""
    company = world.register()
    client = create(world, company)
    stub = apps(world, company.owner)
    named = stub.UpdateClient(apps_pb2.UpdateClientRequest(name=client.name, display_name="Till"))
    assert (named.display_name, list(named.scopes), revoked(world)) == ("Till", ["accounts.read"], [])
    assert named.etag != client.etag
    place = group(world, company)
    rights = apps_pb2.UpdateClientRequest.Rights(
        grants=[pb.Client.Grant(scope="publications.write", groups=[place])]
    )
    with pytest.raises(grpc.RpcError) as refused:
        stub.UpdateClient(apps_pb2.UpdateClientRequest(name=client.name, rights=rights, etag=client.etag))
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    stub.UpdateClient(apps_pb2.UpdateClientRequest(name=client.name, rights=rights, etag=named.etag))
    assert revoked(world) == [client.name]
    identity = authenticate(world, client, client.secret)
    assert (list(identity.scopes), [each.right for each in identity.grants]) == ([], ["publications.write"])
    assert len(world.audited("client.updated")) == 2


def test_rotation__lets_the_old_secret_work_on_for_the_grace(world: World) -> None:
    """Both work, and their use is told; after the grace one does; nothing is shown twice or kept as it is."""
    company = world.register()
    client = create(world, company)
    new = rotate(world, company, client, HOUR, request_id="r-1")
    assert works(world, client, client.secret)
    assert works(world, client, new.secret)
    assert revoked(world) == []
    seen = get(world, company, client)
    assert seen.old_secret_end_time.ToSeconds() == int((world.clock.now() + HOUR).timestamp())
    for time in (seen.last_use_time, seen.old_secret_use_time):
        assert time.ToSeconds() == int(world.clock.now().timestamp()) // 3600 * 3600
    assert rotate(world, company, client, HOUR, request_id="r-1").secret == ""
    for table in ("clients", "idempotency", "audit"):
        assert new.secret not in str(world.rows(table))
    world.clock.advance(HOUR)
    assert not works(world, client, client.secret)
    assert works(world, client, new.secret)
    assert not get(world, company, client).HasField("old_secret_end_time")
    with world.database.transaction(PLATFORM) as tx:
        purge_old_secrets(tx)
    assert world.rows("clients")[0]["old_secret_hash"] is None


def test_rotation__without_a_grace_ends_everything_at_once(world: World) -> None:
    """For a secret that has leaked: neither it nor a token that it brought works on."""
    company = world.register()
    client = create(world, company)
    new = rotate(world, company, client, timedelta(0))
    assert not works(world, client, client.secret)
    assert works(world, client, new.secret)
    assert revoked(world) == [client.name]


def test_rotation__keeps_two_secrets_at_most(world: World) -> None:
    """A rotation during a grace ends the oldest secret, and tokens that may have come from it."""
    company = world.register()
    client = create(world, company)
    second = rotate(world, company, client, HOUR)
    third = rotate(world, company, client, HOUR)
    secrets = (client.secret, second.secret, third.secret)
    assert [works(world, client, each) for each in secrets] == [False, True, True]
    assert revoked(world) == [client.name]


@pytest.mark.parametrize("grace", [timedelta(days=7, seconds=1), timedelta(seconds=-1)])
def test_rotation__refuses_a_grace_that_is_too_long(world: World, grace: timedelta) -> None:
    """A week is enough to hand over."""
    company = world.register()
    client = create(world, company)
    with pytest.raises(grpc.RpcError) as refused:
        rotate(world, company, client, grace)
    assert field_reasons_of(refused.value) == {"grace": "GRACE_TOO_LONG"}
    assert works(world, client, client.secret)


def test_end_grace__takes_effect_at_once(world: World) -> None:
    """The old secret and all tokens end, the new secret works on; to end it again changes nothing."""
    company = world.register()
    client = create(world, company)
    new = rotate(world, company, client, HOUR)
    stub = apps(world, company.owner)
    ended = stub.EndSecretGrace(apps_pb2.EndSecretGraceRequest(name=client.name, etag=new.etag))
    assert not ended.HasField("old_secret_end_time")
    assert not works(world, client, client.secret)
    assert works(world, client, new.secret)
    assert revoked(world) == [client.name]
    again = stub.EndSecretGrace(apps_pb2.EndSecretGraceRequest(name=client.name))
    assert again.etag == ended.etag


def test_use__is_told_to_the_hour(world: World) -> None:
    """A wrong secret is no use."""
    company = world.register()
    client = create(world, company)
    assert not works(world, client, "wrong")
    assert not get(world, company, client).HasField("last_use_time")
    assert works(world, client, client.secret)
    first = get(world, company, client).last_use_time
    world.clock.advance(HOUR)
    assert works(world, client, client.secret)
    assert get(world, company, client).last_use_time.ToSeconds() - first.ToSeconds() == 3600


def test_delete__refuses_the_tokens(world: World) -> None:
    """A client that is gone has no token that works on, and no grant is left of it."""
    company = world.register()
    client = create(world, company, publications_write=[group(world, company)])
    world.as_(company.owner).DeleteClient(pb.DeleteClientRequest(name=client.name))
    assert revoked(world) == [client.name]
    assert world.rows("client_grants") == []
