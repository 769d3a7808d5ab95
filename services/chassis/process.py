"""
What `python -m services.<service> <process>` does: one way to start for every service.

Processes are named by path and imported only when they are asked for: grpc must not come into a worker, nor eventlet
into an api process.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    # Not at run time: a worker's launcher patches the standard library before pydantic, or anything else, is imported.
    from services.chassis.settings import ServiceSettings


def main(service: str, processes: Mapping[str, str] | None = None) -> NoReturn:
    """
    Run the process that the command line names, and exit with its code.

    - `api`: `services.<service>.api:serve(settings, telemetry)`, which returns the exit code.
    - `worker`: `services.<service>.worker:Worker` under the messaging launcher.
    - `migrate`: brings schema, roles and queues up to date, then ends.

    Args:
        service: the service's name, which is also its package and its schema.
        processes: further processes by name, each the path of a function like `serve`.
    """
    served = {"api": f"services.{service}.api:serve", **(processes or {})}
    names = [*served, "worker", "migrate"]
    if len(sys.argv) != 2 or sys.argv[1] not in names:  # noqa: PLR2004 -- the program and one word
        sys.exit(f"usage: python -m services.{service} {{{','.join(names)}}}")
    name = sys.argv[1]
    settings_path = f"services.{service}.settings:Settings"
    if name == "worker":
        from services.chassis.messaging.launcher import run_worker

        run_worker(f"services.{service}.worker:Worker", settings_path)
    settings: ServiceSettings = resolve_name(settings_path).load()
    if name == "migrate":
        _migrate(service, settings)
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
