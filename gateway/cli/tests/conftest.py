"""The command line before a real gateway process, with made-up services behind it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from numerator.accounts.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    apps_pb2,
    apps_pb2_grpc,
    documents_pb2,
    documents_pb2_grpc,
    enterprises_pb2,
    enterprises_pb2_grpc,
)
from numerator.rollout.v1 import (
    admissions_pb2,
    admissions_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    changes_pb2,
    changes_pb2_grpc,
    flags_pb2,
    flags_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
)
from typer.testing import CliRunner

from gateway.catalogue import stub_files
from gateway.cli.__main__ import application
from gateway.cli.tests.fakes import SECRETS, Accounts, Rollouts
from services.chassis.logs import configure_logs
from services.chassis.rpc.server import Server
from services.chassis.testing.rpc import telemetry
from services.chassis.testing.servers import free_ports
from services.chassis.testing.waiting import eventually

ROOT = Path(__file__).parents[3]
OFFERS = (
    (accounts_pb2, accounts_pb2_grpc, "AccountsService"),
    (apps_pb2, apps_pb2_grpc, "AppService"),
    (documents_pb2, documents_pb2_grpc, "DocumentService"),
    (enterprises_pb2, enterprises_pb2_grpc, "EnterpriseService"),
    (rollout_pb2, rollout_pb2_grpc, "RolloutService"),
    (admissions_pb2, admissions_pb2_grpc, "AdmissionService"),
    (changes_pb2, changes_pb2_grpc, "ChangeService"),
    (flags_pb2, flags_pb2_grpc, "FlagService"),
    (audit_pb2, audit_pb2_grpc, "AuditService"),
    (serving_pb2, serving_pb2_grpc, "ServingService"),
)


@dataclass
class Platform:
    """A gateway that runs, and what is behind it."""

    url: str
    accounts: Accounts
    rollouts: Rollouts


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    """One gateway process for the whole run."""
    configure_logs("test", "api", "ERROR")  # it is the command line that writes to stdout here
    folder = tmp_path_factory.mktemp("gateway")
    key = Ed25519PrivateKey.generate()
    private = folder / "key.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    settings = SimpleNamespace(
        grpc_address="127.0.0.1:0",
        principal_public_key=key.public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        tenant_check=True,
        lame_duck_seconds=0,
        connection_age_seconds=0,
    )
    accounts, rollouts = Accounts(), Rollouts()
    server = Server(settings, telemetry())
    for module, stubs, service in OFFERS:
        servicer = accounts if module.DESCRIPTOR.package == "numerator.accounts.v1" else rollouts
        server.add(
            getattr(stubs, f"add_{service}Servicer_to_server"),
            servicer,
            module.DESCRIPTOR.services_by_name[service],
        )
    server.start()
    port, metrics = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    names = {
        each.package.split(".")[1]
        for each in stub_files()
        if each.services_by_name and "gatewaytest" not in each.package
    }
    # A file, because a pipe that nobody reads would stop it.
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            cwd=ROOT,
            env={
                "GATEWAY_LISTEN": f"127.0.0.1:{port}",
                "GATEWAY_METRICS_PORT": str(metrics),
                "GATEWAY_PRIVATE_KEY_FILE": str(private),
                "GATEWAY_LOGIN_RATE": "1000",
                "AMQP_URL": "amqp://guest:guest@127.0.0.1:1/",
                **{f"GATEWAY_SERVICES__{name.upper()}": f"127.0.0.1:{server.port}" for name in names},
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/openz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(answers, timeout=30)
        yield Platform(url, accounts, rollouts)
    finally:
        process.terminate()
        process.wait(timeout=20)
        server.stop(0)


@pytest.fixture
def platform(running):
    """The gateway, with fakes as new."""
    running.accounts.__init__()
    running.rollouts.__init__()
    return running


@pytest.fixture
def environment(platform, tmp_path):
    """The variables of an operator: secrets of both clients, and a cache of its own."""
    (tmp_path / "secrets").write_text(json.dumps(SECRETS))
    return {
        "NUMERATOR_URL": platform.url,
        "NUMERATOR_CLIENT_SECRET_FILE": str(tmp_path / "secrets"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "COLUMNS": "200",
    }


@pytest.fixture
def numerator(environment):
    """Runs the command line in this process: `numerator("rollout", "list")` gives exit_code, stdout, stderr."""

    def run(*arguments: str, **more: str):
        result = CliRunner().invoke(
            application(*arguments[:1]), arguments, env={**environment, **more}, prog_name="numerator"
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return SimpleNamespace(exit_code=result.exit_code, stdout=result.stdout, stderr=result.stderr)

    return run
