"""
What `python -m services.<service> <process>` does: one way to start for every service.

Processes are named by path and imported only when they are asked for: grpc must not come into a worker, nor eventlet
into an api process.
"""

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    # Not at run time: a worker's launcher patches the standard library before pydantic, or anything else, is imported.
    from services.chassis.settings import ServiceSettings

_RETELL_TIMEOUT = timedelta(minutes=10)  # a week's events are one statement, so that they keep their order


def main(
    service: str, processes: Mapping[str, str] | None = None, commands: Mapping[str, str] | None = None
) -> NoReturn:
    """
    Run the process that the command line names, and exit with its code.

    - `api`: `services.<service>.api:serve(settings, telemetry)`, which returns the exit code.
    - `worker`: `services.<service>.worker:Worker` under the messaging launcher.
    - `migrate`: brings schema, roles and queues up to date, then ends.
    - `retell --since <time>`: has the worker tell anew what it has told since then, then ends; for a broker that lost
      its disk. No event has its effect twice.

    Args:
        service: the service's name, which is also its package and its schema.
        processes: further processes by name, each the path of a function like `serve`.
        commands: further commands by name, each the path of a function of the settings and the options behind the name.
    """
    served = {"api": f"services.{service}.api:serve", **(processes or {})}
    commands = commands or {}
    names = [*served, "worker", "migrate", "retell", *commands]
    name, *options = sys.argv[1:] or [""]
    if name not in names or (options and name not in {"retell", *commands}):
        sys.exit(f"usage: python -m services.{service} {{{','.join(names)}}}")
    settings_path = f"services.{service}.settings:Settings"
    if name == "worker":
        from services.chassis.messaging.launcher import run_worker

        run_worker(f"services.{service}.worker:Worker", settings_path)
    settings: ServiceSettings = resolve_name(settings_path).load()
    if name == "migrate":
        _migrate(service, settings)
        sys.exit()
    if name == "retell":
        _retell(service, settings, options)
        sys.exit()
    if name in commands:
        resolve_name(commands[name])(settings, options)
        sys.exit()
    from services.chassis.logs import configure_logs
    from services.chassis.telemetry import start_telemetry

    configure_logs(service, name, settings.log_level)
    telemetry = start_telemetry(service, name, settings.metrics_port)
    sys.exit(resolve_name(served[name])(settings, telemetry))


def _migrate(service: str, settings: "ServiceSettings") -> None:
    from services.chassis.database import migrate
    from services.chassis.messaging.topology import declare_topology

    if settings.database_admin_url is None:
        sys.exit("DATABASE_ADMIN_URL is missing: migrate makes roles and schemas, and needs a role that may")
    package = resolve_name(f"services.{service}")
    applied = migrate(
        settings.database_admin_url.get_secret_value(),
        service,
        Path(package.__file__).parent / "migrations",
        unquote(urlsplit(settings.database_url.get_secret_value()).password or ""),
    )
    declare_topology(settings.amqp_url.get_secret_value(), resolve_name(f"services.{service}.worker:Worker"))
    print(f"{service}: schema and queues are up to date ({len(applied)} applied)")  # noqa: T201 -- a command's answer


def _retell(service: str, settings: "ServiceSettings", options: list[str]) -> None:
    from services.chassis.database import PLATFORM, Database, retell

    parser = ArgumentParser(prog=f"python -m services.{service} retell")
    parser.add_argument("--since", type=moment, required=True, help="as 2026-01-31T12:00:00Z")
    since = parser.parse_args(options).since
    url = settings.database_url.get_secret_value()
    database = Database(url, schema=service, statement_timeout=_RETELL_TIMEOUT)
    with database.transaction(PLATFORM) as tx:
        told = retell(tx, since)
    database.close()
    print(f"{service}: {told} events will be told anew")  # noqa: T201 -- a command's answer


def moment(text: str) -> datetime:
    """An option's value as a moment, for ArgumentParser."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ArgumentTypeError("must say its time zone, as 2026-01-31T12:00:00Z")
    return time
