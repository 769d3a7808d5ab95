"""From the decision to the last gateway: tokens end everywhere, with gateways as they are started in earnest."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import apps_pb2
from numerator.accounts.v1.apps_pb2_grpc import AppServiceStub

from deploy.local.programs import SERVICES
from services.accounts.tests.world import Company, World
from services.chassis.clock import FixedClock
from services.chassis.testing.rpc import shared_keys
from services.chassis.testing.servers import ROOT, free_ports
from services.chassis.testing.waiting import eventually

SECONDS = 5.0
"""Within which a decision is in force at every gateway. The promise is a minute."""


@pytest.fixture
def clock() -> FixedClock:
    """The time at the beginning: gateways have a clock of their own."""
    return FixedClock(datetime.now(UTC))


@pytest.fixture
def start_gateway(world: World, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Starts gateways before accounts, the only service that there is; gives their URLs."""
    running = []

    def start() -> str:
        port, metrics = free_ports(2)
        environment = os.environ | {  # noqa: TID251 -- what a child process gets
            "PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}",
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "GATEWAY_PUBLIC_URL": "http://gateway.test",
            "GATEWAY_METRICS_PORT": str(metrics),
            "GATEWAY_PRIVATE_KEY": shared_keys().private,
            "AMQP_URL": "amqp://guest:guest@127.0.0.1:1/",
            **{f"GATEWAY_SERVICES__{name.upper()}": world.running.address for name in SERVICES},
        }
        with (tmp_path / f"gateway-{port}").open("wb") as output:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "gateway"],
                    cwd=ROOT,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(f"{url}/healthz"), 30)
        eventually(lambda: "revocations" not in httpx.get(f"{url}/readyz").json().get("reason", ""), 10)
        return url

    yield start
    for process in running:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def token(gateway: str, client: pb.Client, secret: str) -> dict[str, str]:
    """The headers of a client that just got an access token."""
    answer = httpx.post(
        f"{gateway}/oauth2/token",
        data={"grant_type": "client_credentials"},
        auth=(client.name.rpartition("/")[2], secret),
    )
    return {"authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}


def ask(gateway: str, company: Company, headers: dict[str, str]) -> tuple[int, str]:
    """The status, and the reason if it was refused."""
    answer = httpx.get(f"{gateway}/v1/{company.name}", headers=headers)
    return answer.status_code, answer.json().get("reason", "")


@pytest.mark.slow
def test_tokens__end_at_every_gateway(world: World, start_gateway: Callable[[], str]) -> None:
    """
    After an ended grace and after a deletion: refused at both gateways within seconds, at one that starts later at once, and while
    accounts is away. A token that was got after the decision is good.
    """
    company = world.register()
    gateways = [start_gateway(), start_gateway()]
    client = world.as_(company.owner).CreateClient(
        pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=["accounts.read"])
    )
    apps = AppServiceStub(world.running.as_(company.owner))
    new = apps.RotateClientSecret(
        apps_pb2.RotateClientSecretRequest(name=client.name, grace=Duration(seconds=3600))
    )
    old_ones = [token(gateway, client, client.secret) for gateway in gateways]
    assert {ask(gateway, company, each) for gateway in gateways for each in old_ones} == {(200, "")}

    def refused_everywhere(headers: dict[str, str]) -> bool:
        return {ask(gateway, company, headers) for gateway in gateways} == {(401, "TOKEN_REVOKED")}

    began = time.monotonic()
    apps.EndSecretGrace(apps_pb2.EndSecretGraceRequest(name=client.name))
    fresh = token(gateways[0], client, new.secret)
    for each in old_ones:
        eventually(partial(refused_everywhere, each), SECONDS)
    assert time.monotonic() - began < SECONDS
    assert {ask(gateway, company, fresh) for gateway in gateways} == {(200, "")}

    began = time.monotonic()
    world.as_(company.owner).DeleteClient(pb.DeleteClientRequest(name=client.name))
    eventually(lambda: refused_everywhere(fresh), SECONDS)
    assert time.monotonic() - began < SECONDS
    gateways.append(start_gateway())
    assert refused_everywhere(fresh)
    world.running.close()
    assert refused_everywhere(fresh)
