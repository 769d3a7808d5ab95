"""A gateway over HTTP, before real gRPC servers: one event loop for the whole run, as gRPC wants it."""

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from types import SimpleNamespace

import httpx
import pytest
import pytest_asyncio
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from numerator.accounts.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    apps_pb2,
    apps_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from numerator.analytics.v1 import analytics_pb2, analytics_pb2_grpc
from numerator.rollout.v1 import serving_pb2, serving_pb2_grpc

from gateway.app import Gateway
from gateway.http_protocol import bounded_protocol
from gateway.settings import GatewaySettings
from gateway.tests.fakes import Accounts, Analytics, Apps, Boxes, Rollouts, Sessions, api
from gateway.tests.snapshots_made import Told, document, envelope, record
from services.chassis.rpc.server import Server
from services.chassis.testing.rpc import telemetry
from services.chassis.testing.waiting import eventually

# As in the gateway's own process.
logging.getLogger("pika").setLevel(logging.CRITICAL)

KEY = Ed25519PrivateKey.generate()
PRIVATE_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
NEXT_KEY = Ed25519PrivateKey.generate()
NEXT_PRIVATE_PEM = NEXT_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
NEXT_PUBLIC_PEM = NEXT_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
"""The services take this one, too."""
NO_BROKER = "amqp://guest:guest@127.0.0.1:1/"


@dataclass
class Services:
    """The fakes behind the gateway, and where they listen."""

    boxes: Boxes
    rollouts: Rollouts
    analytics: Analytics
    apps: Apps
    sessions: Sessions
    address: str


def _open(rollouts: Rollouts) -> None:
    """The edition is open to enterprises/x."""
    rollouts.snapshot = envelope(document())
    rollouts.told = Told(record("ACTIVE", "enterprises/x"))


@pytest.fixture(scope="session")
def service_servers():
    """One server with all fakes, for the whole run."""
    boxes, rollouts, analytics, apps, sessions = Boxes(), Rollouts(), Analytics(), Apps(), Sessions()
    _open(rollouts)
    settings = SimpleNamespace(
        grpc_address="127.0.0.1:0",
        principal_public_key=PUBLIC_PEM + NEXT_PUBLIC_PEM,
        tenant_check=True,
        lame_duck_seconds=0.5,
        connection_age_seconds=0,
    )
    server = (
        Server(settings, telemetry())
        .add(
            api.grpc.add_BoxServiceServicer_to_server, boxes, api.pb.DESCRIPTOR.services_by_name["BoxService"]
        )
        .add(
            accounts_pb2_grpc.add_AccountsServiceServicer_to_server,
            Accounts(),
            accounts_pb2.DESCRIPTOR.services_by_name["AccountsService"],
        )
        .add(
            apps_pb2_grpc.add_AppServiceServicer_to_server,
            apps,
            apps_pb2.DESCRIPTOR.services_by_name["AppService"],
        )
        .add(
            sessions_pb2_grpc.add_SessionServiceServicer_to_server,
            sessions,
            sessions_pb2.DESCRIPTOR.services_by_name["SessionService"],
        )
        .add(
            serving_pb2_grpc.add_ServingServiceServicer_to_server,
            rollouts,
            serving_pb2.DESCRIPTOR.services_by_name["ServingService"],
        )
        .add(
            analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server,
            analytics,
            analytics_pb2.DESCRIPTOR.services_by_name["AnalyticsService"],
        )
    )
    server.start()
    yield Services(boxes, rollouts, analytics, apps, sessions, f"127.0.0.1:{server.port}")
    server.stop(1)


@pytest.fixture
def services(service_servers):
    """The fakes, as new."""
    boxes, rollouts = service_servers.boxes, service_servers.rollouts
    boxes.__init__()
    rollouts.__init__()
    service_servers.analytics.__init__()
    service_servers.apps.__init__()
    service_servers.sessions.__init__()
    _open(rollouts)
    yield service_servers
    boxes.slow.set()


def make_settings(address: str, **more) -> GatewaySettings:
    return GatewaySettings(
        services=dict.fromkeys(("gatewaytest", "accounts", "analytics", "rollout"), address),
        **{"amqp_url": NO_BROKER, "private_key": PRIVATE_PEM, **more},
    )


def _informed(gateway: Gateway) -> bool:
    """Whether it has admissions and revocations, and every service's word or silence."""
    return (
        bool(gateway.knowledge.serving)
        and gateway.revocations.informed
        and "UNKNOWN" not in gateway.health._states.values()
    )


@contextlib.asynccontextmanager
async def serving(settings: GatewaySettings, *, informed: bool = True):
    """A gateway on a free port, once it is `informed`: gives it, and a client for it."""
    gateway = Gateway(
        settings,
        files=[
            api.pb.DESCRIPTOR,
            accounts_pb2.DESCRIPTOR,
            apps_pb2.DESCRIPTOR,
            sessions_pb2.DESCRIPTOR,
            analytics_pb2.DESCRIPTOR,
            serving_pb2.DESCRIPTOR,
        ],
        descriptors=api.descriptors,
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            gateway.app,
            http=bounded_protocol(settings.header_bytes),
            lifespan="off",
            ws="none",
            log_config=None,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with gateway.running(), httpx.AsyncClient(base_url=url, timeout=10) as client:
                await asyncio.to_thread(
                    eventually, lambda: server.started and (_informed(gateway) or not informed)
                )
                yield SimpleNamespace(gateway=gateway, http=client, url=url)
        finally:
            server.should_exit = True
            await task


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(services):
    """A gateway with the default settings."""
    async with serving(make_settings(services.address)) as running:
        yield running


@pytest.fixture
def make_gateway(services):
    """Makes gateways with settings of the test's own, to be entered with `async with`."""
    return lambda informed=True, **settings: serving(
        make_settings(services.address, **settings), informed=informed
    )


@pytest_asyncio.fixture(loop_scope="session")
async def http(gateway):
    """A client without credentials."""
    return gateway.http


@pytest_asyncio.fixture(loop_scope="session")
async def member(gateway):
    """The headers of a member of enterprises/x."""
    return await log_in(gateway)


async def log_in(gateway) -> dict[str, str]:
    """The headers of a member of enterprises/x, at any gateway."""
    answer = await gateway.http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword"})
    return {"authorization": f"Bearer {answer.json()['access_token']}"}
