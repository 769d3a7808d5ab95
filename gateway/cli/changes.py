"""`numerator change …`: plans that somebody else has to approve."""

from typing import Annotated

import typer

from gateway.cli import names
from gateway.cli.client import Json, Problem
from gateway.cli.session import Limit, PlanFile, Reason, Session, at_terminal, command, compare
from gateway.cli.settings import Output
from gateway.cli.show import changes as show
from gateway.cli.show.rollouts import differences

app = typer.Typer(no_args_is_help=True, help="Plans that somebody else has to approve.")

Change = Annotated[str, typer.Argument(metavar="ROLLOUT/CHANGE", parser=names.change)]
_SHORTEST_HASH = 8
_OPEN = frozenset({"IN_REVIEW", "APPROVED", "SCHEDULED"})


@command(app, writes=True)
def propose(
    session: Session,
    file: PlanFile,
    *,
    reason: Reason,
    at: Annotated[
        str | None,
        typer.Option(
            parser=names.moment,
            metavar="TIME",
            help="Applied by itself then, once it is approved: 12h, or a time.",
        ),
    ] = None,
) -> None:
    """Propose a changed plan."""
    plan = session.read_plan(file)
    # Only the plan says whose it is, and only the platform reads plans.
    rollout = compare(session, plan)["rollout"]["name"]
    body: Json = {"plan": plan, "reason": reason}
    if at:
        body["scheduleTime"] = at
    _tell(session, session.write("POST", f"/v1/{rollout}/changes", body))


@command(app, "show")
def show_change(session: Session, change: Change) -> None:
    """Show a change request: what it changes, and who has approved it."""
    _tell(session, session.gateway.get(f"/v1/{change}"))


@command(app, "list")
def list_changes(
    session: Session,
    rollout: Annotated[str, typer.Argument(metavar="ROLLOUT", parser=names.rollout)],
    limit: Limit = 20,
) -> None:
    """List change requests, newest first."""
    answer = session.gateway.list(f"/v1/{rollout}/changes", "changeRequests", most=limit)
    session.tell(answer, show.changes)


@command(app, writes=True)
def edit(
    session: Session,
    change: Change,
    file: PlanFile,
    *,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help="Why; as before without.", metavar="TEXT")
    ] = "",
) -> None:
    """Replace the proposed plan. Approvals were given to other words: they are void."""
    body = {"plan": session.read_plan(file), "reason": reason}
    _tell(session, session.write("POST", f"/v1/{change}:edit", body))


@command(app, writes=True)
def approve(
    session: Session,
    change: Change,
    *,
    content: Annotated[
        str,
        typer.Option(
            "--hash", metavar="HASH", help="What you have read: the hash that `show` tells, or how it begins."
        ),
    ] = "",
) -> None:
    """Approve what you have read. On a terminal it is shown, and you are asked; elsewhere say its hash."""
    if content and len(content) < _SHORTEST_HASH:
        raise typer.BadParameter(f"--hash: at least {_SHORTEST_HASH} characters of it")
    if not content and not at_terminal():
        raise typer.BadParameter("--hash: say what you approve; numerator change show tells its hash")
    found = session.gateway.get(f"/v1/{change}")
    if not content:
        _tell(session, found)
        session.confirm("Approve it?", yes=False)
    # Where the hash is another, the platform says so.
    whole = found["contentHash"] if found["contentHash"].startswith(content) else content
    session.tell(session.write("POST", f"/v1/{change}:approve", {"contentHash": whole}), show.change)


@command(app, writes=True)
def reject(session: Session, change: Change, *, reason: Reason) -> None:
    """Reject a change request."""
    session.tell(session.write("POST", f"/v1/{change}:reject", {"reason": reason}), show.change)


@command(app, writes=True)
def cancel(session: Session, change: Change) -> None:
    """Take a change request of your own back."""
    session.tell(session.write("POST", f"/v1/{change}:cancel", {}), show.change)


@command(app, writes=True)
def apply(session: Session, change: Change) -> None:
    """Put an approved plan in force."""
    session.tell(session.write("POST", f"/v1/{change}:apply", {}), show.change)


def _tell(session: Session, change: Json) -> None:
    session.tell(change, show.change)
    if session.settings.output is Output.JSON or not change["plan"] or change["state"] not in _OPEN:
        return
    try:
        compared = compare(session, change["plan"])
    except Problem as problem:
        session.note(f"it could not be applied now: {problem}")
    else:
        session.tell(compared, differences)
