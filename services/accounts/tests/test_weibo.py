"""The client of Weibo's API: against the sandbox network, and against servers that misbehave."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events
from pydantic import SecretStr

from services.accounts.model import BindingRefusedError
from services.accounts.networks import Authorization
from services.accounts.networks.weibo import WeiboNetwork
from services.accounts.tests.servers import Routes, running_sandbox, scripted_servers
from services.accounts.tests.world import REDIRECT_URI, World
from services.chassis.errors import ServiceError
from services.chassis.sealing import open_sealed

KEY, SECRET = "1234567890", "sandbox-weibo-secret"
TOKEN = {"access_token": "canary-token", "expires_in": "7200", "remind_in": "7200", "uid": "1404376560"}
INFO = {"uid": 1404376560, "appkey": KEY, "scope": None, "create_at": 1352267591, "expire_in": "7199"}
HOLDER = {"id": 1404376560, "idstr": "1404376560", "screen_name": "zaku", "name": "\u624e\u514b"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox network in a process of its own, by its URL."""
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as url:
        yield url


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """Starts a server that answers as told."""
    with scripted_servers() as start:
        yield start


@pytest.fixture
def known_at() -> Iterator[Callable[[str], WeiboNetwork]]:
    """Makes clients that a server knows."""
    made: list[WeiboNetwork] = []

    def make(server: str) -> WeiboNetwork:
        made.append(WeiboNetwork({server: (KEY, SecretStr(SECRET))}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def routes(**changes: tuple[int, Any]) -> Routes:
    """A server at which all goes well, but for the changes."""
    usual = {"access_token": (200, TOKEN), "get_token_info": (200, INFO), "show": (200, HOLDER)} | changes
    return {
        "POST /oauth2/access_token": usual["access_token"],
        "POST /oauth2/get_token_info": usual["get_token_info"],
        "GET /2/users/show.json": usual["show"],
    }


def exchange(network: WeiboNetwork, url: str) -> Authorization:
    application = network.register(url, REDIRECT_URI)
    return network.exchange(application, code="canary-code", verifier=SecretStr("canary-verifier"))


def test_bind__works_on_a_server_that_speaks_the_api(
    serve: Callable[..., World], sandbox: str, known_at: Callable[[str], WeiboNetwork]
) -> None:
    """The whole way on the sandbox: agree, exchange, hand over a token that works and expires; unbind, and it is revoked."""
    world = serve(weibo=known_at(sandbox))
    company = world.register()
    started = world.start(company, network="weibo", server=sandbox)
    asked = dict(parse_qsl(urlsplit(started.authorization_url).query))
    assert (asked["forcelogin"], asked["client_id"]) == ("true", KEY)
    assert "code_challenge" not in asked
    page = started.authorization_url.partition("?")[0]
    agreed = httpx.post(page, data=asked | {"username": "tianshan", "password": "sandbox-password"})
    handed = dict(parse_qsl(urlsplit(agreed.headers["location"]).query))

    account = world.complete(company, handed["state"], handed["code"])
    assert (account.network, account.software, account.handle) == ("weibo", "weibo", "tianshan")
    life = account.token_expire_time.ToDatetime() - account.authorize_time.ToDatetime()
    assert abs(life - timedelta(days=30)) < timedelta(seconds=2)
    (told,) = world.told(events.AccountBound)
    token = open_sealed(world.publishing_key, told.sealed_token, account.name).decode()
    info = f"{sandbox}/oauth2/get_token_info"
    assert httpx.post(info, data={"access_token": token}).json()["appkey"] == KEY

    unbound = world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))
    assert not unbound.HasField("token_expire_time")
    assert httpx.post(info, data={"access_token": token}).json()["error_code"] == 21332
    assert [row["detail"]["outcome"] for row in world.audited("token.revoked")] == ["REVOKED"]


@pytest.mark.parametrize("expires_in", ["7200", 7200])
def test_exchange__takes_numbers_as_texts_and_as_numbers(
    scripted: Callable[..., str], known_at: Callable[[str], WeiboNetwork], expires_in: object
) -> None:
    """As the pages of the documentation differ. The account's id is a text, whatever it was."""
    token = {**TOKEN, "expires_in": expires_in, "uid": int(TOKEN["uid"]), "refresh_token": "canary-refresh"}
    sent: list[dict[str, list[str]]] = []
    url = scripted(
        routes(access_token=(200, token), get_token_info=(200, INFO | {"appkey": int(KEY)})), sent=sent
    )
    authorization = exchange(known_at(url), url)
    assert authorization.life == timedelta(hours=2)
    assert authorization.refresh_token
    assert authorization.profile.network_account_id == "1404376560"
    assert (authorization.profile.handle, authorization.profile.display_name) == ("zaku", "\u624e\u514b")
    assert "canary" not in repr(authorization)
    assert "code_verifier" not in sent[0]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"get_token_info": (200, INFO | {"appkey": "666"})}, "appkey"),
        ({"get_token_info": (200, {"uid": INFO["uid"]})}, "appkey"),
        ({"get_token_info": (200, INFO | {"uid": 1})}, "uid"),
        ({"show": (200, HOLDER | {"idstr": "1"})}, "uid"),
    ],
)
def test_exchange__refuses_a_token_of_another_app_or_person(
    scripted: Callable[..., str], known_at: Callable[[str], WeiboNetwork], changes: dict[str, Any], what: str
) -> None:
    """The `uid` alone proves nothing."""
    url = scripted(routes(**changes))
    with pytest.raises(BindingRefusedError) as refused:
        exchange(known_at(url), url)
    assert (refused.value.reason, refused.value.metadata["what"]) == ("AUTHORIZATION_MISMATCH", what)


@pytest.mark.parametrize("form", [int, str])
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (21325, "NETWORK_REFUSED"),
        (21322, "NETWORK_REFUSED"),
        (21324, "NETWORK_REFUSED"),
        (21327, "NETWORK_REFUSED"),
        (10001, "NETWORK_UNAVAILABLE"),
        (10023, "NETWORK_UNAVAILABLE"),
        (21331, "NETWORK_UNAVAILABLE"),
        (99999, "NETWORK_REFUSED"),
    ],
)
def test_exchange__understands_errors_by_their_number(
    scripted: Callable[..., str],
    known_at: Callable[[str], WeiboNetwork],
    form: Callable[[int], object],
    code: int,
    reason: str,
) -> None:
    """A number or a text, with whatever status: which go together is not documented."""
    body = {"error": "canary", "error_code": form(code), "request": "/oauth2/access_token"}
    for status in (200, 400, 403, 500):
        url = scripted(routes(access_token=(status, body)))
        with pytest.raises(ServiceError) as refused:
            exchange(known_at(url), url)
        assert refused.value.reason == reason
        assert refused.value.metadata.get("code", str(code)) == str(code)
        assert "canary" not in repr(refused.value) + str(refused.value.metadata)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"access_token": (200, b"no json")}, "NETWORK_UNAVAILABLE"),
        ({"access_token": (200, {**TOKEN, "uid": None})}, "NETWORK_UNAVAILABLE"),
        ({"access_token": (200, {**TOKEN, "uid": "0"})}, "NETWORK_UNAVAILABLE"),
        ({"access_token": (302, b"https://thief.example/")}, "NETWORK_LEADS_ELSEWHERE"),
        ({"get_token_info": (403, {})}, "NETWORK_REFUSED"),
        ({"get_token_info": (503, {})}, "NETWORK_UNAVAILABLE"),
        ({"show": (200, HOLDER | {"screen_name": None})}, "NETWORK_UNAVAILABLE"),
        ({"show": (200, {"error": "User does not exists!", "error_code": 20003})}, "NETWORK_REFUSED"),
    ],
)
def test_exchange__understands_every_refusal(
    scripted: Callable[..., str],
    known_at: Callable[[str], WeiboNetwork],
    changes: dict[str, Any],
    reason: str,
) -> None:
    """Whatever a server answers, it is one of these errors."""
    url = scripted(routes(**changes))
    with pytest.raises(ServiceError) as refused:
        exchange(known_at(url), url)
    assert refused.value.reason == reason


def test_exchange__keeps_the_token_out_of_urls(
    scripted: Callable[..., str], known_at: Callable[[str], WeiboNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    """Httpx logs the URLs that it asks for."""
    url = scripted(routes())
    with caplog.at_level("DEBUG"):
        exchange(known_at(url), url)
    assert "users/show.json" in caplog.text
    assert "canary-token" not in caplog.text


def test_start__needs_an_app_of_the_server(
    serve: Callable[..., World], known_at: Callable[[str], WeiboNetwork]
) -> None:
    """The list of servers of Mastodon is none of Weibo, nor the other way round."""
    world = serve(server="https://village.example", weibo=known_at("https://api.weibo.com"))
    company = world.register()
    for network, server in [("weibo", "https://village.example"), ("mastodon", "https://api.weibo.com")]:
        with pytest.raises(Exception, match="not a server that accounts can be bound on"):
            world.start(company, network=network, server=server)
    started = world.start(company, network="weibo", server="https://api.weibo.com/")
    assert started.authorization_url.startswith("https://api.weibo.com/oauth2/authorize?")
    assert parse_qs(urlsplit(started.authorization_url).query)["redirect_uri"] == [REDIRECT_URI]
