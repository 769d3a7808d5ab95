"""What happens at the same moment happens as if one came after the other."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.tests.world import World, reason_of
from services.chassis.testing.rpc import operator


def at_once(calls: Iterable[Callable[[], object]]) -> Counter[str]:
    """Make all calls at once; how often each reason came back, `OK` for none."""

    def outcome(call: Callable[[], object]) -> str:
        try:
            call()
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"

    calls = list(calls)
    with ThreadPoolExecutor(len(calls)) as pool:
        return Counter(pool.map(outcome, calls))


def test_bind__by_two_enterprises_at_once_succeeds_for_one(world: World) -> None:
    """Who came second is refused, however close it was; ten times."""
    companies = [world.register(email=f"owner-{number}@x.example") for number in range(4)]
    for number in range(10):
        redirects = [
            (each, *world.network.agree(world.start(each).authorization_url, f"brand-{number}"))
            for each in companies
        ]
        outcomes = at_once(
            lambda each=each, state=state, code=code: world.complete(each, state, code)
            for each, state, code in redirects
        )
        assert outcomes == {"OK": 1, "ACCOUNT_BOUND_ELSEWHERE": 3}
    assert len(world.rows("accounts")) == len(world.rows("tokens")) == 10


def test_bind__twice_at_once_makes_one_account(world: World) -> None:
    """Two windows of the same enterprise: both succeed, and it is the same account."""
    company = world.register()
    redirects = [world.network.agree(world.start(company).authorization_url, "brand") for _ in range(4)]
    outcomes = at_once(
        lambda state=state, code=code: world.complete(company, state, code) for state, code in redirects
    )
    assert outcomes == {"OK": 4}
    assert len(world.rows("accounts")) == len(world.rows("data_keys")) == 1
    assert len({told.account for told in world.told(events.AccountBound)}) == 1


def test_complete__uses_a_state_once_however_many_try(world: World) -> None:
    """One of eight."""
    company = world.register()
    state, code = world.network.agree(world.start(company).authorization_url, "brand")
    outcomes = at_once(lambda: world.complete(company, state, code) for _ in range(8))
    assert outcomes == {"OK": 1, "BINDING_STATE_USED": 7}


def test_verify__is_told_once_however_many_decide(world: World) -> None:
    """Eight operators press the button: one event."""
    company = world.register()
    world.as_(company.owner).RequestVerification(pb.RequestVerificationRequest(name=company.name))
    staff = world.as_(operator())
    outcomes = at_once(
        lambda: staff.VerifyEnterprise(pb.VerifyEnterpriseRequest(name=company.name)) for _ in range(8)
    )
    assert outcomes == {"OK": 1, "VERIFICATION_STATE": 7}
    assert len(world.told(events.EnterpriseVerified)) == 1
