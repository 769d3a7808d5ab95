"""A database of publishing's own, and a real sandbox network in a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.sandbox.people import Person
from services.chassis.clock import FixedClock
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, RunningServer, serving, shared_keys
from services.publishing.api import servicers
from services.publishing.settings import Settings
from services.publishing.tests.fakes import make_account
from services.publishing.worker import Worker

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> TemporaryDatabase:
    """Publishing's schema, empty, on a clock that the test moves."""
    return make_database("publishing", clock=clock)


def url_of(conninfo: str) -> str:
    """A connection as settings want it."""
    return "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(
        **{"password": "", **conninfo_to_dict(conninfo)}
    )


class Sandbox:
    """The network that judges: its log says what was published."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=10)
        environment = os.environ | {"SANDBOX_PORT": str(port), "SANDBOX_DATA_DIR": str(directory)}  # noqa: TID251
        self._process = subprocess.Popen([sys.executable, "-m", "deploy.sandbox"], cwd=ROOT, env=environment)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/health").is_success:
                    return
        raise AssertionError("the sandbox did not start")

    def close(self) -> None:
        self.http.close()
        self._process.kill()
        self._process.wait()

    def control(self, path: str, **body: Any) -> None:
        self.http.post(f"/control/{path}", json=body).raise_for_status()

    def reset(self, mode: str) -> None:
        """As on its first day, in a mode: `honours`, `ignores` or `serial`."""
        self.http.delete("/control/faults")
        self.control("reset", accounts=True, log=True)
        self.control("mode", mode=mode)

    def fault(self, kind: str, operation: str = "post_status", **details: Any) -> None:
        self.control("faults", operation=operation, kind=kind, **details)

    def posts(self) -> list[dict[str, Any]]:
        """All that was ever published."""
        return self.http.get("/control/log").json()["posts"]

    def token(self, username: str) -> str:
        with Person(self.url, username) as person:
            return person._http.headers["Authorization"].removeprefix("Bearer ")

    def account_id(self, username: str) -> str:
        return self.http.get("/api/v1/accounts/lookup", params={"acct": username}).json()["id"]


@pytest.fixture(scope="session")
def running_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """A sandbox as on its first day, which honours keys."""
    running_sandbox.reset("honours")
    return running_sandbox


@pytest.fixture
def sandbox_account(sandbox: Sandbox) -> Callable[..., Any]:
    """Makes the bound account of a user of the sandbox: `sandbox_account(1, "tianshan", sealed_token=…)`."""

    def make(number: int, username: str, **changes: object) -> Any:
        return make_account(
            number,
            server=sandbox.url,
            handle=username,
            network_account_id=sandbox.account_id(username),
            **changes,
        )

    return make


@pytest.fixture
def worker() -> Worker:
    """The worker's methods, without a broker."""
    settings = {
        "database_url": "postgresql://x",
        "amqp_url": "amqp://x",
        "principal_public_key": shared_keys().public,
    }
    return Worker(Settings(**settings))


@pytest.fixture
def server(database: TemporaryDatabase) -> Iterator[RunningServer]:
    """The services of the api process."""
    with serving(*(Offer(*each) for each in servicers(database))) as running:
        yield running
