"""A real sandbox in a process of its own, and clients of it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]


class Server:
    """A sandbox process that can be killed and started again on its data."""

    def __init__(self, directory: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.directory = directory
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = os.environ | {  # noqa: TID251  what a child process gets
            "SANDBOX_PORT": str(self.port),
            "SANDBOX_DATA_DIR": str(directory),
            **{f"SANDBOX_{name.upper()}": value for name, value in settings.items()},
        }
        self.http = httpx.Client(base_url=self.url, timeout=10, verify=False)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.sandbox"], cwd=ROOT, env=self._environment
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/health").status_code == 200:
                    return
        raise AssertionError("the sandbox did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(10)

    def close(self) -> None:
        self.http.close()
        self.kill()

    def control(self, path: str, **body: Any) -> Any:
        response = self.http.post(f"/control/{path}", json=body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        return self.http.get("/control/log", params={"after": after}).json()["posts"]

    def log_file(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "published.jsonl").read_text().splitlines()]

    def attempts(self, operation: str) -> list[dict[str, Any]]:
        found = self.http.get("/control/attempts").json()["attempts"]
        return [attempt for attempt in found if attempt["operation"] == operation]

    def app(
        self, redirect_uri: str = "https://client.example/cb", scopes: str = "read write profile"
    ) -> dict[str, Any]:
        body = {"client_name": "Tests", "redirect_uris": [redirect_uri], "scopes": scopes}
        response = self.http.post("/api/v1/apps", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def token(self, username: str, scopes: str = "read write") -> str:
        """A user's token, by the whole flow."""
        app = self.app(scopes=scopes)
        client = {key: app[key] for key in ("client_id", "client_secret")}
        uri = app["redirect_uris"][0]
        asked = {"response_type": "code", "redirect_uri": uri, "scope": scopes, "client_id": app["client_id"]}
        decided = self.http.post(
            "/oauth/authorize", data=asked | {"username": username, "password": "sandbox-password"}
        )
        code = parse_qs(urlsplit(decided.headers["location"]).query)["code"][0]
        exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": uri, **client}
        return self.http.post("/oauth/token", data=exchange).json()["access_token"]


class User:
    """An API client with a user's token."""

    def __init__(self, server: Server, username: str, scopes: str = "read write") -> None:
        self.http = httpx.Client(base_url=server.url, timeout=10, verify=False)
        self.http.headers["Authorization"] = f"Bearer {server.token(username, scopes)}"
        self.me = self.http.get("/api/v1/accounts/verify_credentials").json()

    def post(self, text: str, key: str | None = None, **fields: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post("/api/v1/statuses", json={"status": text, **fields}, headers=headers)

    def timeline(self, **query: Any) -> list[str]:
        """The ids on the own timeline, newest first."""
        found = self.http.get(f"/api/v1/accounts/{self.me['id']}/statuses", params=query)
        return [status["id"] for status in found.json()]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("sandbox"))
    yield server
    server.close()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A sandbox as on its first day."""
    shared_server.control("reset", accounts=True, log=True)
    return shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts sandboxes with settings of their own."""
    with contextlib.ExitStack() as stack:

        def start(**settings: str) -> Server:
            server = Server(tmp_path / "data", **settings)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def user(server: Server) -> Iterator[Callable[..., User]]:
    with contextlib.ExitStack() as stack:

        def log_in(username: str = "tianshan", scopes: str = "read write", on: Server = server) -> User:
            made = User(on, username, scopes)
            stack.callback(made.http.close)
            return made

        yield log_in
