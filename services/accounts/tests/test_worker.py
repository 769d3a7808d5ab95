"""What the worker does with events: the use cases, and the processes as they run."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import grpc
import pika
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import accounts_pb2_grpc as pb_grpc
from numerator.events.v1 import accounts_pb2 as events
from numerator.events.v1.publishing_pb2 import AccountTokenRefused
from psycopg.conninfo import conninfo_to_dict

from services.accounts.tests.world import (
    NETWORK_SECRET,
    OPERATOR_SECRET,
    PASSWORD,
    REDIRECT_URI,
    REVIEWER_SECRET,
    SERVER,
    Company,
    World,
)
from services.accounts.usecases import accounts
from services.chassis.database import PLATFORM, Tenant
from services.chassis.errors import ServiceError
from services.chassis.events import encode, event_type
from services.chassis.ids import new_id
from services.chassis.messaging.envelope import make_headers
from services.chassis.testing.measures import measured_at
from services.chassis.testing.rpc import anonymous, metadata_of, shared_keys
from services.chassis.testing.servers import ROOT, free_ports
from services.chassis.testing.waiting import eventually


def refuse(world: World, company: Company, account: str) -> None:
    with world.database.transaction(Tenant(company.name)) as tx:
        accounts.require_reauthorization(tx, account, actor="publishing", told=world.clock.now())


def test_reauthorization__is_required_once(world: World) -> None:
    """A refused token makes the account REAUTH_REQUIRED and is told; the same again changes nothing."""
    company = world.register()
    account = world.bind(company, "brand")
    world.clock.advance(timedelta(minutes=1))
    refuse(world, company, account.name)
    refuse(world, company, account.name)
    found = world.as_(company.owner).GetAccount(pb.GetAccountRequest(name=account.name))
    assert found.state == pb.Account.REAUTH_REQUIRED
    assert [told.account for told in world.told(events.AccountReauthRequired)] == [account.name]
    assert world.bind(company, "brand").state == pb.Account.ACTIVE


def test_reauthorization__of_an_account_of_another_enterprise_is_refused(world: World) -> None:
    """An event of one enterprise cannot touch another's account."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    account = world.bind(company, "brand")
    with pytest.raises(ServiceError) as refused:
        refuse(world, other, account.name)
    assert refused.value.reason == "NOT_FOUND"


def test_purge__forgets_bindings_after_a_day(world: World) -> None:
    """Until then a late caller is told why the state does not work."""
    company = world.register()
    world.start(company)
    for age, left in ((timedelta(hours=24), 1), (timedelta(minutes=11), 0)):
        world.clock.advance(age)
        with world.database.transaction(PLATFORM) as tx:
            accounts.purge(tx)
        assert len(world.rows("bindings")) == left


class Processes:
    """The service's processes, on a database and a broker."""

    def __init__(self, world: World, amqp_url: str, logs: Path) -> None:
        self.grpc_port, *ports = free_ports(3)
        self.ports = dict(zip(("api", "worker"), ports, strict=True))
        """Of the metrics."""
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []
        public = world.publishing_key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        (logs / "publishing.pub.pem").write_bytes(public)
        self._environment = os.environ | {  # noqa: TID251 -- what a child process gets
            "PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}",
            "DATABASE_ADMIN_URL": _url(world.database.admin_url),
            "ACCOUNTS_DATABASE_URL": _url(world.database.url),
            "AMQP_URL": amqp_url,
            "PRINCIPAL_PUBLIC_KEY": shared_keys().public,
            "ACCOUNTS_GRPC_ADDRESS": f"127.0.0.1:{self.grpc_port}",
            "ACCOUNTS_MASTER_KEY": base64.b64encode(os.urandom(32)).decode(),
            "ACCOUNTS_PUBLISHING_PUBLIC_KEY_FILE": str(logs / "publishing.pub.pem"),
            "ACCOUNTS_OPERATOR_SECRET": OPERATOR_SECRET,
            "ACCOUNTS_OPERATORS": json.dumps({"reviewer": REVIEWER_SECRET}),
            "ACCOUNTS_NETWORK_SECRET": NETWORK_SECRET,
            "ACCOUNTS_NETWORK_SERVERS": f'["{SERVER}"]',
            "ACCOUNTS_BINDING_REDIRECT_URI": REDIRECT_URI,
        }

    def run(self, name: str) -> None:
        """Run a process to its end, which must be a good one."""
        self.start(name)
        assert self._running[-1].wait(60) == 0, (self._logs / name).read_text()

    def start(self, name: str) -> None:
        """Start a process."""
        environment = self._environment | {"ACCOUNTS_METRICS_PORT": str(self.ports.get(name, 0))}
        command = [sys.executable, "-m", "services.accounts", name]
        with (self._logs / name).open("wb") as output:
            self._running.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )

    def stop(self) -> None:
        """Ask all to end, which they must do well."""
        for process in self._running:
            process.terminate()
        codes = [process.wait(30) for process in self._running]
        assert codes == [0] * len(codes), "\n".join(path.read_text() for path in self._logs.iterdir())


def _url(conninfo: str) -> str:
    return "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(
        **{"password": "", **conninfo_to_dict(conninfo)}
    )


@pytest.fixture
def processes(world: World, amqp_url: str, tmp_path: Path) -> Iterator[Processes]:
    """The service's processes."""
    processes = Processes(world, amqp_url, tmp_path)
    with ExitStack() as stack:
        stack.callback(processes.stop)
        yield processes


@pytest.mark.slow
def test_processes__serve_tell_and_listen(world: World, processes: Processes, amqp_url: str) -> None:
    """migrate, api and worker: what the api writes the worker tells, and what publishing tells the worker writes."""
    company = world.register()
    account = world.bind(company, "brand")
    world.clock.advance(timedelta(minutes=1))
    processes.run("migrate")
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "numerator.events", "accounts.#")

        processes.start("api")
        processes.start("worker")
        with grpc.insecure_channel(f"127.0.0.1:{processes.grpc_port}") as served:
            health = health_pb2_grpc.HealthStub(served)
            check = health_pb2.HealthCheckRequest(service="numerator.accounts.v1.AccountsService")
            assert (
                health.Check(check, timeout=20, wait_for_ready=True).status
                == health_pb2.HealthCheckResponse.SERVING
            )
            created = pb_grpc.AccountsServiceStub(served).RegisterEnterprise(
                pb.RegisterEnterpriseRequest(
                    display_name="Kunlun Tours", owner_email="owner@kunlun.example", owner_password=PASSWORD
                ),
                metadata=metadata_of(anonymous()),
                timeout=10,
            )

        def told() -> set[tuple[str, str]]:
            while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
                seen.add((message[0].routing_key, message[1].headers["subject"]))
            return {(event_type(events.EnterpriseRegistered), created.name)} <= seen and seen

        seen: set[tuple[str, str]] = set()
        eventually(told, timeout=20)
        # What was in the outbox before the worker started is told as well.
        assert (event_type(events.AccountBound), account.name) in seen

        refused = AccountTokenRefused(account=account.name)
        content_type, body = encode(refused)
        headers = make_headers(
            event_id=new_id(),
            event_type=event_type(AccountTokenRefused),
            source="publishing",
            subject=account.name,
            ordering_key=account.name,
            time=world.clock.now(),
            enterprise=company.name,
            traceparent="",
        )
        properties = pika.BasicProperties(content_type=content_type, headers=headers, delivery_mode=2)
        channel.basic_publish("numerator.events", event_type(AccountTokenRefused), body, properties)
        eventually(lambda: world.rows("accounts")[0]["state"] == "REAUTH_REQUIRED", timeout=20)
        # What dashboards show is read every ten seconds.
        gauge = "numerator_accounts_accounts"
        eventually(
            lambda: measured_at(processes.ports["worker"], gauge, state="REAUTH_REQUIRED") == 1, timeout=30
        )
