"""Partners' systems that are told of events, good ones and bad ones, and the sender as it runs."""

import asyncio
import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import Message
from psycopg.conninfo import conninfo_to_dict

from services.accounts.model.webhooks import Endpoint
from services.accounts.usecases import webhooks
from services.accounts.usecases.secrets import Vault
from services.chassis.database import PLATFORM, Tenant
from services.chassis.events import event_type
from services.chassis.ids import new_id
from services.chassis.messaging.envelope import Event
from services.chassis.principal import Principal
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import shared_keys
from services.chassis.testing.servers import ROOT, free_ports


@dataclass(frozen=True, slots=True)
class Request:
    """What a partner was posted."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    time: float


@dataclass
class Partner:
    """
    Answers by the path: `/200` or any other status (`/302` leads to `/moved`), `/hang` never, `/later` 503 with Retry-After.

    A last part of the path tells endpoints apart, as `/200/7`. `answers` has what to answer first, by path.
    """

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def of(self, path: str) -> list[Request]:
        """What came to a path, oldest first."""
        return [each for each in self.requests if each.path == path]

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Request(request.path, headers, body, time.time()))
        first = self.answers.get(request.path)
        kind = first.pop(0) if first else request.path.split("/")[1]
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "later":
            return web.Response(status=503, headers={"Retry-After": "120"})
        return web.Response(status=int(kind), headers={"Location": "/moved"} if kind == "302" else {})

    async def serve(self, ready: "Future[Callable[[], None]]") -> None:
        """Serve; gives to `ready` what ends it, from whatever thread."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
        self.port = runner.addresses[0][1]
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        ready.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
        await runner.cleanup()


@contextmanager
def partner() -> Iterator[Partner]:
    """A partner that listens, in a thread of its own."""
    found, ready = Partner(), Future[Callable[[], None]]()
    thread = threading.Thread(target=lambda: asyncio.run(found.serve(ready)))
    thread.start()
    stop = ready.result(10)
    try:
        yield found
    finally:
        stop()
        thread.join(10)


def enterprise(database: TemporaryDatabase) -> str:
    """A new enterprise."""
    name = f"enterprises/{new_id()}"
    with database.transaction(PLATFORM) as tx:
        tx.execute(
            """
            insert into enterprises (enterprise, display_name, industry, region, verification, verification_note, revision,
                                     create_time, update_time)
            values (%s, 'Tianshan Motors', '', '', 'VERIFIED', '', 1, now(), now())
            """,
            (name,),
        )
    return name


def endpoint(
    database: TemporaryDatabase, vault: Vault, owner: str, url: str, *event_types: str
) -> tuple[Endpoint, str]:
    """A new endpoint of an enterprise, and its secret."""
    caller = Principal("MEMBER", f"{owner}/members/m", owner, roles=frozenset({"OWNER"}))
    with database.transaction(Tenant(owner)) as tx:
        made, secret = webhooks.create_endpoint(
            tx, vault, owner, url=url, event_types=frozenset(event_types), description="", caller=caller
        )
    return made, secret.get_secret_value()


def tell(database: TemporaryDatabase, owner: str, message: Message) -> str:
    """Tell an enterprise's endpoints of an event, as the worker does; returns the event's id."""
    told = new_id()
    with database.transaction(Tenant(owner)) as tx:
        webhooks.tell(tx, Event(told, event_type(type(message)), "subject", owner, tx.now, message))
    return told


def environment(database: TemporaryDatabase, master_key: bytes) -> dict[str, str]:
    """The environment of the process `webhooks`, which may reach loopback."""
    public = X25519PrivateKey.generate().public_key()
    return os.environ | {  # noqa: TID251 -- what a child process gets
        "PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}",
        "ACCOUNTS_DATABASE_URL": url_of(database.url),
        "AMQP_URL": "amqp://nobody",
        "PRINCIPAL_PUBLIC_KEY": shared_keys().public,
        "ACCOUNTS_MASTER_KEY": base64.b64encode(master_key).decode(),
        "ACCOUNTS_PUBLISHING_PUBLIC_KEY": public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        "ACCOUNTS_OPERATOR_SECRET": "operator-secret-of-the-tests",
        "ACCOUNTS_NETWORK_SECRET": "network-secret-of-the-tests",
        "ACCOUNTS_NETWORK_SERVERS": '["https://social.example"]',
        "ACCOUNTS_BINDING_REDIRECT_URI": "https://console.example/bound",
        "ACCOUNTS_WEBHOOK_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
        "ACCOUNTS_WEBHOOK_PLAIN_HTTP": "true",
        "ACCOUNTS_WEBHOOK_ANY_PORT": "true",
        "LOG_LEVEL": "WARNING",
    }


def start(environment: Mapping[str, str], process: str = "webhooks") -> subprocess.Popen[bytes]:
    """A process of accounts; the caller ends it."""
    settings = {**environment, "ACCOUNTS_METRICS_PORT": str(free_ports(1)[0])}
    command = [sys.executable, "-m", "services.accounts", process]
    return subprocess.Popen(command, cwd=ROOT, env=settings)


def url_of(conninfo: str) -> str:
    """A connection string as a URL."""
    parts = {"password": "", **conninfo_to_dict(conninfo)}
    return "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parts)
