"""`numerator tenant …`, `waitlist …` and `invite …`: who is in, why, and what an operator may do about an enterprise."""

from typing import Annotated

import typer

from gateway.cli import names
from gateway.cli.client import Json
from gateway.cli.session import Limit, Reason, Session, command, only_rollout
from gateway.cli.show import tenants as show

app = typer.Typer(no_args_is_help=True, help="One enterprise: in or not, why, and what to do about it.")
waitlist = typer.Typer(no_args_is_help=True, help="Who waits for a place.")
invite = typer.Typer(no_args_is_help=True, help="Invitations: good once, and for a time.")

Enterprise = Annotated[str, typer.Argument(metavar="ENTERPRISE", parser=names.enterprise)]
Rollout = Annotated[
    str | None,
    typer.Option(
        parser=names.rollout, metavar="ROLLOUT", show_default="the only one", help="In which rollout."
    ),
]
Until = Annotated[
    str | None,
    typer.Option(parser=names.moment, metavar="TIME", help="As 14d, 12h, or a time with its zone."),
]
Invitation = Annotated[str, typer.Argument(metavar="ROLLOUT/INVITATION", parser=names.invitation)]


@command(app)
def explain(session: Session, enterprise: Enterprise, *, rollout: Rollout = None) -> None:
    """Tell how the decision on an enterprise comes about, step by step, and by which versions."""
    name = only_rollout(session, rollout)
    session.tell(session.gateway.get(f"/v1/{name}:explain", {"enterprise": enterprise}), show.explanation)


@command(app, "list")
def list_tenants(session: Session, rollout: Rollout = None) -> None:
    """List all who are in, were in or wait, in the order of admission and then of waiting."""
    session.tell(_admissions(session, rollout), show.admissions)


@command(app, writes=True)
def admit(session: Session, enterprise: Enterprise, *, reason: Reason, rollout: Rollout = None) -> None:
    """Admit an enterprise by hand, whatever its bucket; eligibility and quota hold."""
    _decide(session, "admit", enterprise, reason, rollout)


@command(app, writes=True)
def revoke(session: Session, enterprise: Enterprise, *, reason: Reason, rollout: Rollout = None) -> None:
    """Take an admission away for good; `admit` gives it back."""
    _decide(session, "revoke", enterprise, reason, rollout)


def _decide(session: Session, verb: str, enterprise: str, reason: str, rollout: str | None) -> None:
    name = only_rollout(session, rollout)
    body = {"enterprise": enterprise, "reason": reason}
    session.tell(session.write("POST", f"/v1/{name}:{verb}", body), show.admission)


# Lists


@command(app, writes=True)
def allow(
    session: Session, enterprise: Enterprise, *, reason: Reason, until: Until = None, rollout: Rollout = None
) -> None:
    """Put an enterprise on the allow list: in before others, in any stage."""
    _enlist(session, {"enterprise": enterprise, "kind": "ALLOW", "reason": reason}, until, rollout)


@command(app, writes=True)
def deny(
    session: Session, enterprise: Enterprise, *, reason: Reason, until: Until = None, rollout: Rollout = None
) -> None:
    """Put an enterprise on the deny list: never in."""
    _enlist(session, {"enterprise": enterprise, "kind": "DENY", "reason": reason}, until, rollout)


def _enlist(session: Session, entry: Json, until: str | None, rollout: str | None) -> None:
    name = only_rollout(session, rollout)
    if until:
        entry["expireTime"] = until
    session.tell(session.write("POST", f"/v1/{name}/entries:set", {"entry": entry}), show.entry)


@command(app, writes=True)
def unlist(session: Session, enterprise: Enterprise, *, rollout: Rollout = None) -> None:
    """Take an enterprise off its list. Who is in stays in."""
    name = only_rollout(session, rollout)
    answer = session.write("POST", f"/v1/{name}/entries:delete", {"enterprise": enterprise})
    session.tell(answer, show.unlisted)


@command(app)
def lists(session: Session, rollout: Rollout = None) -> None:
    """Show the allow and the deny list."""
    name = only_rollout(session, rollout)
    session.tell(session.gateway.list(f"/v1/{name}/entries", "entries"), show.entries)


@command(app, "set", writes=True)
def set_attributes(
    session: Session,
    enterprise: Enterprise,
    attributes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE")],
) -> None:
    """Say what rules may ask of an enterprise, as plan=enterprise region=cn. Replaces what was set before."""
    body = {"attributes": dict(map(names.attribute, attributes))}
    session.tell(session.write("POST", f"/v1/{enterprise}:setRolloutAttributes", body), show.attributes)


# Waiting and inviting


@command(waitlist, "list")
def list_waitlist(session: Session, rollout: Rollout = None) -> None:
    """List who waits, in the order of their places."""
    found = _admissions(session, rollout)["admissions"]
    session.tell({"admissions": [each for each in found if each["state"] == "WAITLISTED"]}, show.admissions)


@command(invite, writes=True)
def create(
    session: Session,
    *,
    enterprise: Annotated[
        str | None,
        typer.Option(parser=names.enterprise, metavar="ENTERPRISE", help="Nobody else may accept it."),
    ] = None,
    until: Until = None,
    note: Annotated[str, typer.Option(help="For whom it is meant, in your words.")] = "",
    rollout: Rollout = None,
) -> None:
    """Make an invitation and print its token, which is told once."""
    name = only_rollout(session, rollout)
    body: Json = {"enterprise": enterprise or "", "note": note}
    if until:
        body["expireTime"] = until
    session.tell(session.write("POST", f"/v1/{name}/invitations", body), show.invitation)


@command(invite, "list")
def list_invitations(session: Session, rollout: Rollout = None, limit: Limit = 50) -> None:
    """List invitations, newest first."""
    name = only_rollout(session, rollout)
    session.tell(session.gateway.list(f"/v1/{name}/invitations", "invitations", most=limit), show.invitations)


@command(invite, "revoke", writes=True)
def revoke_invitation(session: Session, invitation: Invitation) -> None:
    """Make an invitation worthless that nobody has accepted."""
    session.tell(session.write("POST", f"/v1/{invitation}:revoke", {}), show.invitation)


def _admissions(session: Session, rollout: str | None) -> Json:
    return session.gateway.list(f"/v1/{only_rollout(session, rollout)}/admissions", "admissions")
