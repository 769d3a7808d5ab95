"""`make demo`: starts the platform if need be, plays the story on it, and says where to look."""

from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel

from deploy.demo import profiles
from deploy.demo.client import Problem
from deploy.demo.story import Places, Story
from deploy.local.__main__ import Home, PortBase, up
from deploy.local.platform import HOME, PORT_BASE, Platform
from deploy.sandbox.users import PASSWORD


def main(
    home: Home = HOME,
    port_base: PortBase = PORT_BASE,
    people: Annotated[
        Path | None, typer.Option("--profiles", help="A file of your own; see docs/profiles.md.")
    ] = None,
) -> None:
    """Play the story that must always work."""
    console = Console()
    began = monotonic()
    up(home, port_base)
    platform = Platform(home, port_base)
    if people is None:
        people = home / "profiles.jsonl"
        if not people.exists():
            profiles.write(people)
    started = monotonic()
    try:
        Story(places_of(platform, people), console).play()
    except (Problem, TimeoutError) as error:
        console.print(f"[red]✗ The story ends here:[/red] {error}", highlight=False)
        console.print("What runs: make status; its logs: make logs. The platform keeps running.")
        raise typer.Exit(1) from None
    told = monotonic()
    console.print()
    console.print(
        Panel.fit(
            f"The platform was up after [bold]{started - began:.0f} s[/bold], and the story took "
            f"[bold]{told - started:.0f} s[/bold].\n\n"
            f"API, with every call explained   {platform.url('gateway')}/docs\n"
            f"The sandbox network              {platform.url('sandbox')}/\n"
            f"The rollout, in a shell          .venv/bin/numerator rollout status enterprise-edition\n"
            f"What runs                        make status\n"
            f"Its logs                         make logs\n"
            f"Play it again                    make demo\n"
            f"Stop everything                  make down",
            title="It keeps running",
        )
    )


def places_of(platform: Platform, people: Path) -> Places:
    """Where a running platform's story is played."""
    return Places(
        gateway=platform.url("gateway"),
        network=platform.url("sandbox"),
        operator_secret=platform.keys.operator_secret.read_text(),
        reviewer_secret=platform.keys.operator_secret_of("reviewer"),
        network_secret=platform.keys.network_secret.read_text(),
        profiles=people,
        network_password=PASSWORD,
    )


if __name__ == "__main__":
    typer.run(main)
