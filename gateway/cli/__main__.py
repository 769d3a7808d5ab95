"""`numerator`, or `python -m gateway.cli`."""

import sys
from importlib import import_module
from io import TextIOWrapper

import typer

GROUPS = {
    "rollout": ("rollouts", "app"),
    "tenant": ("tenants", "app"),
    "waitlist": ("tenants", "waitlist"),
    "invite": ("tenants", "invite"),
    "change": ("changes", "app"),
    "review": ("reviews", "app"),
    "flags": ("flags", "app"),
    "audit": ("audit", "app"),
    "replicas": ("replicas", "app"),
}
"""What may come first on the line: the module that has it, and its name there."""

_EPILOG = (
    "Exit codes: 0 done, or the same already · 1 refused by a rule, which is named · 2 called wrongly · "
    "3 not reachable, or unwell · 4 differences, with --exit-code. docs/cli.md tells more."
)


def application(first: str = "") -> typer.Typer:
    """The command line. With only what `first` names, if it names something: a kill does not wait for the rest to load."""
    app = typer.Typer(
        help="Staged rollouts of Numerator, and whom they admit, by the gateway's API.",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # it would print the values of variables, secrets among them
    )
    for name in [first] if first in GROUPS else GROUPS:
        module, attribute = GROUPS[name]
        group: typer.Typer = getattr(import_module(f"gateway.cli.{module}"), attribute)
        # Without a name its commands join: replicas is a command of ours, no group.
        app.add_typer(group, name=None if name == "replicas" else name)
    return app


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # where the locale knows no check marks, and no Chinese
    application(*sys.argv[1:2])(prog_name="numerator")


if __name__ == "__main__":
    main()
