"""`numerator flags …`: ordinary flags, evaluated by rules and without a record."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import names
from gateway.cli.session import Session, command
from gateway.cli.show import flags as show

app = typer.Typer(no_args_is_help=True, help="Ordinary flags: evaluated by rules, without a record.")


@command(app, writes=True)
def apply(
    session: Session,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="Definitions in flagd's format, JSON or YAML."
        ),
    ],
    *,
    prune: Annotated[
        bool, typer.Option("--prune", metavar="", help="Delete ordinary flags that are not in the file.")
    ] = False,
) -> None:
    """Set ordinary flags, each whole. The same file again changes nothing."""
    body = {"document": session.read_plan(file), "prune": prune}
    if session.settings.dry_run:
        answer = session.ask("/v1/flags:apply", {**body, "validateOnly": True})
    else:
        answer = session.write("POST", "/v1/flags:apply", body)
    session.tell(answer, show.flags_applied)


@command(app, "list")
def list_flags(session: Session) -> None:
    """List ordinary flags, by key."""
    session.tell(session.gateway.list("/v1/flags", "flags"), show.flags)


@command(app, writes=True)
def delete(session: Session, flag: Annotated[str, typer.Argument(metavar="FLAG", parser=names.flag)]) -> None:
    """Delete an ordinary flag: nobody finds it from then on."""
    session.tell(session.write("DELETE", f"/v1/{flag}"), show.flag_deleted)
