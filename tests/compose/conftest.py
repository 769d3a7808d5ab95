"""The stack in a real engine, started by pytest-docker for all tests of this folder. Without an engine they fail."""

import shlex
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_docker.plugin import Services

from deploy.compose import image
from deploy.compose.secrets import make_secrets
from deploy.compose.settings import ComposeSettings
from deploy.compose.stack import PROFILES, Stack
from deploy.local.stubs import ROOT
from tests.compose.outside import Outside

PORTS = 8900
HERE = Path(__file__).parent
HOME = ROOT / ".local" / "test-compose"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs an engine and takes its time."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.compose)
            item.add_marker(pytest.mark.timeout(600))


Note = Callable[[str, object], None]
"""`record_property` of pytest: `make verify-containers` shows what a test has noted as a row of its table."""


@pytest.fixture(scope="session", autouse=True)
def localhost() -> Iterator[None]:
    """Names under .localhost are this machine (RFC 6761). Browsers know; the C library of some systems does not."""
    real = socket.getaddrinfo

    def resolve(host: str | bytes | None, *rest: object, **more: object) -> list[tuple]:
        return real("127.0.0.1" if str(host).endswith(".localhost") else host, *rest, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        yield


@pytest.fixture(scope="session")
def settings() -> ComposeSettings:
    """A project, ports and secrets apart from those that a person uses."""
    return ComposeSettings(
        numerator_project="numerator-test",
        numerator_image="numerator:test",
        numerator_port=PORTS,
        numerator_sandbox_port=PORTS + 1,
        numerator_prometheus_port=PORTS + 2,
        numerator_dashboards_port=PORTS + 3,
        numerator_otlp_port=PORTS + 4,
        numerator_secrets=HOME / "secrets",
    )


@pytest.fixture(scope="session")
def built(settings: ComposeSettings) -> str:
    """The image, built from this checkout; its name."""
    return image.build(Stack(settings))


@pytest.fixture(scope="session")
def docker_compose_command(settings: ComposeSettings) -> str:
    """With the project's settings, and all profiles."""
    own = [f"{name}={value}" for name, value in settings.own_variables().items()]
    profiles = [part for name in PROFILES for part in ("--profile", name)]
    return shlex.join(["env", *own, "docker", "compose", *profiles])


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    """The one that people use."""
    return str(ROOT / "docker-compose.yml")


@pytest.fixture(scope="session")
def docker_compose_project_name(settings: ComposeSettings) -> str:
    """Always the same, so that the next run removes what an interrupted one has left."""
    return settings.numerator_project


@pytest.fixture(scope="session")
def docker_setup(settings: ComposeSettings, built: str) -> list[str]:
    """From nothing."""
    make_secrets(settings.numerator_secrets, settings.sandbox_url)
    return ["down --volumes --remove-orphans --timeout 5", "up --detach --wait --wait-timeout 240"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    """Leaves nothing but the images."""
    return ["down --volumes --remove-orphans --timeout 20"]


@pytest.fixture(scope="session")
def coming_up(built: str) -> float:
    """When the stack began to come up, in seconds of `time.monotonic`."""
    return time.monotonic()


@pytest.fixture(scope="session")
def up_seconds(coming_up: float, docker_services: Services) -> float:
    """How long it took from nothing but images until all was healthy."""
    return time.monotonic() - coming_up


@pytest.fixture(scope="session")
def stack(up_seconds: float, settings: ComposeSettings) -> Stack:
    """The running stack."""
    return Stack(settings)


@pytest.fixture(scope="session")
def outside(stack: Stack) -> Outside:
    """Those who use the stack from outside; the story is told up to the bound accounts."""
    outside = Outside(stack)
    outside.prepare()
    return outside
