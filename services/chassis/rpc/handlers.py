"""gRPC's method handlers: what generated code registers, taken apart and put together again."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc

S = TypeVar("S")
Behavior = Callable[..., Any]
if TYPE_CHECKING:
    MethodHandler: TypeAlias = grpc.RpcMethodHandler[Any, Any]  # generic in its type stubs only
else:
    MethodHandler = grpc.RpcMethodHandler

_ARITIES: dict[tuple[bool, bool], Callable[..., MethodHandler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class _Recorder:
    """Stands in for a grpc.Server while generated code registers a servicer."""

    def __init__(self) -> None:
        self.handlers: dict[str, dict[str, MethodHandler]] = {}

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """The same handlers in another form, for servers that are older than the generated code."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, MethodHandler]) -> None:
        self.handlers[service] = handlers


def recorded(register: Callable[[S, Any], None], servicer: S) -> dict[str, dict[str, MethodHandler]]:
    """The handlers that `register` would register, by service and method."""
    recorder = _Recorder()
    register(servicer, recorder)
    return recorder.handlers


def behavior_of(handler: MethodHandler) -> Behavior:
    """The function of a handler, whichever of the four kinds it is."""
    found: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return found  # type: ignore[no-any-return]


def with_behavior(handler: MethodHandler, behavior: Behavior) -> MethodHandler:
    """The same handler with another function."""
    make = _ARITIES[handler.request_streaming, handler.response_streaming]
    return make(behavior, handler.request_deserializer, handler.response_serializer)
