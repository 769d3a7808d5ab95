"""`python -m gateway` as it is started in earnest."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway.catalogue import stub_files
from gateway.tests.conftest import PRIVATE_PEM
from services.chassis.testing.servers import free_ports
from services.chassis.testing.waiting import eventually

ROOT = Path(__file__).parents[2]
SERVICES = {
    file.package.split(".")[1]
    for file in stub_files()
    if file.services_by_name and "gatewaytest" not in file.package
}


@pytest.fixture
def environment(tmp_path, service_servers):
    """The variables of a gateway before the fakes."""
    port, metrics = free_ports(2)
    key = tmp_path / "key.pem"
    key.write_text(PRIVATE_PEM)
    return {
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "GATEWAY_METRICS_PORT": str(metrics),
        "GATEWAY_PRIVATE_KEY_FILE": str(key),
        "GATEWAY_SNAPSHOT_FILE": str(tmp_path / "snapshot"),
        "AMQP_URL": "amqp://guest:guest@127.0.0.1:1/",
        **{f"GATEWAY_SERVICES__{name.upper()}": service_servers.address for name in SERVICES},
    }


def start(environment):
    return subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_process__serves_measures_and_ends(environment, tmp_path):
    """It serves every service's routes, shows metrics, keeps the snapshot, and ends cleanly on SIGTERM."""
    url = f"http://{environment['GATEWAY_LISTEN']}"
    process = start(environment)
    try:

        def ready():
            try:
                return httpx.get(f"{url}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready, timeout=30)
        paths = httpx.get(f"{url}/openapi.json").json()["paths"]
        metrics = httpx.get(f"http://127.0.0.1:{environment['GATEWAY_METRICS_PORT']}/metrics").text
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0, output
    assert "/v1/enterprises" in paths
    assert "http_server_request_duration_seconds_bucket" in metrics
    assert "numerator_gateway_snapshot_version" in metrics
    assert (tmp_path / "snapshot").exists()
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"GATEWAY_SERVICES__ACCOUNTS": None}, "no address for accounts"),
        ({"GATEWAY_PUBLIC_URL": "ftp://x/"}, "GATEWAY_PUBLIC_URL"),
        ({"GATEWAY_PRIVATE_KEY_FILE": "/nowhere"}, "GATEWAY_PRIVATE_KEY_FILE: cannot read /nowhere"),
    ],
)
def test_process__says_what_is_missing(environment, change, says):
    """A wrong setting ends the process with a line that names it."""
    changed = {name: value for name, value in {**environment, **change}.items() if value is not None}
    process = start(changed)
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert says in output
    assert "Traceback" not in output
