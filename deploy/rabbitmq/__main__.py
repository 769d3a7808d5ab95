"""`python -m deploy.rabbitmq {render,apply,check}`: the broker's users, rights, queues and policies."""

import json
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer
from rich.console import Console
from rich.table import Table

from deploy.rabbitmq.definitions import (
    Definitions,
    hash_passwords,
    make_definitions,
    user_names,
)
from deploy.rabbitmq.drift import Difference, Drift, differences
from deploy.rabbitmq.management import Management, ManagementError
from deploy.rabbitmq.settings import RabbitMQSettings

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def render(
    secrets: Annotated[
        Path,
        typer.Option(
            help="Holds the files <user>-amqp-url and rabbitmq-management-url, whose passwords count."
        ),
    ],
    to: Annotated[Path, typer.Option(help="The file to write; hashes in it that are right are kept.")],
) -> None:
    """Write the definitions, for the broker to load when it starts and for `apply`."""
    urls = [_read(secrets / f"{name}-amqp-url") for name in user_names()]
    management = _read(secrets / "rabbitmq-management-url")
    passwords = dict(_login(url) for url in (*urls, management))
    before = json.loads(to.read_text()) if to.exists() else {}
    definitions = make_definitions(hash_passwords(passwords, before), _login(management)[0])
    to.write_text(json.dumps(definitions, indent=2) + "\n")


@app.command()
def apply() -> None:
    """Make the broker what it should be, as far as that can be done without losing messages. Safe to repeat."""
    wanted, management = _load()
    with management:
        before = differences(wanted, management.definitions())
        if any(each.drift is not Drift.UNEXPECTED for each in before):
            management.import_definitions(wanted)
        after = differences(wanted, management.definitions())
    console = Console(highlight=False)
    _show("changed", [each for each in before if each not in after])
    _show("left", after)
    if not before:
        console.print("The broker is as it should be; nothing was changed.")
    if any(each.drift is not Drift.UNEXPECTED for each in after):
        console.print("What is left cannot be changed in place: see deploy/rabbitmq/README.md.")
        raise typer.Exit(1)


@app.command()
def check() -> None:
    """Compare the broker with what it should be; exit with 1 when it differs."""
    wanted, management = _load()
    with management:
        found = differences(wanted, management.definitions())
    if found:
        _show("drift", found)
        raise typer.Exit(1)
    Console(highlight=False).print("The broker is as it should be.")


def _load() -> tuple[Definitions, Management]:
    """What this version wants, for the users that were rendered; and the broker."""
    settings = RabbitMQSettings.load()
    users = json.loads(settings.definitions.get_secret_value())["users"]
    hashes = {user["name"]: user["password_hash"] for user in users}
    administrator = next(user["name"] for user in users if user["tags"])
    return make_definitions(hashes, administrator), Management(settings.management_url.get_secret_value())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SystemExit(f"cannot read {path}: {error.strerror}") from None


def _login(url: str) -> tuple[str, str]:
    """Name and password of a URL."""
    parts = urlsplit(url)
    return unquote(parts.username or ""), unquote(parts.password or "")


def _show(title: str, found: list[Difference]) -> None:
    if not found:
        return
    table = Table(title=title, title_justify="left")
    for column in ("", "kind", "name", "what"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(each.drift.value, each.kind, each.name, each.detail)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    try:
        app()
    except ManagementError as error:
        raise SystemExit(str(error)) from None
