"""Binding and unbinding, by gRPC, on a network that is made up."""

from collections.abc import Callable
from datetime import timedelta

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.networks import network_refused, network_unavailable
from services.accounts.tests.world import SERVER, World, field_reasons_of, reason_of
from services.chassis.sealing import SealBrokenError, open_sealed
from services.chassis.testing.rpc import client, member

ACTIVE, REVOKED = pb.Account.ACTIVE, pb.Account.REVOKED


def test_bind__keeps_the_account_and_hands_its_token_to_publishing(world: World) -> None:
    """The account is as the network says, and only publishing's key opens the token, only as this account's."""
    company = world.register()
    account = world.bind(company, "brand", labels=["brand", "hq", "brand"])
    assert account.name.startswith(f"{company.name}/accounts/")
    assert (account.network, account.server, account.handle) == ("mastodon", SERVER, "brand")
    assert (account.software, account.software_version) == ("mastodon", "4.5.0")
    assert (list(account.labels), account.state) == (["brand", "hq"], ACTIVE)

    (told,) = world.told(events.AccountBound)
    assert (told.account, told.handle, told.network_account_id) == (account.name, "brand", "id-of-brand")
    token = open_sealed(world.publishing_key, told.sealed_token, account.name)
    assert token.startswith(b"canary-token-brand")
    with pytest.raises(SealBrokenError):
        open_sealed(world.publishing_key, told.sealed_token, account.name + "x")
    assert world.as_(company.owner).GetAccount(pb.GetAccountRequest(name=account.name)) == account
    assert [row["subject"] for row in world.audited("account.bound")] == [account.name]
    assert [row["detail"] for row in world.audited("token.handed_over")] == [{"receiver": "publishing"}]


def test_bind__registers_us_with_a_server_once(world: World) -> None:
    """However many accounts and enterprises."""
    company = world.register()
    other = world.register(email="owner@kunlun.example")
    for handle, each in [("brand", company), ("dealer", company), ("tours", other)]:
        world.bind(each, handle)
    assert world.network.registered == [SERVER]


def test_bind__again_authorizes_the_same_account_anew(world: World) -> None:
    """The name and the labels stay, also after it was unbound; publishing gets the new token."""
    company = world.register()
    first = world.bind(company, "brand", labels=["brand"])
    world.clock.advance(timedelta(hours=1))
    again = world.bind(company, "brand")
    assert (again.name, list(again.labels), again.state) == (first.name, ["brand"], ACTIVE)
    assert again.authorize_time.ToDatetime() - first.authorize_time.ToDatetime() == timedelta(hours=1)
    assert again.etag != first.etag
    world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=first.name))
    assert world.bind(company, "brand").name == first.name
    tokens = {
        open_sealed(world.publishing_key, told.sealed_token, told.account)
        for told in world.told(events.AccountBound)
    }
    assert len(tokens) == 3


def test_bind__refuses_an_account_of_another_enterprise(world: World) -> None:
    """It is audited where it was tried; the first one keeps it, and its token is not revoked. Once unbound, it is free."""
    company = world.register()
    other = world.register(email="owner@kunlun.example")
    account = world.bind(company, "brand")
    with pytest.raises(grpc.RpcError) as refused:
        world.bind(other, "brand")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(refused.value) == "ACCOUNT_BOUND_ELSEWHERE"
    assert company.name not in refused.value.details()
    (audited,) = world.audited("binding.refused")
    assert (audited["enterprise"], audited["actor"]) == (other.name, other.owner.subject)
    assert audited["detail"] == {"reason": "ACCOUNT_BOUND_ELSEWHERE"}
    assert not world.network.revoked
    assert len(world.told(events.AccountBound)) == len(world.rows("tokens")) == 1

    world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))
    assert world.bind(other, "brand").state == ACTIVE
    with pytest.raises(grpc.RpcError) as refused:
        world.bind(company, "brand")
    assert reason_of(refused.value) == "ACCOUNT_BOUND_ELSEWHERE"


def refused_to_complete(world: World, complete: Callable[[], object]) -> str:
    """The reason for which a binding is refused; nothing is bound, and the audit trail says so once more."""
    before = len(world.audited("binding.refused"))
    bound = len(world.rows("accounts"))
    with pytest.raises(grpc.RpcError) as refused:
        complete()
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert len(world.audited("binding.refused")) == before + 1
    assert len(world.rows("accounts")) == bound
    return reason_of(refused.value)


def test_complete__refuses_a_state_that_was_used(world: World) -> None:
    """Also with a fresh code, and also when the first try failed."""
    company = world.register()
    started = world.start(company)
    state, code = world.network.agree(started.authorization_url, "brand")
    world.complete(company, state, code)
    _, fresh = world.network.agree(started.authorization_url, "dealer")
    assert refused_to_complete(world, lambda: world.complete(company, state, fresh)) == "BINDING_STATE_USED"

    state, code = world.network.agree(world.start(company).authorization_url, "dealer")
    assert refused_to_complete(world, lambda: world.complete(company, state, "x")) == "AUTHORIZATION_REFUSED"
    assert refused_to_complete(world, lambda: world.complete(company, state, code)) == "BINDING_STATE_USED"


def test_complete__is_repeated_with_its_request_id(world: World) -> None:
    """A caller whose answer was lost gets it again; with another request id the state is used up."""
    company = world.register()
    state, code = world.network.agree(world.start(company).authorization_url, "brand")
    first = world.complete(company, state, code, request_id="r-1")
    assert world.complete(company, state, code, request_id="r-1") == first
    assert (
        refused_to_complete(world, lambda: world.complete(company, state, code, request_id="r-2"))
        == "BINDING_STATE_USED"
    )
    assert len(world.told(events.AccountBound)) == 1


def test_complete__refuses_a_state_after_ten_minutes(world: World) -> None:
    """To the second."""
    company = world.register()
    early, late = world.start(company), world.start(company)
    assert early.expire_time.ToDatetime() - timedelta(minutes=10) == world.clock.now().replace(tzinfo=None)
    world.clock.advance(timedelta(minutes=9, seconds=59))
    assert world.complete(company, *world.network.agree(early.authorization_url, "brand")).state == ACTIVE
    world.clock.advance(timedelta(seconds=1))
    state, code = world.network.agree(late.authorization_url, "dealer")
    assert refused_to_complete(world, lambda: world.complete(company, state, code)) == "BINDING_STATE_EXPIRED"


def test_complete__refuses_everybody_but_who_started(world: World) -> None:
    """Another enterprise, a colleague, a partner app of the same enterprise: to all of them the state is unknown."""
    company = world.register()
    other = world.register(email="owner@kunlun.example")
    state, code = world.network.agree(world.start(company).authorization_url, "brand")
    colleague = member(company.name, ["OWNER"], f"{company.name}/members/somebody-else")
    app = client(company.name, ["accounts.write"])
    for caller, parent in [(other.owner, other.name), (colleague, company.name), (app, company.name)]:
        request = pb.CompleteBindingRequest(parent=parent, state=state, code=code)
        reason = refused_to_complete(world, lambda: world.as_(caller).CompleteBinding(request))  # noqa: B023
        assert reason == "BINDING_STATE_INVALID"
    # None of that used the state up.
    assert world.complete(company, state, code).state == ACTIVE


def test_complete__refuses_an_unknown_state(world: World) -> None:
    """As one that was made up."""
    company = world.register()
    reason = refused_to_complete(world, lambda: world.complete(company, "made-up", "code"))
    assert reason == "BINDING_STATE_INVALID"


def test_complete__refuses_a_code_for_another_binding(world: World) -> None:
    """PKCE: a code that somebody slipped in was not made for this binding's verifier."""
    company = world.register()
    ours = world.start(company)
    _, theirs = world.network.agree(world.start(company).authorization_url, "dealer")
    reason = refused_to_complete(world, lambda: world.complete(company, ours.state, theirs))
    assert reason == "AUTHORIZATION_REFUSED"


def test_complete__takes_no_for_an_answer(world: World) -> None:
    """The holder said no: nothing is exchanged, and the state is used up."""
    company = world.register()
    state, code = world.network.agree(world.start(company).authorization_url, "brand")

    def denied() -> None:
        world.complete(company, state, "", error="access_denied")

    assert refused_to_complete(world, denied) == "AUTHORIZATION_DENIED"
    assert refused_to_complete(world, lambda: world.complete(company, state, code)) == "BINDING_STATE_USED"


@pytest.mark.parametrize(("code", "error"), [("", ""), ("code", "access_denied")])
def test_complete__needs_either_a_code_or_an_error(world: World, code: str, error: str) -> None:
    """Neither and both are a mistake of the caller, which costs no state."""
    company = world.register()
    started = world.start(company)
    with pytest.raises(grpc.RpcError) as refused:
        world.complete(company, started.state, code, error=error)
    assert field_reasons_of(refused.value) == {"code": "INVALID"}
    assert world.complete(company, *world.network.agree(started.authorization_url, "brand")).state == ACTIVE


def test_complete__says_when_the_network_is_away(world: World) -> None:
    """UNAVAILABLE, with the time after which another binding makes sense; nothing is bound."""
    company = world.register()
    state, code = world.network.agree(world.start(company).authorization_url, "brand")
    world.network.failure = network_unavailable(SERVER)
    with pytest.raises(grpc.RpcError) as refused:
        world.complete(company, state, code)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(refused.value) == "NETWORK_UNAVAILABLE"
    assert not world.rows("accounts")


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("https://elsewhere.example", "SERVER_NOT_ALLOWED"),
        ("http://social.example", "SERVER_NOT_ALLOWED"),
        ("http://169.254.169.254", "SERVER_NOT_ALLOWED"),
        ("http://127.0.0.1:5432", "SERVER_NOT_ALLOWED"),
        ("https://social.example@elsewhere.example", "SERVER_MALFORMED"),
        ("file:///etc/passwd", "SERVER_MALFORMED"),
    ],
)
def test_start__talks_to_listed_servers_only(world: World, server: str, reason: str) -> None:
    """What is not on the list is not even looked up."""
    company = world.register()
    with pytest.raises(grpc.RpcError) as refused:
        world.start(company, server=server)
    assert field_reasons_of(refused.value) == {"server": reason}
    assert not world.network.registered


def test_start__says_when_the_server_does_not_take_us(world: World) -> None:
    """Nothing is begun then, and the next try registers us."""
    company = world.register()
    world.network.failure = network_refused(SERVER, 422)
    with pytest.raises(grpc.RpcError) as refused:
        world.start(company)
    assert reason_of(refused.value) == "NETWORK_REFUSED"
    assert not world.rows("bindings")
    world.start(company)
    assert world.network.registered == [SERVER]


def test_unbind__forgets_the_token_and_has_it_revoked(world: World) -> None:
    """Here, at the network, and in publishing by the event; to repeat it changes nothing."""
    company = world.register()
    account = world.bind(company, "brand")
    owner = world.as_(company.owner)
    unbound = owner.UnbindAccount(pb.UnbindAccountRequest(name=account.name, etag=account.etag))
    assert unbound.state == REVOKED
    assert not world.rows("tokens")
    assert [token[:18] for token in world.network.revoked] == ["canary-token-brand"]
    assert owner.UnbindAccount(pb.UnbindAccountRequest(name=account.name)) == unbound
    assert [told.account for told in world.told(events.AccountUnbound)] == [account.name]
    assert [row["detail"]["outcome"] for row in world.audited("token.revoked")] == ["REVOKED"]
    assert [row["detail"]["purpose"] for row in world.audited("token.read")] == ["revocation"]


def test_unbind__succeeds_when_the_network_is_away(world: World) -> None:
    """We let go in any case; that the token still lives there is written down."""
    company = world.register()
    account = world.bind(company, "brand")
    world.network.failure = network_unavailable(SERVER)
    unbound = world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))
    assert unbound.state == REVOKED
    assert [row["detail"]["outcome"] for row in world.audited("token.revoked")] == ["NETWORK_UNAVAILABLE"]


def test_unbind__refuses_a_stale_etag(world: World) -> None:
    """Nothing is forgotten then."""
    company = world.register()
    account = world.bind(company, "brand")
    world.bind(company, "brand")
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name, etag=account.etag))
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    assert len(world.rows("tokens")) == 1


def test_list_accounts__pages_and_filters(world: World) -> None:
    """By label and by state, each account once."""
    company = world.register()
    for number in range(5):
        world.clock.advance(timedelta(seconds=1))
        world.bind(company, f"dealer-{number}", labels=["dealer", f"city-{number % 2}"])
    owner = world.as_(company.owner)

    def all_of(**query: object) -> list[str]:
        found, token = [], ""
        while True:
            page = owner.ListAccounts(
                pb.ListAccountsRequest(parent=company.name, page_size=2, page_token=token, **query)
            )
            found += [each.handle for each in page.accounts]
            token = page.next_page_token
            if not token:
                return found

    assert all_of() == [f"dealer-{number}" for number in range(5)]
    assert all_of(label="city-1") == ["dealer-1", "dealer-3"]
    first = owner.ListAccounts(pb.ListAccountsRequest(parent=company.name, page_size=1)).accounts[0]
    owner.UnbindAccount(pb.UnbindAccountRequest(name=first.name))
    assert all_of(state=REVOKED) == ["dealer-0"]
    assert all_of(state=ACTIVE, label="city-0") == ["dealer-2", "dealer-4"]
