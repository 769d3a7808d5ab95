"""Calls to the services: one channel each, with the caller's principal and a deadline."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.catalogue import Method
from gateway.errors import Problem, from_rpc
from services.chassis.clock import Clock
from services.chassis.principal import METADATA_KEY, Principal, PrincipalSigner
from services.chassis.rpc.channel import aio_channel, channel

R = TypeVar("R", bound=Message)
_HEALTH_SECONDS = 1.0
_AWAY = frozenset({grpc.ChannelConnectivity.CONNECTING, grpc.ChannelConnectivity.TRANSIENT_FAILURE})


class Backends:
    """The services behind the gateway. Make it in the event loop that uses it."""

    def __init__(
        self, addresses: Mapping[str, str], files: list[FileDescriptor], signer: PrincipalSigner, clock: Clock
    ) -> None:
        """Raises ValueError when a service has no address."""
        offered: dict[str, list[ServiceDescriptor]] = {}
        for file in files:
            for service in file.services_by_name.values():
                offered.setdefault(file.package.split(".")[1], []).append(service)
        missing = offered.keys() - addresses.keys()
        if missing:
            raise ValueError(f"no address for {', '.join(sorted(missing))}: set GATEWAY_SERVICES")
        self._signer = signer
        self._clock = clock
        self._channels = {
            name: aio_channel(addresses[name], services=services) for name, services in offered.items()
        }
        self._upload_channels = {
            name: channel(addresses[name], services=services)
            for name, services in offered.items()
            if any(method.client_streaming for service in services for method in service.methods)
        }

    async def close(self) -> None:
        for each in self._channels.values():
            await each.close()
        for upload_channel in self._upload_channels.values():
            upload_channel.close()

    def begin(self, method: Method, principal: Principal, seconds: float, request: Message) -> Any:
        """Begin a call with one request, and give grpc.aio's call object."""
        through = self._channels[method.service]
        streams = method.descriptor.server_streaming
        arity: Any = through.unary_stream if streams else through.unary_unary
        call = arity(
            method.rpc_path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        return call(request, timeout=seconds, metadata=self._metadata(principal))

    def begin_upload(
        self, method: Method, principal: Principal, seconds: float, requests: Iterator[Message]
    ) -> Any:
        """Begin a call with a stream of requests, and give gRPC's future; see `gateway.uploads`."""
        call = self._upload_channels[method.service].stream_unary(
            method.rpc_path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        return call.future(requests, timeout=seconds, metadata=tuple(self._metadata(principal)))

    async def ask(
        self, service: str, rpc_path: str, request: Message, reply: type[R], principal: Principal
    ) -> R:
        """One call of the gateway's own. Raises the Problem that its failure is."""
        call = self._channels[service].unary_unary(
            rpc_path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            return await call(request, metadata=self._metadata(principal))
        except grpc.aio.AioRpcError as error:
            raise self.problem(error, service) from None

    def problem(self, error: grpc.RpcError, service: str) -> Problem:
        """What a failed call is for a client."""
        problem = from_rpc(error, service)
        # Calls wait for a service that is away; when it stays away, that is what the client should hear.
        away = self._channels[service].get_state() in _AWAY
        if problem.reason == "DEADLINE_EXCEEDED" and away:
            return unavailable(service)
        return problem

    @property
    def names(self) -> list[str]:
        """The services' names."""
        return list(self._channels)

    async def health(self, name: str) -> str:
        """A service's own word on its health, as `SERVING`, or `UNREACHABLE`; within a second."""
        stub = health_pb2_grpc.HealthStub(self._channels[name])
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS)
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    def _metadata(self, principal: Principal) -> list[tuple[str, str]]:
        return [(METADATA_KEY, self._signer.sign(principal, self._clock.now()))]


def unavailable(service: str) -> Problem:
    """503: the service is away."""
    return Problem(
        503,
        "UNAVAILABLE",
        f"the {service} service cannot be reached; try again",
        metadata={"service": service},
        retry_after=timedelta(seconds=1),
    )
