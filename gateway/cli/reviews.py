"""`numerator review …`: enterprises that ask to be verified, their documents, and what is decided."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import names
from gateway.cli.client import Json
from gateway.cli.session import Session, command
from gateway.cli.show import reviews as show

app = typer.Typer(no_args_is_help=True, help="Enterprises that ask to be verified: look, note, decide.")

Enterprise = Annotated[str, typer.Argument(metavar="ENTERPRISE", parser=names.enterprise)]
Document = Annotated[
    list[str] | None,
    typer.Option(
        "--document",
        "-d",
        metavar="ENTERPRISE/DOCUMENT",
        parser=names.document,
        help="A document that the decision rests on; may be repeated.",
    ),
]
Etag = Annotated[
    str, typer.Option(help="Only if the enterprise is as it was read: the etag that `show` prints.")
]
Told = Annotated[str, typer.Option("--note", "-n", metavar="TEXT", help="What the enterprise is told.")]


@command(app, "list")
def list_reviews(session: Session) -> None:
    """List the enterprises that wait for a decision; who has waited longest comes first."""
    waiting = session.gateway.list("/v1/enterprises", "enterprises", {"verification": "PENDING"})
    waiting["enterprises"].sort(key=lambda each: each["updateTime"])
    session.tell(waiting, show.waiting)


@command(app, "show")
def show_review(session: Session, enterprise: Enterprise) -> None:
    """Show an enterprise, its documents, and what operators have noted."""
    review = {
        "enterprise": session.gateway.get(f"/v1/{enterprise}"),
        **session.gateway.list(f"/v1/{enterprise}/verificationDocuments", "verificationDocuments"),
        **session.gateway.list(f"/v1/{enterprise}/reviewNotes", "reviewNotes"),
    }
    session.tell(review, show.review)


@command(app)
def download(
    session: Session,
    document: Annotated[str, typer.Argument(metavar="ENTERPRISE/DOCUMENT", parser=names.document)],
    *,
    purpose: Annotated[
        str, typer.Option("--purpose", "-p", metavar="TEXT", help="What for. The enterprise can read it.")
    ],
    to: Annotated[
        Path | None, typer.Option(file_okay=False, exists=True, metavar="FOLDER", show_default="here")
    ] = None,
) -> None:
    """Save a document, readable by you only. That you read it, and what for, is written to the enterprise's audit trail."""
    name, content = session.gateway.fetch(f"/v1/{document}:download", {"purpose": purpose})
    # What the gateway calls it is no path.
    file = (to or Path()) / Path(name).name
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise typer.BadParameter(f"{file} is there already") from None
    with os.fdopen(descriptor, "wb") as saved:
        saved.write(content)
    session.tell({"file": str(file), "sizeBytes": len(content)}, show.saved)


@command(app, writes=True)
def note(session: Session, enterprise: Enterprise, text: str) -> None:
    """Write a note for other operators. The enterprise does not see it."""
    session.tell(session.write("POST", f"/v1/{enterprise}/reviewNotes", {"text": text}), show.note)


@command(app, writes=True)
def verify(
    session: Session, enterprise: Enterprise, *, note: Told = "", document: Document = None, etag: Etag = ""
) -> None:
    """Verify an enterprise that has asked for it."""
    _decide(session, "verify", enterprise, {"note": note, "documents": document or [], "etag": etag})


@command(app, writes=True)
def reject(
    session: Session, enterprise: Enterprise, *, note: Told, document: Document = None, etag: Etag = ""
) -> None:
    """Refuse to verify an enterprise, and say what would help. It may ask again."""
    _decide(session, "reject", enterprise, {"note": note, "documents": document or [], "etag": etag})


@command(app, writes=True)
def revoke(session: Session, enterprise: Enterprise, *, note: Told, etag: Etag = "") -> None:
    """Take a verification back. The enterprise leaves staged rollouts, and may ask again."""
    _decide(session, "revokeVerification", enterprise, {"note": note, "etag": etag})


@command(app, writes=True)
def restore(session: Session, enterprise: Enterprise, *, note: Told = "", etag: Etag = "") -> None:
    """Give a verification back that was revoked."""
    _decide(session, "restoreVerification", enterprise, {"note": note, "etag": etag})


def _decide(session: Session, verb: str, enterprise: str, body: Json) -> None:
    session.tell(session.write("POST", f"/v1/{enterprise}:{verb}", body), show.enterprise)
