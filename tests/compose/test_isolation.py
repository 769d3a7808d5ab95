"""What a container may, sees and can reach: as little as its work needs."""

import json
import socket
from typing import Any

import httpx
import pytest

from deploy.compose.settings import ComposeSettings
from deploy.compose.stack import Stack, StackError
from tests.compose.test_recovery import KILLED

STORES = ("postgres", "rabbitmq")
LISTENING = {"postgres": 5432, "rabbitmq": 5672, "gateway": 8080, "balancer": 8080, "prometheus": 9090,
             "dashboards": 3000, "otlp": 4318}  # fmt: skip
"""Where containers listen besides api processes, on 50051, and what else is ours, on its metrics port."""
REACH = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reached(place):
    try:
        socket.create_connection(place, 3).close()
    except OSError:
        return False
    return True

places = [tuple(place) for place in json.loads(sys.argv[1])]
with ThreadPoolExecutor(50) as pool:
    print(json.dumps([place for place, good in zip(places, pool.map(reached, places)) if good]))
"""


@pytest.fixture(scope="module")
def configured(stack: Stack) -> dict[str, Any]:
    """docker-compose.yml as Compose understands it."""
    configured: dict[str, Any] = json.loads(stack.compose("config", "--format", "json"))
    return configured


@pytest.mark.parametrize("service", KILLED)
def test_container__our_own__is_nobody_in_particular(stack: Stack, service: str) -> None:
    """Neither root nor able to become it, on a file system that it cannot write, within limits."""
    for container in stack.containers(service):
        found = stack.inspect(container)
        host = found["HostConfig"]

        assert found["Config"]["User"] not in {"", "0", "root", "0:0"}
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0
        assert host["NanoCpus"] > 0
        assert host["PidsLimit"] > 0


def test_container__writes_where_it_must_not__cannot(stack: Stack) -> None:
    """The root file system is read-only in effect, not only by name."""
    with pytest.raises(StackError, match="Read-only file system"):
        stack.docker("exec", stack.containers("accounts-api")[0], "bash", "-c", "echo x >/app/x")


def test_network__services__have_no_way_out(stack: Stack, settings: ComposeSettings) -> None:
    """A service without business outside cannot open a connection to there, nor ask for a name there."""
    probe = "import socket; socket.create_connection(('{}', {}), 3)"
    for service in ("rollout-api", "analytics-worker", "publishing-api"):
        (container,) = stack.containers(service)
        for host, port in (
            ("198.51.100.7", 443),
            (stack.addresses("sandbox", "outside")[0], settings.numerator_sandbox_port),
        ):
            with pytest.raises(StackError, match=r"unreachable|timed out"):
                stack.docker("exec", container, "python", "-c", probe.format(host, port))


def test_network__webhooks__reach_partners_and_nobody_who_listens_here(
    stack: Stack, settings: ComposeSettings
) -> None:
    """Whatever a URL of a customer's leads to: the sender finds its database, and who measures it, and a way out."""
    partner = stack.docker(
        "run", "--detach", "--rm", "--network", f"{stack.project}_partners", "--entrypoint", "python",
        stack.settings.numerator_image, "-m", "http.server", "8000",
    ).strip()  # fmt: skip
    try:
        places = {
            (network["IPAddress"], port): service
            for service in [*KILLED, *STORES, "prometheus", "dashboards", "otlp"]
            for port in [_port(service, settings)]
            for container in stack.containers(service)
            for network in stack.inspect(container)["NetworkSettings"]["Networks"].values()
        }
        (network,) = stack.inspect(partner)["NetworkSettings"]["Networks"].values()
        places[network["IPAddress"], 8000] = "a partner's system"

        def reached(by: str) -> set[str]:
            asked = json.dumps(list(places))
            told = stack.docker("exec", stack.containers(by)[0], "python", "-c", REACH, asked)
            return {places[host, port] for host, port in json.loads(told)}

        others = reached("accounts-api")
        assert {"rabbitmq", "postgres", "rollout-api", "gateway", "sandbox"} <= others
        assert "a partner's system" not in others
        assert reached("accounts-webhooks") == {
            "accounts-webhooks", "postgres", "prometheus", "otlp", "a partner's system",
        }  # fmt: skip
    finally:
        stack.docker("rm", "--force", partner)


def _port(service: str, settings: ComposeSettings) -> int:
    if service == "sandbox":
        return settings.numerator_sandbox_port
    return LISTENING.get(service, 50051 if service.endswith("-api") else 9464)


def test_network__published_ports__are_those_for_people_and_on_loopback(
    stack: Stack, configured: dict[str, Any]
) -> None:
    """The balancer, the sandbox, and what shows telemetry: nobody else's ports leave the engine."""
    published = {
        name: {port.get("host_ip") for port in service["ports"]}
        for name, service in configured["services"].items()
        if service.get("ports")
    }

    assert set(published) == {"balancer", "sandbox", "prometheus", "dashboards", "otlp"}
    assert {address for hosts in published.values() for address in hosts} == {"127.0.0.1"}


@pytest.mark.parametrize("network", ["edge", "outside", "partners"])
def test_network__stores__are_not_where_the_outside_is(configured: dict[str, Any], network: str) -> None:
    """A balancer that is taken over finds gateways, and neither services nor stores."""
    there = {name for name, each in configured["services"].items() if network in each.get("networks", {})}

    assert not there & {*STORES, "broker"}
    assert not {name for name in there if name.endswith(("-migrate", "-api", "-worker"))} - {
        "accounts-api", "accounts-worker",
    }  # fmt: skip
    if network == "edge":
        assert there == {"balancer", "gateway"}
    if network == "partners":
        assert there <= {"accounts-webhooks", "story"}


def test_secrets__of_a_container__are_its_own_and_only_files(
    stack: Stack, settings: ComposeSettings, configured: dict[str, Any]
) -> None:
    """No secret stands in an environment, a command line or a label; nobody has another's password."""
    values = {
        line
        for file in settings.numerator_secrets.iterdir()
        for line in file.read_text().splitlines()
        if len(line) > 20 and "-----" not in line and not line.lstrip().startswith('"')
    }
    for service in [*KILLED, *STORES]:
        for container in stack.containers(service):
            told = json.dumps(stack.inspect(container))
            assert not [value for value in values if value in told], service
    for service, each in configured["services"].items():
        owner = service.rpartition("-")[0]
        foreign = {
            secret["source"]
            for secret in each.get("secrets", [])
            if secret["source"].endswith(("-database-url", "-amqp-url"))
            and not secret["source"].startswith(f"{owner or service}-")
        }
        assert not foreign, service


def test_database__each_service__sees_only_its_schema(stack: Stack) -> None:
    """The role that a container gets cannot read a neighbour's tables."""
    script = (
        "import psycopg; url = open('/run/secrets/rollout-database-url').read()\n"
        "psycopg.connect(url).execute('select * from accounts.enterprises')"
    )
    with pytest.raises(StackError, match="permission denied for schema accounts"):
        stack.docker("exec", stack.containers("rollout-api")[0], "python", "-c", script)


def test_gateways__two__both_are_given_work(stack: Stack, outside: object) -> None:
    """The balancer spreads requests over both, and each answers for itself."""
    shown = [
        httpx.get(f"http://{address}:9464/metrics", timeout=10).text
        for address in stack.addresses("gateway", "inside")
    ]
    assert ["http_server_request_duration_seconds_count" in each for each in shown] == [True, True]


def test_names__under_localhost__are_this_machine() -> None:
    """What this folder's tests rest on."""
    assert socket.getaddrinfo("sandbox.localhost", 80)[0][4][0] == "127.0.0.1"
