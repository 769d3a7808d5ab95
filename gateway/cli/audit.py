"""`numerator audit …`: what was done, and the proof that nobody rewrote it."""

from typing import Annotated

import typer

from gateway.cli import names
from gateway.cli.session import REFUSED, Limit, Session, command
from gateway.cli.show import audit as show

app = typer.Typer(no_args_is_help=True, help="What was done, by whom, and the proof that nobody rewrote it.")
_VERIFYING = 65.0
"""Seconds that computing the whole trail anew may take."""


@command(app, "list")
def list_events(
    session: Session,
    rollout: Annotated[
        str | None, typer.Option(parser=names.rollout, metavar="ROLLOUT", help="Only of this rollout.")
    ] = None,
    limit: Limit = 50,
) -> None:
    """List what was done, newest first."""
    query = {"rollout": rollout} if rollout else None
    session.tell(session.gateway.list("/v1/audit/events", "events", query, most=limit), show.events)


@command(app)
def verify(session: Session) -> None:
    """Compute the trail anew and compare it with the anchors outside the database; ends with 1 when it was tampered with."""
    answer = session.gateway.get("/v1/audit:verify", timeout=_VERIFYING)
    session.tell(answer, show.verification)
    if not answer["ok"]:
        raise typer.Exit(REFUSED)
