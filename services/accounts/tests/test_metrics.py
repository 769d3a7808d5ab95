"""What accounts tells of itself moves with what is done."""

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import sessions_pb2
from numerator.accounts.v1.sessions_pb2_grpc import SessionServiceStub

from services.accounts import metrics
from services.accounts.tests.world import OPERATOR_SECRET, PASSWORD, World
from services.chassis.database import PLATFORM
from services.chassis.testing.measures import counted, measured
from services.chassis.testing.rpc import gateway, operator


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

    def read() -> list[float]:
        with world.database.transaction(PLATFORM) as tx:
            metrics.read(tx)
        return [
            measured("numerator_accounts_enterprises", state="NOT_REQUESTED"),
            measured("numerator_accounts_enterprises", state="PENDING"),
            measured("numerator_accounts_accounts", network="mastodon", state="ACTIVE"),
            measured("numerator_accounts_accounts", network="mastodon", state="REVOKED"),
        ]

    before = read()
    world.as_(company.owner).RequestVerification(pb.RequestVerificationRequest(name=company.name))
    world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))

    assert before == [2, 0, 2, 0]
    assert read() == [1, 1, 1, 1]
