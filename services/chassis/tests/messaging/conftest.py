"""A broker, a database and worker processes to test messaging with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.local.rabbitmq import RabbitMQ
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.servers import ROOT, free_ports
from services.chassis.tests.messaging.helpers import Broker, OwnBroker, Sample, WorkerProcess

MIGRATIONS = Path(__file__).parent / "migrations"
START = (
    "from datetime import timedelta;"
    "import services.chassis.settings;"  # as services.chassis.process does
    "from services.chassis.messaging.launcher import Options, run_worker;"
    "run_worker('services.chassis.tests.messaging.sample:Worker',"
    "'services.chassis.tests.messaging.sample:SampleSettings', Options({options}))"
)


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase]) -> Sample:
    """A fresh database of the sample service."""
    database = make_database("sample", MIGRATIONS)
    database.__class__ = Sample
    return database


@pytest.fixture
def broker(amqp_url: str) -> Broker:
    """The broker of all tests, with the sample's queues, empty."""
    broker = Broker(amqp_url)
    broker.clean()
    return broker


@pytest.fixture
def own_broker() -> Iterator[OwnBroker]:
    """A broker for one test, prepared but not started."""
    server = RabbitMQ(ROOT / ".local" / f"test-messaging-{os.getpid()}", *free_ports(3))
    server.prepare()
    yield OwnBroker(server)
    server.stop()
    shutil.rmtree(server.place, ignore_errors=True)
    shutil.rmtree(server.home, ignore_errors=True)


@pytest.fixture
def start_worker(
    database: Sample, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts sample workers: `start_worker(amqp_url, concurrency=2)`; see `launcher.Options`."""
    started: list[WorkerProcess] = []
    parts = conninfo_to_dict(database.url)
    url = f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:%d/{parts['dbname']}"

    def start(
        amqp_url: str | None = None,
        *,
        ready: bool = True,
        collector: str = "",
        database_port: int = database.port,
        **options: object,
    ) -> WorkerProcess:
        log, (port,) = tmp_path / f"worker-{len(started)}.log", free_ports(1)
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}",
            "PYTHONWARNINGS": "ignore::DeprecationWarning",
            "SAMPLE_DATABASE_URL": url % database_port,
            "SAMPLE_METRICS_PORT": str(port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "AMQP_URL": amqp_url or request.getfixturevalue("broker").url,
            "PRINCIPAL_PUBLIC_KEY": "-----BEGIN PUBLIC KEY-----",
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    START.format(options=", ".join(f"{k}={v}" for k, v in options.items())),
                ],
                env=environment,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        worker = WorkerProcess(process, log, port)
        started.append(worker)
        if ready:
            worker.wait_for("consumer.connected")
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()
        print(f"--- {worker.log.name}\n{worker.log.read_text()[-6000:]}")  # noqa: T201 -- pytest shows it on failure
