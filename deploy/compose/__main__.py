"""`python -m deploy.compose`: the platform in containers. docs/runbook.md tells when to use what."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deploy.compose import backup as backups
from deploy.compose import image, operator
from deploy.compose.secrets import make_secrets
from deploy.compose.stack import PROFILES, Stack, StackError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
console = Console(highlight=False)

Profiles = Annotated[
    list[str] | None, typer.Option("--profile", help="May be repeated; all if none is given.")
]


@app.command()
def build(*, offline: bool = False, version: str = "dev") -> None:
    """Build the images. Offline: packages come from .local/wheels (filled first), and the build itself has no network."""
    with _errors_told():
        image.build(Stack(), version=version, offline=offline)


@app.command()
def secrets() -> None:
    """Make the files with secrets that are missing."""
    settings = Stack().settings
    folder = settings.numerator_secrets
    make_secrets(folder, settings.sandbox_url)
    console.print(f"Secrets are in {folder}: keep a copy where no backup of the data is.")


@app.command()
def up(profile: Profiles = None) -> None:
    """Start what does not run, and wait until everything is healthy."""
    stack = Stack(profiles=profile or PROFILES)
    began = time.monotonic()
    with _errors_told(), console.status("starting containers"):
        make_secrets(stack.settings.numerator_secrets, stack.settings.sandbox_url)
        stack.up()
    console.print(f"Numerator is up at {stack.gateway_url} ({time.monotonic() - began:.0f} s).")


@app.command()
def down(*, volumes: Annotated[bool, typer.Option(help="Delete all data as well.")] = False) -> None:
    """Stop and remove the containers."""
    with _errors_told(), console.status("stopping containers"):
        Stack().down(volumes=volumes)
    console.print(
        "Numerator is down." + (" Its data is gone." if volumes else " Its data is kept in volumes.")
    )


@app.command()
def story() -> None:
    """Play the story that must always work, from inside."""
    stack = Stack()
    played = subprocess.run(
        ["docker", "compose", "run", "--rm", "--no-deps", "story"],
        env=stack.settings.variables(),
        check=False,
    )
    raise typer.Exit(played.returncode)


@app.command()
def roll(
    services: Annotated[list[str], typer.Argument(help="As in docker-compose.yml, in this order.")],
    image: Annotated[str, typer.Option(help="The new image; empty: the same again.")] = "",
) -> None:
    """Replace services' containers one by one, without a failed request: restart, or upgrade with --image."""
    stack = Stack()
    with _errors_told():
        for service in services:
            began = time.monotonic()
            with console.status(f"replacing {service}"):
                stack.roll(service, image=image)
            console.print(f"  [green]✓[/] {service}: {time.monotonic() - began:.0f} s")


@app.command()
def ask(
    method: Annotated[str, typer.Argument(help="GET, POST, PATCH or DELETE.")],
    path: Annotated[
        str, typer.Argument(help="With its query, as /v1/enterprises/x/freezes; see /docs at the gateway.")
    ],
    body: Annotated[str, typer.Argument(help="JSON.")] = "",
) -> None:
    """Ask the gateway as an operator, and print what it answers."""
    with _errors_told():
        answer = operator.ask(Stack(), method.upper(), path, _json(body))
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, best on another machine's disk.")],
) -> None:
    """Write what cannot be rebuilt into a folder, while everything runs. The secrets are no part of it."""
    with _errors_told(), console.status("backing up"):
        made = backups.back_up(Stack(), folder)
    console.print(f"All that was committed by {made.time:%Y-%m-%d %H:%M:%S} UTC is in {folder}.")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Written by `backup`.")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Delete the data that is there.")] = False,
    told_since: Annotated[
        datetime | None,
        typer.Option(help="Tell events anew since then (UTC); if not since an hour before the backup."),
    ] = None,
    profile: Profiles = None,
) -> None:
    """Make the data what it was at a backup, and start. Nothing that the backup holds is published a second time."""
    since = told_since.replace(tzinfo=UTC) if told_since else None
    with _errors_told():
        made = backups.restore(
            Stack(profiles=profile or PROFILES), folder,
            replace=replace, told_since=since, tell=lambda step: console.print(f"  {step}"),
        )  # fmt: skip
    console.print(f"The data is as it was at {made.time:%Y-%m-%d %H:%M:%S} UTC, and Numerator is up.")


def _json(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise StackError(f"this is no JSON object: {text}")
    return body


@contextmanager
def _errors_told() -> Iterator[None]:
    """What an ops person can do something about is told without a traceback."""
    try:
        yield
    except StackError as error:
        console.print(f"[red]✗[/] {error}", markup=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
