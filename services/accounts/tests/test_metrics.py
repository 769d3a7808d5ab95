"""What accounts tells of itself moves with what is done."""

import os
from collections.abc import Callable
from datetime import timedelta

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import binding_pb2, sessions_pb2
from numerator.accounts.v1.binding_pb2_grpc import BindingServiceStub
from numerator.accounts.v1.sessions_pb2_grpc import SessionServiceStub

from services.accounts import metrics
from services.accounts.store import rotation as rotation_rows
from services.accounts.tests.vault_plants import plant
from services.accounts.tests.world import OPERATOR_SECRET, PASSWORD, SERVER, World
from services.accounts.usecases.rotation import rotate_data_keys, rotate_master_key
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import MasterKey, MasterKeys
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Database
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.measures import counted, measured
from services.chassis.testing.rpc import gateway, operator


def read(database: Database) -> None:
    """What the worker does every ten seconds."""
    with database.transaction(PLATFORM) as tx:
        metrics.read(tx)


def test_verifications__count_when_they_are_committed(world: World) -> None:
    """A step counts by where it leads, once; one that is refused, or repeated, does not."""
    company = world.register()
    verify = pb.VerifyEnterpriseRequest(name=company.name, request_id="r")

    with (
        counted(1, "numerator_accounts_verifications_total", state="PENDING"),
        counted(1, "numerator_accounts_verifications_total", state="VERIFIED"),
    ):
        with pytest.raises(grpc.RpcError):
            world.as_(operator()).VerifyEnterprise(pb.VerifyEnterpriseRequest(name=company.name))
        world.as_(company.owner).RequestVerification(pb.RequestVerificationRequest(name=company.name))
        world.as_(operator()).VerifyEnterprise(verify)
        world.as_(operator()).VerifyEnterprise(verify)


def test_logins__count_by_who_and_how(world: World) -> None:
    """Members and clients, those who come in and those who do not."""
    world.register()
    log_in = world.as_(gateway())

    def member(password: str) -> None:
        SessionServiceStub(world.running.as_(gateway())).OpenSession(
            sessions_pb2.OpenSessionRequest(email="owner@tianshan.example", password=password)
        )

    with (
        counted(1, "numerator_accounts_logins_total", kind="MEMBER", outcome="OK"),
        counted(1, "numerator_accounts_logins_total", kind="MEMBER", outcome="CREDENTIALS_INVALID"),
        counted(1, "numerator_accounts_logins_total", kind="CLIENT", outcome="OK"),
    ):
        member(PASSWORD)
        with pytest.raises(grpc.RpcError):
            member("wrong")
        log_in.AuthenticateClient(
            pb.AuthenticateClientRequest(client_id="operator", client_secret=OPERATOR_SECRET)
        )


def test_bindings__count_by_network_and_outcome(world: World) -> None:
    """What was completed, and what was refused, with the network where it is known."""
    company = world.register()
    started = world.start(company)

    with (
        counted(1, "numerator_accounts_bindings_total", network="mastodon", outcome="OK"),
        counted(1, "numerator_accounts_bindings_total", network="mastodon", outcome="BINDING_STATE_USED"),
        counted(1, "numerator_accounts_bindings_total", network="", outcome="BINDING_STATE_INVALID"),
    ):
        state, code = world.network.agree(started.authorization_url, "brand")
        world.complete(company, state, code)
        for wrong in (state, "nonsense"):
            with pytest.raises(grpc.RpcError):
                world.complete(company, wrong, "x")


def test_gauges__are_what_the_database_has(world: World) -> None:
    """Enterprises and accounts by state; a state that nobody is in any more is 0."""
    company = world.register()
    world.register(email="owner@kunlun.example")
    account = world.bind(company, "brand")
    world.bind(company, "dealer")

    def gauges() -> list[float]:
        read(world.database)
        return [
            measured("numerator_accounts_enterprises", state="NOT_REQUESTED"),
            measured("numerator_accounts_enterprises", state="PENDING"),
            measured("numerator_accounts_accounts", network="mastodon", state="ACTIVE"),
            measured("numerator_accounts_accounts", network="mastodon", state="REVOKED"),
        ]

    before = gauges()
    world.as_(company.owner).RequestVerification(pb.RequestVerificationRequest(name=company.name))
    world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))

    assert before == [2, 0, 2, 0]
    assert gauges() == [1, 1, 1, 1]


def test_tokens__count_when_they_are_read(world: World) -> None:
    """With the purpose: to unbind an account opens its token once, to have it revoked."""
    account = world.bind(company := world.register(), "brand")

    with counted(1, "numerator_accounts_tokens_read_total", purpose="revocation"):
        world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))


def test_gauges__sessions_and_invited_accounts(world: World) -> None:
    """Sessions that have not ended, and how far those are who were invited."""
    company = world.register()
    row = binding_pb2.CreateBindingBatchRequest.Row(network="mastodon", server=SERVER)
    BindingServiceStub(world.running.as_(company.owner)).CreateBindingBatch(
        binding_pb2.CreateBindingBatchRequest(parent=company.name, rows=[row, row])
    )
    SessionServiceStub(world.running.as_(gateway())).OpenSession(
        sessions_pb2.OpenSessionRequest(email="owner@tianshan.example", password=PASSWORD)
    )

    read(world.database)
    assert measured("numerator_accounts_sessions") == 1
    assert measured("numerator_accounts_binding_rows", state="INVITED") == 2
    assert measured("numerator_accounts_binding_rows", state="BOUND") == 0
    world.clock.advance(timedelta(days=31))
    read(world.database)
    assert measured("numerator_accounts_sessions") == 0


def test_gauges__tokens_that_end_soon(world: World) -> None:
    """Within a day, or later within a week; what ends later is not counted."""
    company = world.register()
    ends = [timedelta(hours=5), timedelta(days=3), timedelta(days=6), timedelta(days=8)]
    with world.database.transaction(PLATFORM) as tx:
        for number, end in enumerate(ends):
            name = world.bind(company, f"outlet-{number}").name
            tx.execute("update accounts set token_expire_time = %s where name = %s", (tx.now + end, name))

    read(world.database)
    assert measured("numerator_accounts_tokens_expiring", within="DAY") == 1
    assert measured("numerator_accounts_tokens_expiring", within="WEEK") == 2


def test_gauges__rotations(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> None:
    """What a rotation of data keys has still to do, and how much is wrapped by each master key."""
    database, old, new = (
        make_database("accounts", clock=clock),
        MasterKey(os.urandom(32)),
        MasterKey(os.urandom(32)),
    )
    vault = Vault(MasterKeys(old))
    for name in ("enterprises/bank", "enterprises/shop"):
        plant(database, vault, name, 1)

    def gauges() -> list[float]:
        read(database)
        return [
            measured("numerator_accounts_rotation_left"),
            measured("numerator_accounts_keys_wrapped", master_key=old.id),
            measured("numerator_accounts_keys_wrapped", master_key=new.id),
        ]

    assert gauges() == [0, 2, 0]
    with database.transaction(PLATFORM) as tx:
        rotation_rows.begin_rotation(tx, "")
    clock.advance(timedelta(seconds=1))
    assert gauges() == [2, 2, 0]
    rotate_data_keys(database, vault, "enterprises/bank")
    assert gauges() == [1, 2, 0]
    rotate_data_keys(database, vault)
    assert gauges() == [0, 2, 0]
    assert rotate_master_key(database, Vault(MasterKeys(new, old))) == 2
    assert gauges() == [0, 0, 2]
