"""Tokens that end are refreshed: once, in time, and to publishing; and who cannot be refreshed is asked, once."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events
from pydantic import SecretStr

from services.accounts.model.refreshes import HANDOVER, LEASE, next_try, refresh_time
from services.accounts.networks import Application, NetworkRefusedError, network_unavailable
from services.accounts.networks.mastodon import MastodonNetwork
from services.accounts.networks.weibo import WeiboNetwork
from services.accounts.store import refreshes
from services.accounts.tests import measure_refresh
from services.accounts.tests.servers import scripted_servers
from services.accounts.tests.world import REDIRECT_URI, SERVER, Company, World
from services.accounts.usecases import accounts
from services.accounts.usecases.refresh import Refresher
from services.accounts.usecases.secrets import Vault
from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Tenant
from services.chassis.errors import ServiceError
from services.chassis.sealing import open_sealed
from services.chassis.testing.databases import TemporaryDatabase

LIFE = timedelta(hours=2)
DUE = LIFE * 3 / 4


@pytest.fixture
def company(world: World) -> Company:
    """A company on a network whose tokens end after two hours."""
    world.network.token_life = LIFE
    return world.register()


def refresher(world: World) -> Refresher:
    """One process's."""
    return Refresher(
        world.database,
        {"mastodon": world.network},
        redirect_uri=REDIRECT_URI,
        vault=Vault(world.kms),
        publishing_key=world.publishing_key.public_key(),
    )


def state(world: World, company: Company, account: str) -> int:
    """How an account is."""
    return world.as_(company.owner).GetAccount(pb.GetAccountRequest(name=account)).state


def test_refresh__ahead_of_the_end__reaches_publishing(world: World, company: Company) -> None:
    """With a quarter of its life left, not before; the next token is told with a larger version, and again in time."""
    account = world.bind(company, "brand")
    assert not account.HasField("token_expire_time")
    world.clock.advance(DUE - timedelta(seconds=1))
    refresher(world).run()
    assert not world.network.refreshed

    for count in (1, 2):
        world.clock.advance(timedelta(seconds=1) if count == 1 else DUE)
        refresher(world).run()
        assert len(world.network.refreshed) == len(set(world.network.refreshed)) == count

    (bound,) = world.told(events.AccountBound)
    first, second = world.told(events.AccountTokenRefreshed)
    assert 0 < bound.token_version < first.token_version < second.token_version
    token = open_sealed(world.publishing_key, second.sealed_token, account.name).decode()
    assert token.startswith("canary-token-refreshed")
    assert state(world, company, account.name) == pb.Account.ACTIVE
    reads = [row["detail"]["purpose"] for row in world.audited("token.read")]
    assert reads == ["refresh", "refresh"]
    assert len(world.audited("token.refreshed")) == 2
    assert "canary" not in repr([dict(row) for row in world.rows("audit") + world.rows("outbox")])


def test_refresh__needed_by_many_at_once__is_made_once(world: World, company: Company) -> None:
    """Eight processes find ten tokens due: ten refreshes, each of another refresh token."""
    for number in range(10):
        world.bind(company, f"brand-{number}")
    world.clock.advance(DUE)
    threads = [threading.Thread(target=refresher(world).run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(world.network.refreshed) == len(set(world.network.refreshed)) == 10
    assert len(world.told(events.AccountTokenRefreshed)) == 10


def test_refresh__refused__asks_the_holder_once(world: World, company: Company) -> None:
    """Of this account alone; nothing more is tried until its holder agrees, and then all goes on."""
    lost, kept = world.bind(company, "lost"), world.bind(company, "kept")
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update tokens set refresh_time = %s where account = %s", (tx.now, lost.name))
    world.network._refresh_tokens.clear()
    refresher(world).run()
    world.clock.advance(timedelta(minutes=10))
    refresher(world).run()

    assert len(world.network.refreshed) == 1
    assert [told.account for told in world.told(events.AccountReauthRequired)] == [lost.name]
    assert state(world, company, lost.name) == pb.Account.REAUTH_REQUIRED
    assert state(world, company, kept.name) == pb.Account.ACTIVE

    world.bind(company, "lost")
    world.clock.advance(DUE)
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update tokens set refresh_time = null where account = %s", (kept.name,))
    refresher(world).run()
    assert [told.account for told in world.told(events.AccountTokenRefreshed)] == [lost.name]


def test_refresh__answer_lost__is_tried_once_more_and_no_third_time(world: World, company: Company) -> None:
    """Whoever held the lease is gone: after it has ended the token is shown again, refused, and the holder asked."""
    account = world.bind(company, "brand")
    world.clock.advance(DUE)
    with world.database.transaction(PLATFORM) as tx:
        held = refreshes.lease(tx, tx.now + LEASE)
    assert held is not None
    refresher(world).run()
    assert not world.network.refreshed
    world.network._refresh_tokens.clear()
    for _ in range(5):
        world.clock.advance(LEASE)
        refresher(world).run()
    assert len(world.network.refreshed) == 1
    assert [told.account for told in world.told(events.AccountReauthRequired)] == [account.name]


def test_refresh__of_who_comes_too_late__does_not_count(world: World, company: Company) -> None:
    """Neither after the lease went to another process nor after the account was bound anew, or unbound and bound."""
    account = world.bind(company, "brand")
    world.clock.advance(DUE)
    with world.database.transaction(PLATFORM) as tx:
        late = refreshes.lease(tx, tx.now)
    with world.database.transaction(PLATFORM) as tx:
        newer = refreshes.lease(tx, tx.now + LEASE)
    assert late is not None
    assert newer is not None
    with world.database.transaction(PLATFORM) as tx:
        assert not refreshes.end_lease(tx, late, None)
    world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))
    world.bind(company, "brand")
    with world.database.transaction(PLATFORM) as tx:
        assert not refreshes.end_lease(tx, newer, None)


def test_refresh__network_out_of_order__is_tried_until_the_end_and_a_while_longer(
    world: World, company: Company
) -> None:
    """With growing pauses, and then the holder is asked, once: nothing goes on for ever."""
    account = world.bind(company, "brand")
    world.clock.advance(DUE)
    pauses = 0
    while state(world, company, account.name) == pb.Account.ACTIVE:
        world.network.failure = network_unavailable(SERVER)
        refresher(world).run()
        world.clock.advance(timedelta(hours=1))
        pauses += 1
        assert pauses < 50
    tries = len(world.network.refreshed)
    assert tries >= 8
    world.clock.advance(timedelta(days=1))
    refresher(world).run()
    assert len(world.network.refreshed) == tries
    assert len(world.told(events.AccountReauthRequired)) == 1


def test_refresh__after_an_outage__the_account_works_again(world: World, company: Company) -> None:
    """Though its token had ended, and publishing was refused: the holder need not do anything."""
    account = world.bind(company, "brand")
    world.clock.advance(LIFE + timedelta(minutes=1))
    with world.database.transaction(Tenant(company.name)) as tx:
        accounts.require_reauthorization(tx, account.name, actor="publishing", told=world.clock.now())
    assert state(world, company, account.name) == pb.Account.REAUTH_REQUIRED
    refresher(world).run()
    assert state(world, company, account.name) == pb.Account.ACTIVE


def test_refused__just_after_a_refresh__is_of_the_token_before(world: World, company: Company) -> None:
    """Publishing may not have had the next one yet; what it says later is of that."""
    account = world.bind(company, "brand")
    world.clock.advance(DUE)
    refresher(world).run()

    def refuse() -> int:
        with world.database.transaction(Tenant(company.name)) as tx:
            accounts.require_reauthorization(tx, account.name, actor="publishing", told=world.clock.now())
        return state(world, company, account.name)

    world.clock.advance(HANDOVER - timedelta(seconds=1))
    assert refuse() == pb.Account.ACTIVE
    world.clock.advance(timedelta(seconds=1))
    assert refuse() == pb.Account.REAUTH_REQUIRED


def test_refresh__of_a_secret_that_does_not_open__is_left_for_later(world: World, company: Company) -> None:
    """And holds up no other."""
    broken, good = world.bind(company, "broken"), world.bind(company, "good")
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update tokens set sealed_refresh = 'x' where account = %s", (broken.name,))
    world.clock.advance(DUE)
    refresher(world).run()
    assert [told.account for told in world.told(events.AccountTokenRefreshed)] == [good.name]
    assert state(world, company, broken.name) == pb.Account.ACTIVE


def test_times__in_which_a_token_is_refreshed(world: World) -> None:
    """A quarter of its life ahead, at most a day; pauses double up to an hour."""
    now = world.clock.now()
    assert refresh_time(now, now + LIFE) == now + DUE
    assert refresh_time(now, now + timedelta(days=30)) == now + timedelta(days=29)
    tries = [next_try(each, now, now + LIFE) for each in (1, 2, 3, 20)]
    assert tries == [now + timedelta(seconds=each) for each in (30, 60, 120, 3600)]
    assert (next_try(7, now, now) is None, next_try(8, now, now) is None) == (False, True)


# What networks answer


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """Starts servers that answer as they are told."""
    with scripted_servers() as start:
        yield start


APPLICATION = ("id", SecretStr("canary-secret"))


def application(url: str, token_endpoint: str) -> Application:
    """What a server knows us as."""
    return Application(url, REDIRECT_URI, *APPLICATION, f"{url}/a", f"{url}{token_endpoint}", f"{url}/r")


@pytest.mark.parametrize(
    ("status", "answer", "outcome"),
    [
        (200, {"access_token": "canary-2", "expires_in": "7200", "refresh_token": "canary-3"}, "canary-3"),
        (200, {"access_token": "canary-2", "expires_in": 7200}, None),
        (400, {"error": "invalid_grant"}, "NETWORK_REFUSED"),
        (401, {"error": "invalid_client"}, "NETWORK_UNAVAILABLE"),
        (400, {"error": ["invalid_grant"]}, "NETWORK_UNAVAILABLE"),
        (302, b"http://elsewhere.example/", "NETWORK_UNAVAILABLE"),
        (200, {"access_token": "no\nheader"}, "NETWORK_UNAVAILABLE"),
        (200, b"[", "NETWORK_UNAVAILABLE"),
        (503, {}, "NETWORK_UNAVAILABLE"),
    ],
)
def test_mastodon__only_invalid_grant_is_about_the_account(
    scripted: Callable[..., str], status: int, answer: object, outcome: str | None
) -> None:
    """All else is tried again; the form is that of RFC 6749, 6."""
    sent: list[dict[str, list[str]]] = []
    url = scripted({"POST /oauth/token": (status, answer)}, sent=sent)
    network = MastodonNetwork()
    try:
        renewal = network.refresh(application(url, "/oauth/token"), SecretStr("canary-1"))
        again = renewal.refresh_token
        found = again.get_secret_value() if again else None
        assert (renewal.life, renewal.token.get_secret_value()) == (LIFE, "canary-2")
        shown = repr(renewal)
    except ServiceError as error:
        found, shown = error.reason, repr(error)
    finally:
        network.close()
    assert found == outcome
    assert "canary" not in shown
    assert sent == [
        {"grant_type": ["refresh_token"], "refresh_token": ["canary-1"], "client_id": ["id"],
         "client_secret": ["canary-secret"]}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"error": "invalid_grant", "error_code": "21325"}, "NETWORK_REFUSED"),
        ({"error": "expired_token", "error_code": 21327}, "NETWORK_REFUSED"),
        ({"error": "invalid_client", "error_code": 21324}, "NETWORK_UNAVAILABLE"),
        ({"error": "busy", "error_code": 10009}, "NETWORK_UNAVAILABLE"),
    ],
)
def test_weibo__only_its_errors_on_authorisations_are_about_the_account(
    scripted: Callable[..., str], answer: object, outcome: str
) -> None:
    """By the number in the body, as a number or a text; what is good is taken as everywhere."""
    routes = {"POST /oauth2/access_token": (400, answer)}
    url = scripted(routes)
    network = WeiboNetwork({url: APPLICATION})
    known = network.register(url, REDIRECT_URI)
    with pytest.raises(ServiceError) as failed:
        network.refresh(known, SecretStr("canary-1"))
    assert failed.value.reason == outcome
    assert isinstance(failed.value, NetworkRefusedError) == (outcome == "NETWORK_REFUSED")
    routes["POST /oauth2/access_token"] = (200, {"access_token": "canary-2", "expires_in": "7200"})
    assert network.refresh(known, SecretStr("canary-1")).life == LIFE
    network.close()


def test_measure__counts_by_the_networks_own_log(make_database: Callable[..., TemporaryDatabase]) -> None:
    """Many needs make one refresh each; kill -9 and lost answers in the gap ask the holder, once, and nothing loops."""
    found = measure_refresh.measure(
        make_database("accounts", clock=SystemClock()), accounts=30, needs=4, kills=4, lost=4
    )
    assert found.right, str(found)
    assert (found.refreshes, found.asked, found.again) == (30, 8, 0)
