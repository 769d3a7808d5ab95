"""The client of the Mastodon API: against the sandbox network, and against servers that misbehave."""

import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events
from pydantic import SecretStr

from services.accounts.model import BindingRefusedError
from services.accounts.networks import Application, NetworkRefusedError
from services.accounts.networks.mastodon import SCOPES, MastodonNetwork
from services.accounts.tests.servers import Routes, running_sandbox, scripted_servers
from services.accounts.tests.world import REDIRECT_URI, World
from services.chassis.errors import ServiceError
from services.chassis.sealing import open_sealed


@pytest.fixture
def network() -> Iterator[MastodonNetwork]:
    """The client."""
    network = MastodonNetwork()
    yield network
    network.close()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox network in a process of its own, by its URL."""
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as url:
        yield url


def decide(authorization_url: str, username: str, **more: str) -> dict[str, str]:
    """What a holder's browser brings back after it filled in the network's page."""
    asked = dict(parse_qsl(urlsplit(authorization_url).query))
    page = authorization_url.partition("?")[0]
    answer = httpx.post(page, data=asked | {"username": username, "password": "sandbox-password"} | more)
    assert answer.is_redirect, answer.text[:500]
    assert answer.headers["location"].startswith(REDIRECT_URI)
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def test_bind__works_on_a_server_that_speaks_the_api(
    serve: Callable[..., World], sandbox: str, network: MastodonNetwork
) -> None:
    """The whole way on the sandbox: register, agree, exchange, hand over a token that works; unbind, and it does not."""
    world = serve(network=network, server=sandbox)
    company = world.register()
    started = world.start(company, server=sandbox, labels=["brand"])
    query = parse_qs(urlsplit(started.authorization_url).query)
    assert query["force_login"] == ["true"]
    assert query["code_challenge_method"] == ["S256"]
    redirect = decide(started.authorization_url, "tianshan")
    assert redirect["state"] == started.state

    account = world.complete(company, redirect["state"], redirect["code"])
    assert (account.handle, account.server) == ("tianshan", sandbox)
    assert account.software not in {"", "unknown"}
    assert account.software_version

    (told,) = world.told(events.AccountBound)
    token = open_sealed(world.publishing_key, told.sealed_token, account.name).decode()
    verify = f"{sandbox}/api/v1/accounts/verify_credentials"
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(verify, headers=headers).json()["id"] == account.network_account_id
    posted = httpx.post(f"{sandbox}/api/v1/statuses", json={"status": "Hello"}, headers=headers)
    assert posted.status_code == 200

    world.as_(company.owner).UnbindAccount(pb.UnbindAccountRequest(name=account.name))
    assert httpx.get(verify, headers=headers).status_code == 401
    assert [row["detail"]["outcome"] for row in world.audited("token.revoked")] == ["REVOKED"]


def test_exchange__is_held_to_pkce_and_to_one_use(sandbox: str, network: MastodonNetwork) -> None:
    """The server refuses a code with another verifier, and a code that was exchanged."""
    application = network.register(sandbox, REDIRECT_URI)
    verifier = SecretStr(secrets.token_urlsafe(48))
    # The challenge of another verifier.
    challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    url = network.authorize_url(application, state="state", challenge=challenge)
    code = decide(url, "tianshan")["code"]
    with pytest.raises(NetworkRefusedError):
        network.exchange(application, code=code, verifier=verifier)

    rfc7636 = SecretStr("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    code = decide(url, "tianshan")["code"]
    authorization = network.exchange(application, code=code, verifier=rfc7636)
    assert authorization.profile.handle == "tianshan"
    assert "token" not in repr(authorization.token)
    with pytest.raises(NetworkRefusedError):
        network.exchange(application, code=code, verifier=rfc7636)


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """Starts a server that answers as told."""
    with scripted_servers() as start:
        yield start


NODEINFO = "http://nodeinfo.diaspora.software/ns/schema/2.1"
APPLICATION = {"client_id": "id", "client_secret": "canary-secret"}
TOKEN = {"access_token": "canary-token", "scope": " ".join(SCOPES)}
HOLDER = {"id": "109", "username": "brand", "display_name": ""}


def plain(url: str) -> Application:
    return Application(
        url,
        REDIRECT_URI,
        "id",
        SecretStr("canary-secret"),
        f"{url}/oauth/authorize",
        f"{url}/oauth/token",
        f"{url}/oauth/revoke",
    )


def exchange(network: MastodonNetwork, url: str) -> Any:
    return network.exchange(plain(url), code="code", verifier=SecretStr("canary-verifier"))


def test_register__knows_older_servers(scripted: Callable[..., str], network: MastodonNetwork) -> None:
    """A server that does not tell where its OAuth2 is has it where it always was."""
    url = scripted({"POST /api/v1/apps": (200, APPLICATION)})
    assert network.register(url, REDIRECT_URI).token_endpoint == f"{url}/oauth/token"


DISCOVERY = "GET /.well-known/oauth-authorization-server"


@pytest.mark.parametrize(
    "told",
    [
        (200, {"token_endpoint": "http://169.254.169.254/latest/meta-data"}),
        (200, {"authorization_endpoint": "https://thief.example/oauth/authorize"}),
        (200, {"revocation_endpoint": "//thief.example/revoke"}),
        (200, {"token_endpoint": "http://[/"}),
        (200, {"issuer": "https://thief.example"}),
        (302, b"https://thief.example/.well-known/oauth-authorization-server"),
    ],
)
def test_register__is_not_led_elsewhere(
    scripted: Callable[..., str], network: MastodonNetwork, told: tuple[int, Any]
) -> None:
    """A server cannot have our application's secret and the holder's code sent to another one; nor the holder."""
    url = scripted({"POST /api/v1/apps": (200, APPLICATION), DISCOVERY: told})
    with pytest.raises(ServiceError) as refused:
        network.register(url, REDIRECT_URI)
    assert refused.value.reason == "NETWORK_LEADS_ELSEWHERE"


def test_register__does_not_take_a_server_out_of_order_for_an_old_one(
    scripted: Callable[..., str], network: MastodonNetwork
) -> None:
    """Or it would be asked with less protection from then on."""
    url = scripted({"POST /api/v1/apps": (200, APPLICATION), DISCOVERY: (503, b"")})
    with pytest.raises(ServiceError) as refused:
        network.register(url, REDIRECT_URI)
    assert refused.value.reason == "NETWORK_UNAVAILABLE"


@pytest.mark.parametrize(
    ("metadata", "offered"),
    [
        ((404, {}), True),
        ((200, {"code_challenge_methods_supported": ["S256"]}), True),
        ((200, {"code_challenge_methods_supported": ["plain"]}), False),
        ((200, {"code_challenge_methods_supported": []}), False),
    ],
)
def test_authorize_url__has_a_challenge_where_one_is_taken(
    scripted: Callable[..., str], network: MastodonNetwork, metadata: tuple[int, Any], *, offered: bool
) -> None:
    """PKCE wherever the server does not say that it has none; then there is no verifier either."""
    sent: list[dict[str, list[str]]] = []
    routes = {
        "POST /api/v1/apps": (200, APPLICATION),
        DISCOVERY: metadata,
        "POST /oauth/token": (200, TOKEN),
        "GET /api/v1/accounts/verify_credentials": (200, HOLDER),
    }
    application = network.register(scripted(routes, sent=sent), REDIRECT_URI)
    url = network.authorize_url(application, state="state", challenge="challenge")
    query = parse_qs(urlsplit(url).query)
    assert ("code_challenge" in query, "code_challenge_method" in query) == (offered, offered)
    assert query["force_login"] == ["true"]
    network.exchange(application, code="code", verifier=SecretStr("canary-verifier"))
    assert ("code_verifier" in sent[-1]) == offered


def test_register__keeps_what_the_server_calls_itself(
    scripted: Callable[..., str], network: MastodonNetwork
) -> None:
    """The issuer, Mastodon's with a slash at the end, and whether redirects will name it."""
    routes: Routes = {"POST /api/v1/apps": (200, APPLICATION)}
    url = scripted(routes)
    routes[DISCOVERY] = (
        200,
        {"issuer": f"{url}/", "authorization_response_iss_parameter_supported": True},
    )
    application = network.register(url, REDIRECT_URI)
    assert (application.issuer, application.names_issuer) == (f"{url}/", True)


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (7200, 7200),
        ("7200", 7200),
        (None, None),
        (0, None),
        (-1, None),
        ("soon", None),
        (True, None),
        (10**30, 315360000),
    ],
)
def test_exchange__keeps_how_long_a_token_lives(
    scripted: Callable[..., str], network: MastodonNetwork, expires_in: object, seconds: int | None
) -> None:
    """Mastodon's own live for ever; of others, seconds as a number or a text. A refresh token is kept and not shown."""
    token = {**TOKEN, "expires_in": expires_in, "refresh_token": "canary-refresh"}
    routes = {"POST /oauth/token": (200, token), "GET /api/v1/accounts/verify_credentials": (200, HOLDER)}
    authorization = exchange(network, scripted(routes))
    assert (authorization.life and authorization.life.total_seconds()) == seconds
    assert authorization.refresh_token.get_secret_value() == "canary-refresh"
    assert "canary" not in repr(authorization)


def test_exchange__takes_a_server_without_nodeinfo_for_unknown(
    scripted: Callable[..., str], network: MastodonNetwork
) -> None:
    """Also when its nodeinfo lies elsewhere; publishing then expects the least."""
    routes = {
        "POST /oauth/token": (200, {"access_token": "canary-token"}),
        "GET /api/v1/accounts/verify_credentials": (200, HOLDER),
        "GET /.well-known/nodeinfo": (200, {"links": [{"rel": NODEINFO, "href": "https://thief.example/"}]}),
    }
    profile = exchange(network, scripted(routes)).profile
    assert (profile.software, profile.software_version) == ("unknown", "")
    assert (profile.network_account_id, profile.display_name) == ("109", "brand")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((400, {"error": "invalid_grant"}), "NETWORK_REFUSED"),
        ((401, b"Unauthorized"), "NETWORK_REFUSED"),
        ((422, {"error": "canary-token"}), "NETWORK_REFUSED"),
        ((429, {}), "NETWORK_UNAVAILABLE"),
        ((500, b"<html>"), "NETWORK_UNAVAILABLE"),
        ((302, b"/elsewhere"), "NETWORK_LEADS_ELSEWHERE"),
        ((200, b"no json"), "NETWORK_UNAVAILABLE"),
        ((200, b"[]"), "NETWORK_UNAVAILABLE"),
        ((200, b"\xff"), "NETWORK_UNAVAILABLE"),
        ((200, b"[" * 100_000), "NETWORK_UNAVAILABLE"),
        ((200, {"access_token": None}), "NETWORK_UNAVAILABLE"),
        ((200, {"access_token": ""}), "NETWORK_UNAVAILABLE"),
        ((200, {"access_token": "canary\r\nhost: elsewhere"}), "NETWORK_UNAVAILABLE"),
        ((200, {"access_token": "canary-\u00fc"}), "NETWORK_UNAVAILABLE"),
        ((200, {"access_token": "canary" * 1000}), "NETWORK_UNAVAILABLE"),
        ((200, {"access_token": "canary-token", "padding": "x" * 300_000}), "NETWORK_UNAVAILABLE"),
    ],
)
def test_exchange__understands_every_refusal(
    scripted: Callable[..., str], network: MastodonNetwork, answer: tuple[int, Any], reason: str
) -> None:
    """Whatever a server answers, it is one of two errors; neither repeats its words or our secrets."""
    url = scripted({"POST /oauth/token": answer})
    with pytest.raises(ServiceError) as refused:
        exchange(network, url)
    assert refused.value.reason == reason
    assert "canary" not in repr(refused.value) + str(refused.value.metadata)


def test_exchange__keeps_what_can_be_kept(scripted: Callable[..., str], network: MastodonNetwork) -> None:
    """Names are as people wrote them, but for what PostgreSQL cannot hold; a nodeinfo full of nonsense is no nodeinfo."""
    link = {"rel": NODEINFO, "href": "/nodeinfo"}
    routes = {
        "POST /oauth/token": (200, TOKEN),
        "GET /api/v1/accounts/verify_credentials": (
            200,
            HOLDER | {"display_name": "\u5929\u5c71\0" + "x" * 2000},
        ),
        "GET /.well-known/nodeinfo": (200, {"links": [None, {"rel": 7}, link]}),
        "GET /nodeinfo": (200, {"software": {"name": "GoToSocial", "version": 0.2}}),
    }
    profile = exchange(network, scripted(routes)).profile
    assert profile.display_name == ("\u5929\u5c71" + "x" * 2000)[:1000]
    assert (profile.software, profile.software_version) == ("gotosocial", "")


def test_exchange__refuses_less_than_publishing_needs(
    scripted: Callable[..., str], network: MastodonNetwork
) -> None:
    """A holder, or a server, that leaves a right out; `write` covers `write:statuses`."""
    holder = {"GET /api/v1/accounts/verify_credentials": (200, HOLDER)}
    url = scripted(holder | {"POST /oauth/token": (200, TOKEN | {"scope": "read write:media"})})
    with pytest.raises(BindingRefusedError) as refused:
        exchange(network, url)
    assert refused.value.reason == "AUTHORIZATION_INCOMPLETE"
    assert refused.value.metadata["scopes"] == "write:statuses"
    wide = scripted(holder | {"POST /oauth/token": (200, TOKEN | {"scope": "read write"})})
    assert exchange(network, wide).token.get_secret_value() == "canary-token"


def test_calls__say_when_nobody_is_there(network: MastodonNetwork) -> None:
    """A refused connection is UNAVAILABLE, and its error has no trace of the request behind it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(ServiceError) as refused:
            exchange(network, url)
    assert refused.value.reason == "NETWORK_UNAVAILABLE"
    assert refused.value.__cause__ is None
