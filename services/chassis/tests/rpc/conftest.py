"""A contract of the tests' own, compiled for them, and a servicer whose every method is a function that a test gives."""

import importlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import grpc_tools
import pytest
from grpc_tools import protoc

from deploy.local.stubs import PROTOS, google_protos
from services.chassis.testing.rpc import Offer


@pytest.fixture(scope="session")
def greeter(tmp_path_factory):
    """The modules made of greeter.proto: `pb` and `grpc`, and the service descriptors `service` and `open_service`."""
    built = tmp_path_factory.mktemp("stubs")
    here = Path(__file__).parent
    failed = protoc.main(
        [
            "protoc",
            *(
                f"-I{folder}"
                for folder in (here, PROTOS, google_protos(), Path(grpc_tools.__file__).parent / "_proto")
            ),
            f"--python_out={built}",
            f"--grpc_python_out={built}",
            str(here / "greeter.proto"),
        ]
    )
    assert not failed
    sys.path.insert(0, str(built))
    try:
        pb, grpc_module = importlib.import_module("greeter_pb2"), importlib.import_module("greeter_pb2_grpc")
    finally:
        sys.path.remove(str(built))
    services = pb.DESCRIPTOR.services_by_name
    return SimpleNamespace(
        pb=pb, grpc=grpc_module, service=services["GreeterService"], open_service=services["OpenService"]
    )


@pytest.fixture
def offer(greeter) -> Callable[..., Offer]:
    """Makes an offer of the service whose methods are the given functions: `offer(GetThing=lambda request, context: …)`."""

    def make(**methods) -> Offer:
        servicer = greeter.grpc.GreeterServiceServicer()
        for name, method in methods.items():
            setattr(servicer, name, method)
        return Offer(greeter.grpc.add_GreeterServiceServicer_to_server, servicer, greeter.service)

    return make


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port
