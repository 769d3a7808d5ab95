"""`python -m gateway` as it is started in earnest."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from gateway.catalogue import stub_files
from gateway.revocations import PULL_SECONDS
from gateway.tests.conftest import PRIVATE_PEM
from services.chassis.errors import Kind, ServiceError
from services.chassis.testing.measures import measured_at
from services.chassis.testing.probing import probe
from services.chassis.testing.proxy import Proxy
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
    """It serves every service's routes, shows metrics, keeps what it serves, and ends cleanly on SIGTERM."""
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
    assert "numerator_gateway_snapshot_version 1.0" in metrics
    assert "numerator_gateway_admissions_version 1.0" in metrics
    assert {path.name for path in tmp_path.glob("snapshot*")} == {"snapshot", "snapshot.admissions"}
    assert "Traceback" not in output


def test_process__measures_its_list_of_revocations(environment, service_servers):
    """The age of the list grows while accounts cannot be asked, and what is known stays."""
    apps, port = service_servers.apps, int(environment["GATEWAY_METRICS_PORT"])
    apps.__init__()
    apps.revoke("enterprises/x/members/gone", time.time())
    known, age = "numerator_gateway_revocations_known", "numerator_gateway_revocations_age_seconds"
    process = start(environment)
    try:
        eventually(lambda: probe(port, "/readyz").status == 200, timeout=30)
        assert (measured_at(port, known), measured_at(port, age) < PULL_SECONDS + 1) == (1, True)
        apps.error = ServiceError(Kind.UNAVAILABLE, "AWAY", "away")
        eventually(lambda: measured_at(port, age) > PULL_SECONDS + 1, timeout=30)
        assert measured_at(port, known) == 1
    finally:
        apps.__init__()
        process.kill()
        process.communicate()


def test_process__tells_that_it_leaves_while_it_takes_requests(environment):
    """A lame duck: after SIGTERM balancers hear 503 at once, on both ports, and every request is answered meanwhile."""
    url, metrics = f"http://{environment['GATEWAY_LISTEN']}", int(environment["GATEWAY_METRICS_PORT"])
    process = start({**environment, "GATEWAY_LAME_DUCK_SECONDS": "5"})
    try:
        eventually(lambda: probe(metrics, "/readyz").status == 200, timeout=30)
        with httpx.Client(base_url=url) as before:
            opened = before.get("/openz").status_code
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(f"{url}/openz").status_code == 503, timeout=1)
            ready = httpx.get(f"{url}/readyz"), probe(metrics, "/readyz"), probe(metrics, "/healthz").status
            answers = [httpx.get(f"{url}/docs").status_code for _ in range(5)]
            kept = before.get("/docs")
            answered = time.monotonic() - began
        output, _ = process.communicate(timeout=20)
        ended = time.monotonic() - began
    finally:
        process.kill()
        process.wait()

    assert opened == 200
    assert (ready[0].status_code, ready[0].json()["reason"]) == (503, "it stops")
    assert ready[1:] == ((503, "it stops"), 200)
    assert answered < 5  # or the next line proves nothing
    assert answers == [200] * 5
    assert (kept.status_code, kept.headers["connection"]) == (200, "close")
    assert ended >= 5
    assert process.returncode == 0, output


def test_process__a_second_signal_does_not_wait(environment):
    """Who asks twice means it."""
    metrics = int(environment["GATEWAY_METRICS_PORT"])
    process = start({**environment, "GATEWAY_LAME_DUCK_SECONDS": "50"})
    try:
        eventually(lambda: probe(metrics, "/readyz").status == 200, timeout=30)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: probe(metrics, "/readyz").status == 503, timeout=2)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0, output


def test_process__is_ready_with_all_services_and_open_without(environment, service_servers):
    """
    M13: /readyz turns within 2 seconds with a service's loss and return, also when it hangs; the gateway stays alive, and
    open to balancers.
    """
    url, metrics = f"http://{environment['GATEWAY_LISTEN']}", int(environment["GATEWAY_METRICS_PORT"])
    (port,), target = free_ports(1), int(service_servers.address.rpartition(":")[2])
    proxy = Proxy(port, target)
    process = start({**environment, "GATEWAY_SERVICES__TARGETING": f"127.0.0.1:{port}"})
    try:
        eventually(lambda: probe(metrics, "/readyz") == (200, "ok"), timeout=30)
        proxy.forwarding.clear()
        eventually(lambda: probe(metrics, "/readyz") == (503, "missing: targeting"), timeout=2)
        states = httpx.get(f"{url}/readyz").json()["services"]
        opened = httpx.get(f"{url}/openz").status_code, probe(metrics, "/healthz").status
        proxy.forwarding.set()
        eventually(lambda: probe(metrics, "/readyz").status == 200, timeout=2)
        proxy.close()
        eventually(lambda: probe(metrics, "/readyz").status == 503, timeout=2)
        proxy = Proxy(port, target)
        eventually(lambda: probe(metrics, "/readyz").status == 200, timeout=3)
    finally:
        process.kill()
        process.communicate()
        proxy.close()

    assert states == {**dict.fromkeys(SERVICES, "SERVING"), "targeting": "UNREACHABLE"}
    assert opened == (200, 200)


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
