"""One run of one command: its options, the gateway, and where the answer goes."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import uuid4

import typer

from gateway.cli.client import Gateway, Json, Problem, TokenCache, UnreachableError
from gateway.cli.names import brief
from gateway.cli.settings import WRITING, Output, Settings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

F = TypeVar("F", bound=Callable[..., None])

REFUSED = 1
"""Exit code: a rule of the platform said no, and said which."""
UNREACHABLE = 3
"""Exit code: no answer, or one that says that the platform is unwell."""
DIFFERENT = 4
"""Exit code, where it is asked for: there are differences."""

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the record.", metavar="TEXT")]
Yes = Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")]
Limit = Annotated[int, typer.Option(min=0, help="How many at most; 0 for all.")]
PlanFile = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="A plan (YAML).")
]

_LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)
_HINTS = {
    "CHANGE_NEEDS_APPROVAL": "propose it: numerator change propose FILE --reason …",
    "APPROVALS_MISSING": "somebody else approves it: numerator rollout approve ROLLOUT --as …",
    "HOLD_NOT_MET": "what holds it: numerator rollout status ROLLOUT; to pass over it: --skip-hold --reason …",
    "ETAG_MISMATCH": "somebody else changed it meanwhile: look again, then decide",
    "APPROVAL_STALE": "it was edited meanwhile: read it again with numerator change show",
    "CHANGE_CONFLICTED": "the plan in force is another by now: propose the change anew",
    "INVITATION_USED": "to take the place away: numerator tenant revoke",
}


class Session:
    """What a command works with: reads, writes that may be dry, and output in the form that was asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.gateway = Gateway(
            settings.gateway_url,
            settings.client,
            settings.read_secret,
            tokens=TokenCache(settings.cache_home.expanduser() / "numerator"),
            timeout=settings.timeout,
        )
        self._key = settings.request_id or str(uuid4())
        self._wrote = False
        self._file: Path | None = None

    # ---- asking

    def write(self, method: str, path: str, body: Json | None = None) -> Json:
        """Send a write; in a dry run, show it and end the command."""
        if self.settings.dry_run:
            request = {"method": method, "url": self.gateway.url + path, "body": body}
            self.tell(
                request, lambda each: [f"would send {each['method']} {each['url']}", _dump(each["body"])]
            )
            raise typer.Exit
        self._wrote = True
        return self.gateway.send(method, path, body, self._key)

    def ask(self, path: str, body: Json) -> Json:
        """Send what changes nothing although it is a POST."""
        return self.gateway.send("POST", path, body)

    def read_plan(self, file: Path) -> str:
        """The text of a file that the platform checks: mistakes are told with the file's name and the line."""
        self._file = file
        return read_text(file)

    # ---- telling

    def tell(
        self, answer: Json, show: "Callable[[Json], Iterable[RenderableType]]", *, compact: bool = False
    ) -> None:
        """Print an answer: itself as JSON, `compact` in one line, or for people, as `show` puts it."""
        if self.settings.output is Output.JSON:
            typer.echo(json.dumps(answer, ensure_ascii=False) if compact else _dump(answer))
            return
        try:
            shown = [*show(answer)]
        except KeyError as missing:
            raise UnreachableError(
                f"{self.gateway.url}: the answer has no {missing}: another version? -o json prints what came",
                sent=False,
            ) from None
        for each in shown:
            if self.console.is_terminal:
                self.console.print(each)
                continue
            with self.console.capture() as captured:
                self.console.print(each)
            # Tables pad their last column, which is of use on a screen only.
            typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

    @cached_property
    def console(self) -> "Console":
        """Colours and folding to the screen's width on a terminal only."""
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        if not console.is_terminal:
            console.width = 10_000
        return console

    def note(self, text: str) -> None:
        """Something besides the answer: to stderr."""
        typer.echo(text, err=True)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before what cannot be unseen: on a terminal, unless `yes`. Ends the command at a no."""
        if not yes and not self.settings.dry_run and at_terminal():
            typer.confirm(question, abort=True, err=True)

    # ---- failing

    def complain(self, error: Problem | UnreachableError) -> int:
        """Say what went wrong; gives the exit code."""
        if isinstance(error, UnreachableError):
            self.note(f"error: {error}")
            self.note("check: does the platform run (make status), and is this its address (NUMERATOR_URL)?")
        elif self.settings.output is Output.JSON:
            self.note(_dump(error.document))
        else:
            self._explain(error)
        if isinstance(error, Problem) and not error.unwell:
            return REFUSED
        if self._wrote and error.sent:
            self.note(f"it may have had its effect; repeat it safely with --request-id {self._key}")
        return UNREACHABLE

    def _explain(self, problem: Problem) -> None:
        violations = problem.document.get("violations", [])
        for each in violations:
            self.note(self._violation(each["field"], each["description"]))
        if not violations:
            reason = f" ({problem.reason})" if problem.reason else ""
            self.note(f"error: {problem}{reason}")
        if problem.status == HTTPStatus.UNAUTHORIZED:
            self.note(f"check: the client {self.settings.client}, and {self.settings.secret_source}")
        if problem.reason in _HINTS:
            self.note(_HINTS[problem.reason])
        if "retryAfter" in problem.document:
            self.note(f"try again in {problem.document['retryAfter']} s")
        if problem.unwell and "traceId" in problem.document:
            self.note(f"trace: {problem.document['traceId']}")

    def _violation(self, field: str, description: str) -> str:
        """As compilers do where it is in a file, so that editors jump there."""
        found = _LINE.fullmatch(description)
        if self._file is None or found is None:
            return f"error: {field}: {description}"
        # Over HTTP fields are in lowerCamelCase; in the file they are not.
        written = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", field)
        return f"{self._file}:{found[1]}: {written}: {found[2]}"


def read_text(file: Path) -> str:
    """The text of a file. Raises typer.BadParameter."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is no UTF-8") from None


def at_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def command(app: typer.Typer, name: str = "", *, writes: bool = False) -> Callable[[F], F]:
    """
    Makes a function a command: it gets a Session, and the options of Settings join its own.

    Args:
        app: the group that it joins.
        name: the function's by default.
        writes: whether it takes --dry-run and --request-id.
    """
    shared = [
        each for each in inspect.signature(Settings).parameters.values() if writes or each.name not in WRITING
    ]

    def register(function: F) -> F:
        def run(**given: Any) -> None:
            session = Session(Settings(**{each.name: given.pop(each.name) for each in shared}))
            try:
                function(session, **given)
            except (Problem, UnreachableError) as error:
                raise typer.Exit(session.complain(error)) from None

        own = list(inspect.signature(function).parameters.values())[1:]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # typer reads it
        run.__doc__ = function.__doc__
        app.command(name or function.__name__)(run)
        return function

    return register


def compare(session: Session, plan: str) -> Json:
    """What a plan would change, as the API tells it. Raises Problem when it has mistakes or may not be applied."""
    return session.ask("/v1/rollouts:apply", {"plan": plan, "validateOnly": True})


def only_rollout(session: Session, given: str | None) -> str:
    """The rollout that was named, or else the only one that is not put away. Raises typer.BadParameter."""
    if given:
        return given
    names = [
        each["name"]
        for each in session.gateway.list("/v1/rollouts", "rollouts")["rollouts"]
        if each["state"] != "ARCHIVED"
    ]
    if len(names) != 1:
        raise typer.BadParameter(
            f"which of {', '.join(map(brief, names))}? Name one with --rollout"
            if names
            else "there is no rollout yet"
        )
    return str(names[0])


def _dump(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
