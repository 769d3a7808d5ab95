"""`numerator rollout …`: plans, stages, verbs, and where rollouts stand."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from gateway.cli import names
from gateway.cli.client import PAGE_SIZE, Json, Problem, UnreachableError
from gateway.cli.session import DIFFERENT, Limit, PlanFile, Reason, Session, Yes, command, compare, read_text
from gateway.cli.settings import Output
from gateway.cli.show import rollouts as show

app = typer.Typer(no_args_is_help=True, help="Plans, stages, verbs, and where rollouts stand.")

Name = Annotated[str, typer.Argument(metavar="ROLLOUT", parser=names.rollout)]
Etag = Annotated[str, typer.Option(help="Only if the rollout is as it was with this etag.")]
ExitCode = Annotated[
    bool, typer.Option("--exit-code", metavar="", help="End with 4 when there are differences.")
]

Verb = Literal["start", "advance", "jump", "resume", "complete", "rollback", "now"]
_SIMULATED = get_args(Verb)
_MOST_NAMED = 1000
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two connections of a watch."""


# Plans


@command(app)
def validate(session: Session, file: PlanFile) -> None:
    """Check a plan: every mistake by line and field."""
    session.tell(compare(session, session.read_plan(file)), show.validated)


@command(app)
def diff(session: Session, file: PlanFile, *, exit_code: ExitCode = False) -> None:
    """Show what a plan would change."""
    answer = compare(session, session.read_plan(file))
    session.tell(answer, show.compared)
    if exit_code and answer["differences"]:
        raise typer.Exit(DIFFERENT)


@command(app, writes=True)
def apply(session: Session, file: PlanFile, *, etag: Etag = "") -> None:
    """Make a rollout by its plan, or change it. The same plan again changes nothing."""
    plan = session.read_plan(file)
    if session.settings.dry_run:
        session.tell(compare(session, plan), show.compared)
    else:
        session.tell(session.write("POST", "/v1/rollouts:apply", {"plan": plan, "etag": etag}), show.applied)


@command(app)
def plans(
    session: Session,
    name: Name,
    *,
    text: Annotated[
        int, typer.Option("--text", metavar="VERSION", min=0, help="Print this version as it was written.")
    ] = 0,
    limit: Limit = 20,
) -> None:
    """List the versions of a plan, newest first, or print one."""
    answer = session.gateway.list(f"/v1/{name}/plans", "plans", most=0 if text else limit)
    if not text:
        session.tell(answer, show.plans)
        return
    found = next((each for each in answer["plans"] if each["version"] == text), None)
    if found is None:
        raise typer.BadParameter(f"{names.brief(name)} has no plan of version {text}")
    session.tell(found, lambda each: [each["plan"].removesuffix("\n")])


@command(app)
def export(session: Session, name: Name) -> None:
    """Print the plan in force as it was written; `apply` takes it, here or elsewhere."""
    session.tell(session.gateway.get(f"/v1/{name}"), lambda each: [each["plan"].removesuffix("\n")])


@command(app, writes=True)
def promote(
    session: Session,
    name: Name,
    *,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The other platform's gateway.")],
    to_secret_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The client's secret there, as --secret-file here.")
    ] = None,
) -> None:
    """Put the plan in force on another platform, as from staging to production. Its stage and who is in stay behind."""
    there = Session(replace(session.settings, url=to, secret_file=to_secret_file, secret=""))
    plan = session.gateway.get(f"/v1/{name}")["plan"]
    if session.settings.dry_run:
        there.tell(compare(there, plan), show.compared)
    else:
        there.tell(there.write("POST", "/v1/rollouts:apply", {"plan": plan}), show.applied)


# Where they stand


@command(app, "list")
def list_rollouts(session: Session) -> None:
    """List rollouts, newest first."""
    session.tell(session.gateway.list("/v1/rollouts", "rollouts"), show.rollouts)


@command(app)
def status(session: Session, name: Name) -> None:
    """Tell where a rollout stands: what holds it, what the guardrails found, which gateways serve it, what comes next."""
    session.tell(session.gateway.get(f"/v1/{name}/status"), show.status)


@command(app)
def analyses(session: Session, name: Name, limit: Limit = 20) -> None:
    """List what the guardrails found, newest first."""
    session.tell(session.gateway.list(f"/v1/{name}/analyses", "analyses", most=limit), show.analyses)


@command(app)
def preview(session: Session, name: Name) -> None:
    """Look at what is measured now as the guardrails do, and do nothing about it."""
    session.tell({"analyses": [session.gateway.get(f"/v1/{name}:previewAnalysis")]}, show.analyses)


@command(app)
def snapshot(session: Session) -> None:
    """Print the document that gateways serve from: flags and stages."""
    session.tell(session.gateway.get("/v1/snapshot"), show.snapshot)


@command(app)
def watch(session: Session, name: Name) -> None:
    """Follow a rollout until Ctrl-C: on a terminal one picture that moves, else a line for each change."""
    changes = _changes(session, f"/v1/{name}:watch")
    with suppress(KeyboardInterrupt):
        if session.settings.output is Output.JSON or not session.console.is_terminal:
            for change in changes:
                session.tell(change, show.change_line, compact=True)
            return
        from rich.console import Group
        from rich.live import Live

        newest = next(changes)["status"]
        # Drawn each second besides, because ages grow.
        with Live(
            console=session.console, get_renderable=lambda: Group(*show.status(newest)), refresh_per_second=1
        ) as live:
            for change in changes:
                newest = change["status"]
                live.refresh()


def _changes(session: Session, path: str) -> Iterator[Json]:
    """The changes of a rollout, over as many connections as it takes. Raises what the first connection fails with."""
    last, pause, seen, lost = "", _SHORTEST_PAUSE, False, False
    while True:
        try:
            for id_, change in session.gateway.events(path, last):
                last, pause, seen, lost = id_, _SHORTEST_PAUSE, True, False
                yield change
        except (UnreachableError, Problem) as error:
            if not seen or (isinstance(error, Problem) and not error.unwell):
                raise
            if not lost:
                session.note(f"lost: {error}; trying again")
            lost = True
        time.sleep(pause)  # between two connections; Ctrl-C ends it
        pause = min(2 * pause, _LONGEST_PAUSE)


# What would happen


@command(app)
def simulate(
    session: Session,
    target: Annotated[str, typer.Argument(metavar="ROLLOUT|FILE", help="A rollout, or the file of a plan.")],
    *,
    verb: Annotated[
        Verb | None,
        typer.Option(help="As if by this verb; now just decides.", show_default="what comes next"),
    ] = None,
    stage: Annotated[str, typer.Option(help="The stage to jump to.")] = "",
    tenants: Annotated[
        str,
        typer.Option(metavar="FILE|all", help="Only the enterprises in a file, one a line, changed or not."),
    ] = "all",
    exit_code: ExitCode = False,
) -> None:
    """Tell who would enter and who leave, by which rule, against which quota: the very decision, but nothing changes."""
    question: Json = {"verb": verb or "", "stage": stage}
    if Path(target).is_file():
        question["plan"] = session.read_plan(Path(target))  # which names its rollout
    elif "." in target:
        raise typer.BadParameter(f"there is no file {target}")
    else:
        question["name"] = names.rollout(target)
    if tenants != "all":
        question["enterprises"] = [names.enterprise(each) for each in read_text(Path(tenants)).split()]
    answer = _simulate(session, question)
    session.tell(answer, show.simulation)
    if exit_code and (answer["enteringCount"] or answer["leavingCount"]):
        raise typer.Exit(DIFFERENT)


def _simulate(session: Session, question: Json) -> Json:
    """The whole answer, as one page."""
    named = question.get("enterprises", [])
    parts = [named[first : first + _MOST_NAMED] for first in range(0, len(named), _MOST_NAMED)] or [[]]
    whole: Json = {}
    found: list[Json] = []
    for part in parts:
        token = ""
        while True:
            page = session.ask(
                "/v1/rollouts:simulate",
                {**question, "enterprises": part, "pageSize": PAGE_SIZE, "pageToken": token},
            )
            whole = whole or page
            found += page["admissions"]
            token = page["nextPageToken"]
            if not token:
                break
    return {**whole, "admissions": found, "nextPageToken": ""}


# Verbs


@command(app, writes=True)
def arm(session: Session, name: Name, *, etag: Etag = "") -> None:
    """Make a draft ready: from now on its start time counts."""
    _act(session, name, "arm", etag=etag)


@command(app, writes=True)
def start(session: Session, name: Name, *, etag: Etag = "") -> None:
    """Enter the first stage, and admit whom it takes."""
    _act(session, name, "start", etag=etag)


@command(app, writes=True)
def advance(
    session: Session,
    name: Name,
    *,
    skip_hold: Annotated[
        bool,
        typer.Option(
            "--skip-hold", help="Pass over what holds the stage, but for its approvals; needs a reason."
        ),
    ] = False,
    reason: Reason = "",
    etag: Etag = "",
) -> None:
    """Widen to the next stage, and admit whom it takes besides."""
    _act(session, name, "advance", skipHold=skip_hold, reason=reason, etag=etag)


@command(app, writes=True)
def jump(
    session: Session,
    name: Name,
    stage: Annotated[str, typer.Argument(metavar="STAGE")],
    *,
    reason: Reason,
    etag: Etag = "",
) -> None:
    """Enter any stage at once, wider or narrower."""
    _act(session, name, "jump", stage=stage, reason=reason, etag=etag)


@command(app, writes=True)
def pause(session: Session, name: Name, *, reason: Reason, etag: Etag = "") -> None:
    """Pause: those who are in stay, nobody enters, no stage advances."""
    _act(session, name, "pause", reason=reason, etag=etag)


@command(app, writes=True)
def resume(session: Session, name: Name, *, etag: Etag = "") -> None:
    """Resume, and admit those who became eligible meanwhile."""
    _act(session, name, "resume", etag=etag)


@command(app, writes=True)
def rollback(
    session: Session,
    name: Name,
    *,
    reason: Reason,
    to_start: Annotated[
        bool,
        typer.Option("--to-start", metavar="", help="Back to what was served before the rollout started."),
    ] = False,
    yes: Yes = False,
    etag: Etag = "",
) -> None:
    """Take the last widening back: serve exactly what was served before it."""
    session.confirm(f"Roll {names.brief(name)} back?", yes=yes)
    _act(session, name, "rollback", toStart=to_start, reason=reason, etag=etag)


@command(app, writes=True)
def restart(session: Session, name: Name, *, etag: Etag = "") -> None:
    """Take a rolled back rollout up again where it stands."""
    _act(session, name, "restart", etag=etag)


@command(app, writes=True)
def kill(session: Session, name: Name, *, reason: Reason, yes: Yes = False, etag: Etag = "") -> None:
    """Turn the flag off for everybody at once, in whatever state the rollout is. Admissions are kept."""
    session.confirm(f"Turn {names.brief(name)} off for everybody?", yes=yes)
    _act(session, name, "kill", reason=reason, etag=etag)


@command(app, writes=True)
def unkill(session: Session, name: Name, *, etag: Etag = "") -> None:
    """Take a kill back: what was served before is served again."""
    _act(session, name, "unkill", etag=etag)


@command(app, writes=True)
def complete(session: Session, name: Name, *, etag: Etag = "") -> None:
    """End a rollout in its last stage: all who are eligible are in, the control group too."""
    _act(session, name, "complete", etag=etag)


@command(app, writes=True)
def archive(session: Session, name: Name, *, etag: Etag = "") -> None:
    """Put a rollout away that is a draft, completed or rolled back. It serves what it serves."""
    _act(session, name, "archive", etag=etag)


@command(app, writes=True)
def approve(
    session: Session,
    name: Name,
    gate: Annotated[
        str,
        typer.Argument(
            metavar="[start|STAGE]",
            help="What is approved: the start, or that it leaves a stage.",
            show_default="what waits now",
        ),
    ] = "",
    etag: Etag = "",
) -> None:
    """Approve the start of a rollout, or that it leaves a stage. Not for who wrote the plan."""
    gate = gate or session.gateway.get(f"/v1/{name}")["stage"] or "start"
    answer = session.write("POST", f"/v1/{name}:approve", {"gate": gate, "etag": etag})
    session.tell(answer, lambda each: show.approved(each, gate))


def _act(session: Session, name: str, verb: str, **body: object) -> None:
    """Call a verb and tell where the rollout stands then; in a dry run, what the verb would decide if that is known."""
    if session.settings.dry_run and verb in _SIMULATED:
        question = {"name": name, "verb": verb, "stage": body.get("stage", "")}
        session.tell(_simulate(session, question), show.simulation)
    else:
        session.tell(
            session.write("POST", f"/v1/{name}:{verb}", {key: value for key, value in body.items() if value}),
            show.rollout,
        )
