"""The client of the Mastodon API: against the sandbox network, and against servers that misbehave."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from services.accounts.tests.world import REDIRECT_URI, World
from services.chassis.errors import ServiceError
from services.chassis.sealing import open_sealed
from services.chassis.testing.servers import ROOT
from services.chassis.testing.waiting import eventually

Routes = dict[str, tuple[int, Any]]


@pytest.fixture
def network() -> Iterator[MastodonNetwork]:
    """The client."""
    network = MastodonNetwork()
    yield network
    network.close()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox network in a process of its own, by its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {  # noqa: TID251 -- what a child process gets
        "SANDBOX_PORT": str(port),
        "SANDBOX_DATA_DIR": str(tmp_path_factory.mktemp("sandbox")),
    }
    process = subprocess.Popen([sys.executable, "-m", "deploy.sandbox"], cwd=ROOT, env=environment)
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").is_success
        return False

    eventually(healthy, timeout=20)
    yield url
    process.terminate()
    process.wait(10)


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
def scripted() -> Iterator[Callable[[Routes], str]]:
    """Starts a server that answers as told: `{"POST /oauth/token": (200, {…})}`."""
    servers: list[ThreadingHTTPServer] = []

    def start(routes: Routes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                status, body = routes.get(f"{self.command} {self.path}", (404, {"error": "not found"}))
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", raw.decode())
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer  # noqa: N815 -- http.server's names

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


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


def test_register__knows_older_servers(scripted: Callable[[Routes], str], network: MastodonNetwork) -> None:
    """A server that does not tell where its OAuth2 is has it where it always was."""
    url = scripted({"POST /api/v1/apps": (200, APPLICATION)})
    assert network.register(url, REDIRECT_URI).token_endpoint == f"{url}/oauth/token"


def test_register__is_not_led_elsewhere(scripted: Callable[[Routes], str], network: MastodonNetwork) -> None:
    """A server cannot have our application's secret and the holder's code sent to another one."""
    url = scripted(
        {
            "POST /api/v1/apps": (200, APPLICATION),
            "GET /.well-known/oauth-authorization-server": (
                200,
                {"token_endpoint": "http://169.254.169.254/latest/meta-data"},
            ),
        }
    )
    with pytest.raises(ServiceError) as refused:
        network.register(url, REDIRECT_URI)
    assert refused.value.reason == "NETWORK_UNAVAILABLE"


def test_exchange__takes_a_server_without_nodeinfo_for_unknown(
    scripted: Callable[[Routes], str], network: MastodonNetwork
) -> None:
    """Also when its nodeinfo lies elsewhere; publishing then expects the least."""
    routes = {
        "POST /oauth/token": (200, {"access_token": "canary-token"}),
        "GET /api/v1/accounts/verify_credentials": (200, HOLDER),
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
        ((302, b"/elsewhere"), "NETWORK_UNAVAILABLE"),
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
    scripted: Callable[[Routes], str], network: MastodonNetwork, answer: tuple[int, Any], reason: str
) -> None:
    """Whatever a server answers, it is one of two errors; neither repeats its words or our secrets."""
    url = scripted({"POST /oauth/token": answer})
    with pytest.raises(ServiceError) as refused:
        exchange(network, url)
    assert refused.value.reason == reason
    assert "canary" not in repr(refused.value) + str(refused.value.metadata)


def test_exchange__keeps_what_can_be_kept(
    scripted: Callable[[Routes], str], network: MastodonNetwork
) -> None:
    """Names are as people wrote them, but for what PostgreSQL cannot hold; a nodeinfo full of nonsense is no nodeinfo."""
    link = {"rel": "http://nodeinfo.diaspora.software/ns/schema/2.1", "href": "/nodeinfo"}
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
    scripted: Callable[[Routes], str], network: MastodonNetwork
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
