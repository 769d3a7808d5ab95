"""
The table of programs: what runs, with which ports and environment, and when it counts as ready.

A new service is a line in `SERVICES`; its secrets and special settings, if any, a line in `_own_settings`.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from deploy.local.keys import Keys
from deploy.local.postgres import Postgres
from deploy.local.probes import grpc_serving, http_ok, listening
from deploy.local.rabbitmq import RabbitMQ
from deploy.sandbox.users import WEIBO_KEY, WEIBO_SECRET

SERVICES = ("accounts", "rollout", "publishing", "targeting", "placement", "analytics")

_FURTHER = {"accounts": ("webhooks",), "publishing": ("sender",)}
"""The processes of a service besides api and worker; one at most, or they need more ports."""

_WEIBO_APP = {"client_id": WEIBO_KEY, "client_secret": WEIBO_SECRET}


class Stage(IntEnum):
    """What must be ready (or, for migrations, done) before the next stage starts."""

    SERVERS = 0
    MIGRATIONS = 1
    SERVICES = 2


@dataclass(frozen=True, kw_only=True)
class Program:
    """
    One program under supervision.

    Attributes:
        name: As in `status`, `logs` and the log file's name.
        environment: What is added to the environment that all programs share.
        ready: Whether it does its work; a migration is ready when it has ended well, which needs no probe.
        user: Who runs it; None for ourselves.

    """

    name: str
    stage: Stage
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] = lambda: True
    user: str | None = None
    directory: Path | None = None
    stop_signal: str = "TERM"


class Ports:
    """All ports of a platform follow from the first."""

    def __init__(self, base: int) -> None:
        self.gateway, self.sandbox, self.postgres, self.amqp, self.epmd, self.dist = range(base, base + 6)
        self.flagd = base + 17
        self._base = base

    def grpc(self, service: str) -> int:
        """Where a service's api process answers calls."""
        return self._base + 11 + SERVICES.index(service)

    def metrics(self, program: str) -> int:
        """Where a process shows its /metrics; `program` as `gateway`, `accounts-api`, `publishing-sender`."""
        service, _, process = program.partition("-")
        if service == "gateway":
            return self._base + 20
        return self._base + {"api": 21, "worker": 31}.get(process, 41) + SERVICES.index(service)


def servers(postgres: Postgres | None, rabbitmq: RabbitMQ | None) -> list[Program]:
    """PostgreSQL, and RabbitMQ with its epmd; None for one that runs elsewhere."""
    found = []
    if postgres is not None:
        found.append(
            Program(
                name="postgres", stage=Stage.SERVERS, command=postgres.command(), ready=postgres.running,
                environment=postgres.environment(), user=postgres.user, directory=postgres.place,
                stop_signal=postgres.stop_signal.name.removeprefix("SIG"),
            )
        )  # fmt: skip
    if rabbitmq is not None:
        found += [
            Program(
                name=name, stage=Stage.SERVERS, command=command, ready=ready,
                environment=rabbitmq.environment(), user=rabbitmq.user, directory=rabbitmq.place,
            )
            for name, command, ready in (
                ("epmd", rabbitmq.epmd_command(), rabbitmq.epmd_running),
                ("rabbitmq", rabbitmq.command(), rabbitmq.running),
            )
        ]  # fmt: skip
    return found


def programs(
    home: Path, ports: Ports, keys: Keys, *, database_url: str, amqp_url: str, broker_users: bool
) -> list[Program]:
    """
    Everything of ours.

    Args:
        home: Where programs keep their files.
        ports: Who listens where.
        keys: The secrets.
        database_url: The administrator's; each service gets its own role in it.
        amqp_url: The administrator's.
        broker_users: Whether each service and the gateway are users of the broker's; else all are the administrator.

    """

    def amqp_url_of(user: str) -> str:
        return _as_role(amqp_url, user, keys.broker_password(user)) if broker_users else amqp_url

    found = [
        Program(
            name="sandbox", stage=Stage.SERVICES, command=_python("deploy.sandbox"),
            environment={
                "SANDBOX_PORT": str(ports.sandbox),
                "SANDBOX_DATA_DIR": str(home / "sandbox"),
                "SANDBOX_WEIBO_REDIRECT_URI": f"http://127.0.0.1:{ports.gateway}/bound",
            },
            ready=lambda: listening(ports.sandbox),
        ),
        Program(
            name="gateway", stage=Stage.SERVICES, command=_python("gateway"),
            environment={
                "AMQP_URL": amqp_url_of("gateway"),
                "GATEWAY_LISTEN": f"127.0.0.1:{ports.gateway}",
                "GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{ports.gateway}",
                "GATEWAY_METRICS_PORT": str(ports.metrics("gateway")),
                "GATEWAY_PRIVATE_KEY_FILE": str(keys.gateway),
                "GATEWAY_PUBLIC_KEYS_FILE": str(keys.gateway_public),
                "GATEWAY_SNAPSHOT_FILE": str(home / "gateway-snapshot.json"),
                **{f"GATEWAY_SERVICES__{name.upper()}": f"127.0.0.1:{ports.grpc(name)}" for name in SERVICES},
            },
            ready=lambda: http_ok(ports.gateway, "/readyz"),
        ),
    ]  # fmt: skip
    for service in SERVICES:
        prefix = service.upper()
        common = {
            "AMQP_URL": amqp_url_of(service),
            "PRINCIPAL_PUBLIC_KEY_FILE": str(keys.gateway_public),
            f"{prefix}_DATABASE_URL": _as_role(database_url, service, keys.database_password(service)),
            f"{prefix}_GRPC_ADDRESS": f"127.0.0.1:{ports.grpc(service)}",
            **_own_settings(service, home, ports, keys),
        }
        found.append(
            Program(
                name=f"{service}-migrate", stage=Stage.MIGRATIONS,
                command=_python(f"services.{service}", "migrate"),
                environment=common | {"DATABASE_ADMIN_URL": database_url, "AMQP_URL": amqp_url},
            )
        )  # fmt: skip
        for process in ("api", "worker", *_FURTHER.get(service, ())):
            name = f"{service}-{process}"
            port = ports.grpc(service) if process == "api" else ports.metrics(name)
            probe = _serving(port) if process == "api" else _ready(port)
            found.append(
                Program(
                    name=name, stage=Stage.SERVICES, command=_python(f"services.{service}", process),
                    environment=common | {f"{prefix}_METRICS_PORT": str(ports.metrics(name))}, ready=probe,
                )
            )  # fmt: skip
    return found


def _own_settings(service: str, home: Path, ports: Ports, keys: Keys) -> dict[str, str]:
    """What a service needs beyond the settings that all have."""
    match service:
        case "accounts":
            return {
                "ACCOUNTS_MASTER_KEY_FILE": str(keys.accounts_master),
                "ACCOUNTS_PUBLISHING_PUBLIC_KEY_FILE": str(keys.publishing_public),
                "ACCOUNTS_OPERATOR_SECRET_FILE": str(keys.operator_secret),
                "ACCOUNTS_OPERATORS_FILE": str(keys.operators),
                "ACCOUNTS_NETWORK_SECRET_FILE": str(keys.network_secret),
                "ACCOUNTS_NETWORK_SERVERS": f'["http://127.0.0.1:{ports.sandbox}"]',
                "ACCOUNTS_WEIBO_APPS": json.dumps({f"http://127.0.0.1:{ports.sandbox}": _WEIBO_APP}),
                "ACCOUNTS_AUDIT_ANCHORS": str(home / "accounts-audit-anchors"),
                "ACCOUNTS_BINDING_REDIRECT_URI": f"http://127.0.0.1:{ports.gateway}/bound",
                # Whoever tries webhooks out here listens here.
                "ACCOUNTS_WEBHOOK_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
                "ACCOUNTS_WEBHOOK_PLAIN_HTTP": "true",
                "ACCOUNTS_WEBHOOK_ANY_PORT": "true",
                # And whoever tries logins by an identity provider out has it here.
                "ACCOUNTS_OIDC_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
                "ACCOUNTS_OIDC_PLAIN_HTTP": "true",
                "ACCOUNTS_OIDC_ANY_PORT": "true",
            }
        case "rollout":
            return {
                "ROLLOUT_AUDIT_ANCHORS": str(home / "audit-anchors"),
                "ROLLOUT_FLAGD_PORT": str(ports.flagd),
                "ROLLOUT_LOOK_SECONDS": "1",
            }
        case "publishing":
            # The sandbox answers at once: waits that are right for servers far away would only make people wait here.
            return {
                "PUBLISHING_PRIVATE_KEY_FILE": str(keys.publishing),
                "PUBLISHING_INTERACTIONS_INTERVAL": "0.5",
                "PUBLISHING_REQUEST_TIMEOUT": "5",
                "PUBLISHING_LEASE_MARGIN": "5",
                "PUBLISHING_SERVER_MARGIN": "5",
                "PUBLISHING_VISIBILITY_LAG": "2",
            }
        case "placement":
            return {"PLACEMENT_TOKEN_KEY_FILE": str(keys.placement_token)}
        case "analytics":
            # Short windows, often told: a guardrail trips here within seconds, and in a minute or two elsewhere.
            return {
                "ANALYTICS_STORE_PATH": str(home / "analytics"),
                "ANALYTICS_WINDOW_SECONDS": "1",
                "ANALYTICS_TELL_SECONDS": "0.5",
            }
        case _:
            return {}


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _serving(port: int) -> Callable[[], bool]:
    return lambda: grpc_serving(port)


def _ready(port: int) -> Callable[[], bool]:
    return lambda: http_ok(port, "/readyz")


def _as_role(url: str, role: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"))
