"""A service's processes as they run in production: started, called and stopped by a test."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg.conninfo import conninfo_to_dict

from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import shared_keys
from services.chassis.testing.servers import ROOT, free_ports

_STOP_SECONDS = 30


class Processes:
    """
    `python -m services.<service> …` on a test's database and broker, with ports of their own.

    Args:
        service: the service's name.
        database: of the service.
        amqp_url: the broker.
        logs: a folder for what the processes say, each in a file of its name.
        settings: the service's own variables, as `PLACEMENT_TOKEN_KEY`.

    """

    def __init__(
        self, service: str, database: TemporaryDatabase, amqp_url: str, logs: Path, **settings: str
    ) -> None:
        prefix = service.upper()
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self._service = service
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,  # noqa: TID251 -- what a child process gets
            "PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}",
            "DATABASE_ADMIN_URL": url_of(database.admin_url),
            f"{prefix}_DATABASE_URL": url_of(database.url),
            "AMQP_URL": amqp_url,
            "PRINCIPAL_PUBLIC_KEY": shared_keys().public,
            f"{prefix}_GRPC_ADDRESS": self.address,
            f"{prefix}_METRICS_PORT": "0",
            **settings,
        }

    def run(self, process: str) -> None:
        """Run a process to its end, which must be a good one."""
        code = self._start(process).wait(2 * _STOP_SECONDS)
        assert code == 0, (self._logs / process).read_text()

    def start(self, process: str) -> None:
        """Start a process."""
        self._running[process] = self._start(process)

    def kill(self, process: str) -> None:
        """End a process at once, as kill -9 does."""
        killed = self._running.pop(process)
        killed.kill()
        killed.wait(_STOP_SECONDS)

    @contextmanager
    def serving(self, service: ServiceDescriptor, timeout: float = 30) -> Iterator[grpc.Channel]:
        """A channel to the api process, which must be healthy within `timeout` seconds."""
        with grpc.insecure_channel(self.address) as channel:
            status = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=service.full_name),
                timeout=timeout,
                wait_for_ready=True,
            )
            for each in status:
                if each.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            status.cancel()
            yield channel

    def stop(self) -> None:
        """Ask all to end, which they must do well."""
        for process in self._running.values():
            process.terminate()
        codes = [process.wait(_STOP_SECONDS) for process in self._running.values()]
        self._running.clear()
        assert codes == [0] * len(codes), "\n".join(path.read_text() for path in self._logs.iterdir())

    def _start(self, process: str) -> subprocess.Popen[bytes]:
        with (self._logs / process).open("wb") as output:
            return subprocess.Popen(  # noqa: S603 -- our own program
                [sys.executable, "-m", f"services.{self._service}", process],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


def url_of(conninfo: str) -> str:
    """A connection string as a URL, as settings want it."""
    return "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(
        **{"password": "", **conninfo_to_dict(conninfo)}
    )
