"""A real gRPC server in the test's own process, and callers of every kind for it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.protobuf.descriptor import ServiceDescriptor

from services.chassis.clock import SystemClock
from services.chassis.principal import METADATA_KEY, Principal, PrincipalSigner
from services.chassis.rpc.channel import channel
from services.chassis.rpc.server import Server
from services.chassis.telemetry import Telemetry, start_telemetry


class Keys(NamedTuple):
    """A key pair for principals, in PEM form."""

    private: str
    public: str


def new_keys() -> Keys:
    """A fresh pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Keys(private.decode(), public.decode())


@cache
def shared_keys() -> Keys:
    """The pair that all servers and callers of this test process share."""
    return new_keys()


@cache
def telemetry() -> Telemetry:
    """The telemetry of this test process; exports nowhere."""
    return start_telemetry("test", "api", 0)


def member(enterprise: str, roles: Iterable[str] = ("OWNER",), subject: str = "") -> Principal:
    """A member of `enterprises/x` with these roles."""
    return Principal("MEMBER", subject or f"{enterprise}/members/tester", enterprise, roles=frozenset(roles))


def client(enterprise: str, scopes: Iterable[str] = (), subject: str = "") -> Principal:
    """A partner app of `enterprises/x` with these scopes."""
    return Principal(
        "CLIENT", subject or f"{enterprise}/clients/tester", enterprise, scopes=frozenset(scopes)
    )


def operator() -> Principal:
    """Platform staff."""
    return Principal("OPERATOR", "operators/tester")


def gateway() -> Principal:
    """The gateway itself."""
    return Principal("GATEWAY", "gateway")


def anonymous() -> Principal:
    """Nobody, as the gateway presents them."""
    return Principal("ANONYMOUS", "anonymous")


def metadata_of(principal: Principal) -> tuple[tuple[str, str], ...]:
    """What to send so that a call comes from `principal`: `stub.GetX(request, metadata=metadata_of(…))`."""
    return ((METADATA_KEY, token_of(principal)),)


def token_of(principal: Principal) -> str:
    """The principal, signed with the test's key."""
    return PrincipalSigner(shared_keys().private).sign(principal, SystemClock().now())


class Offer(NamedTuple):
    """A service to be served: the generated `add_…_to_server`, the servicer, the service's descriptor."""

    register: Callable[[Any, Any], None]
    servicer: Any
    service: ServiceDescriptor


@dataclass(frozen=True, slots=True)
class _Settings:
    grpc_address: str
    principal_public_key: str
    tenant_check: bool
    connection_age_seconds: float
    lame_duck_seconds: float = 0.5


class RunningServer:
    """A server that runs. `Stub(running.as_(member("enterprises/a")))` calls it as a member."""

    def __init__(self, server: Server, services: list[ServiceDescriptor]) -> None:
        self.server = server
        self.address = f"127.0.0.1:{server.port}"
        self._services = services
        self._channels: list[grpc.Channel] = []

    def as_(self, principal: Principal) -> grpc.Channel:
        """A channel whose every call comes from `principal`; closed with the server."""
        opened = channel(self.address, services=self._services, principal_token=lambda: token_of(principal))
        self._channels.append(opened)
        return opened

    @property
    def channel(self) -> grpc.Channel:
        """A channel without a principal: calls bring their own, by `metadata=metadata_of(…)`."""
        opened = channel(self.address, services=self._services)
        self._channels.append(opened)
        return opened

    def close(self) -> None:
        """Close the channels, then stop the server at once."""
        for opened in self._channels:
            opened.close()
        self.server.stop(grace=0)


@contextmanager
def serving(
    *offers: Offer,
    address: str = "127.0.0.1:0",
    tenant_check: bool = True,
    connection_age_seconds: float = 0,
    **options: Any,
) -> Iterator[RunningServer]:
    """
    Serve, on a free port, through the same `Server` as in production.

    Args:
        offers: what to serve.
        address: where; port 0 takes a free one.
        tenant_check: False leaves it to row-level security alone to keep enterprises apart.
        connection_age_seconds: see `ServiceSettings`.
        options: of `Server`, as `threads=1`.

    """
    settings = _Settings(address, shared_keys().public, tenant_check, connection_age_seconds)
    server = Server(settings, options.pop("telemetry", None) or telemetry(), **options)
    for offer in offers:
        server.add(*offer)
    server.start()
    running = RunningServer(server, [offer.service for offer in offers])
    try:
        yield running
    finally:
        running.close()
