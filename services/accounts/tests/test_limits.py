"""A stage's limit of bound accounts: exact, each enterprise's own, and no obstacle to who stays within it."""

from collections.abc import Callable

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.tests.test_concurrency import at_once
from services.accounts.tests.world import OTHER_SERVER, Company, World
from services.accounts.usecases.accounts import require_reauthorization
from services.chassis.database import PLATFORM
from services.chassis.errors import Kind, ServiceError
from services.chassis.rpc.status import error_from_rpc

ACTIVE = pb.Account.ACTIVE


def refusal(call: Callable[[], object]) -> ServiceError:
    """What a call is refused with."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return error_from_rpc(refused.value)


def redirects(world: World, company: Company, count: int) -> list[tuple[Company, str, str]]:
    """So many bindings of an enterprise to which holders have agreed, each of another account."""
    name = company.name.rpartition("/")[2]
    return [
        (company, *world.network.agree(world.start(company).authorization_url, f"{name}-{number}"))
        for number in range(count)
    ]


def complete_at_once(world: World, agreed: list[tuple[Company, str, str]]) -> dict[str, int]:
    """Complete all of them at the same moment; how often each reason came back."""
    return at_once(
        lambda company=company, state=state, code=code: world.complete(company, state, code)
        for company, state, code in agreed
    )


def test_bind__beyond_the_stage_is_refused(world: World) -> None:
    """The caller is told what is used and what to do; nothing is kept or told, and the audit trail says so."""
    company = world.register().limited(2)
    for handle in ("brand", "dealer"):
        world.bind(company, handle)
    error = refusal(lambda: world.bind(company, "tours"))
    assert (error.kind, error.reason, error.retry_after) == (
        Kind.FAILED_PRECONDITION,
        "STAGE_LIMIT_REACHED",
        None,
    )
    assert error.metadata == {"limit": "bound_accounts", "allowed": "2", "used": "2", "wanted": "1"}
    assert "unbind an account, or wait for the next stage: GET /v1/edition" in error.message
    assert (
        len(world.rows("accounts")) == len(world.rows("tokens")) == len(world.told(events.AccountBound)) == 2
    )
    assert [row["detail"] for row in world.audited("binding.refused")] == [{"reason": "STAGE_LIMIT_REACHED"}]


def test_start__sends_nobody_to_the_network_in_vain(world: World) -> None:
    """A full stage begins a binding only on a server where an account might be authorised anew."""
    company = world.register().limited(1)
    world.bind(company, "brand")
    error = refusal(lambda: world.start(company, server=OTHER_SERVER))
    assert error.reason == "STAGE_LIMIT_REACHED"
    assert error.metadata["used"] == "1"
    assert len(world.rows("bindings")) == 1
    assert world.bind(company, "brand").state == ACTIVE


def test_bind__again_needs_no_room(world: World) -> None:
    """An account that the enterprise holds is authorised anew in a full stage, also when its token was refused."""
    company = world.register().limited(1)
    account = world.bind(company, "brand")
    assert world.bind(company, "brand").name == account.name
    with world.database.transaction(PLATFORM) as tx:
        require_reauthorization(tx, account.name, actor="publishing", told=world.clock.now())
    assert refusal(lambda: world.bind(company, "dealer")).reason == "STAGE_LIMIT_REACHED"
    assert world.bind(company, "brand").state == ACTIVE


def test_bind__has_the_room_of_what_was_unbound(world: World) -> None:
    """An unbound account makes room for another one, and needs room when it is bound again."""
    company = world.register().limited(1)
    owner = world.as_(company.owner)
    first = world.bind(company, "brand")
    owner.UnbindAccount(pb.UnbindAccountRequest(name=first.name))
    second = world.bind(company, "dealer")
    assert refusal(lambda: world.bind(company, "brand")).reason == "STAGE_LIMIT_REACHED"
    assert owner.GetAccount(pb.GetAccountRequest(name=first.name)).state == pb.Account.REVOKED
    owner.UnbindAccount(pb.UnbindAccountRequest(name=second.name))
    assert world.bind(company, "brand").name == first.name


def test_bind__takes_nothing_away_when_a_stage_allows_less(world: World) -> None:
    """What is bound stays and can be authorised anew; a stage that allows more, or all, takes further ones."""
    company = world.register()
    for handle in ("brand", "dealer", "tours"):
        world.bind(company, handle)
    error = refusal(lambda: world.bind(company.limited(2), "jobs"))
    assert (error.metadata["used"], error.metadata["allowed"]) == ("3", "2")
    assert world.bind(company.limited(2), "tours").state == ACTIVE
    for allowed in (4, 0):
        assert world.bind(company.limited(allowed), f"with-{allowed}").state == ACTIVE


def test_complete__is_repeated_in_a_full_stage(world: World) -> None:
    """Who took the last place and lost the answer gets it again."""
    company = world.register().limited(1)
    state, code = world.network.agree(world.start(company).authorization_url, "brand")
    first = world.complete(company, state, code, request_id="r-1")
    assert world.complete(company, state, code, request_id="r-1") == first


def test_bind__is_exact_however_many_come_at_once(serve: Callable[..., World]) -> None:
    """Two hundred bindings at the same moment, twenty places: twenty accounts, twenty events."""
    world = serve(calls=200)
    company = world.register().limited(20)
    assert complete_at_once(world, redirects(world, company, 200)) == {"OK": 20, "STAGE_LIMIT_REACHED": 180}
    assert len(world.rows("accounts")) == len(world.rows("tokens")) == 20
    assert len(world.told(events.AccountBound)) == 20


def test_bind__counts_each_enterprise_for_itself(world: World) -> None:
    """Three at once, each with a limit of its own or none, meet exactly their own."""
    small = world.register(email="owner@small.example").limited(3)
    large = world.register(email="owner@large.example").limited(7)
    free = world.register(email="owner@free.example")
    companies = (small, large, free)
    agreed = [each for company in companies for each in redirects(world, company, 12)]
    assert complete_at_once(world, agreed) == {"OK": 3 + 7 + 12, "STAGE_LIMIT_REACHED": 9 + 5}
    assert [len(world.rows("accounts", company.name)) for company in companies] == [3, 7, 12]


def test_bind__never_exceeds_while_others_are_unbound(world: World) -> None:
    """Each account that is let go makes room for one, and for no second one."""
    company = world.register().limited(5)
    owner = world.as_(company.owner)
    held = [world.bind(company, f"old-{number}") for number in range(5)]
    agreed = redirects(world, company, 20)

    def unbind(account: pb.Account) -> None:
        owner.UnbindAccount(pb.UnbindAccountRequest(name=account.name))

    at_once(
        [lambda account=account: unbind(account) for account in held[:3]]
        + [lambda state=state, code=code: world.complete(company, state, code) for _, state, code in agreed]
    )
    bound = [row for row in world.rows("accounts") if row["state"] == "ACTIVE"]
    assert 2 <= len(bound) <= 5
    complete_at_once(world, redirects(world, company, 20))
    assert len([row for row in world.rows("accounts") if row["state"] == "ACTIVE"]) == 5
