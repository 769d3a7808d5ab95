"""Whether a process on this machine is ready, as seen from outside. None waits, none raises."""

import http.client
import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT = 2.0
"""Seconds; on a busy machine an answer may take a while, and the next try would find it no less busy."""


def listening(port: int) -> bool:
    """Whether something accepts TCP connections."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def http_ok(port: int, path: str) -> bool:
    """Whether GET answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def grpc_serving(port: int) -> bool:
    """Whether the standard health service says SERVING for the whole server."""
    if not listening(port):  # a channel would first wait before it tries again
        return False
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
