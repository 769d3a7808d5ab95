"""`numerator replicas`: which gateways serve what."""

import typer

from gateway.cli.session import Session, command
from gateway.cli.show import replicas as show

app = typer.Typer()


@command(app)
def replicas(session: Session) -> None:
    """List the gateways that serve now, and whether they serve the newest versions."""
    session.tell(session.gateway.get("/v1/replicas"), show.replicas)
