"""`python -m deploy.local {up,down,status,logs,restart,reset,url}`: the platform on this machine."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from deploy.local.platform import HOME, PORT_BASE, TIMEOUT, Platform, PlatformError
from deploy.local.programs import Stage
from deploy.local.server import ServerError
from deploy.local.supervisor import SupervisorError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
console = Console(highlight=False)

Home = Annotated[Path, typer.Option(help="Where data, secrets and logs are kept.")]
PortBase = Annotated[
    int, typer.Option(help="The first of fifty ports; NUMERATOR_PORT_BASE sets the default.")
]
Programs = Annotated[list[str] | None, typer.Argument(help="As `status` names them; all if none is given.")]


class Shown:
    """The progress of a start on the console: what is waited for, and a line per finished stage."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def waiting(self, names: Sequence[str]) -> None:
        """Show the programs that are not ready yet."""
        self._status.update(f"waiting for {', '.join(names)}")

    def done(self, what: str, seconds: float) -> None:
        """Print a line."""
        console.print(f"  [green]✓[/] {what}: {seconds:.1f} s")


@app.command()
def up(home: Home = HOME, port_base: PortBase = PORT_BASE, timeout: float = TIMEOUT) -> None:
    """Start what does not run, and wait until everything is ready."""
    with _errors_told():
        platform = Platform(home, port_base)
        was_running = platform.supervisor.running()
        started = time.monotonic()
        try:
            with console.status("starting") as status:
                platform.up(timeout, Shown(status))
        except KeyboardInterrupt:
            if not was_running:
                console.print("interrupted; stopping what was started")
                platform.down()
            raise
        console.print(f"Numerator is up at {platform.url('gateway')} ({time.monotonic() - started:.1f} s)")


@app.command()
def down(home: Home = HOME, port_base: PortBase = PORT_BASE) -> None:
    """Stop everything. Data is kept."""
    with _errors_told(), console.status("stopping"):
        Platform(home, port_base).down()
    console.print("Numerator is down; nothing is left running.")


@app.command()
def reset(home: Home = HOME, port_base: PortBase = PORT_BASE) -> None:
    """Stop everything and delete its data, secrets and logs."""
    with _errors_told(), console.status("stopping"):
        Platform(home, port_base).remove()
    console.print("Numerator is down, and its data is gone.")


@app.command()
def restart(programs: Programs = None, home: Home = HOME, port_base: PortBase = PORT_BASE) -> None:
    """Restart programs, for instance after a change of code; without names, everything."""
    with _errors_told(), console.status("restarting") as status:
        platform = Platform(home, port_base)
        if not programs:
            platform.down()
            platform.up(progress=Shown(status))
        for name in programs or ():
            platform.restart(name)
            console.print(f"  [green]✓[/] {name}")


@app.command()
def status(home: Home = HOME, port_base: PortBase = PORT_BASE) -> None:
    """Show what runs, for how long, and how much memory it takes. Exit code 1 unless everything is ready."""
    platform = Platform(home, port_base)
    states = platform.states()
    table = Table("program", "state", "ready", "pid", "up for", "memory", box=None)
    total, all_ready = 0, bool(states)
    for name, program in platform.programs.items():
        if program.stage is Stage.MIGRATIONS or name not in states:
            continue
        state = states[name]
        ready = bool(state.pid) and program.ready()
        memory = _memory(state.pid) if state.pid else 0
        total, all_ready = total + memory, all_ready and ready
        uptime = f"{time.time() - state.started:.0f} s" if state.pid else ""
        table.add_row(
            name, state.status, "[green]✓[/]" if ready else "[red]✗[/]", str(state.pid or ""), uptime,
            f"{memory / 2**20:.0f} MB",
        )  # fmt: skip
    console.print(table if states else "Numerator is down.")
    if states:
        console.print(f"memory of all: {total / 2**20:.0f} MB")
    raise typer.Exit(0 if all_ready else 1)


@app.command()
def logs(programs: Programs = None, home: Home = HOME, port_base: PortBase = PORT_BASE) -> None:
    """Follow the logs, until Ctrl-C."""
    platform = Platform(home, port_base)
    names = programs or list(platform.programs)
    files = [str(platform.log(name)) for name in names if platform.log(name).exists()]
    if not files:
        console.print(f"no logs in {platform.supervisor.logs}")
        raise typer.Exit(1)
    subprocess.run(["tail", "-n", "20", "-F", *files], check=False)


@app.command()
def url(
    name: Annotated[str, typer.Argument()] = "gateway", home: Home = HOME, port_base: PortBase = PORT_BASE
) -> None:
    """Print where the gateway, the sandbox or a service is."""
    typer.echo(Platform(home, port_base).url(name))


def _memory(pid: int) -> int:
    """Bytes of a process and its children; what they share is counted once (proportional set size)."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        try:
            return int(sum(each.memory_full_info().pss for each in family))
        except psutil.AccessDenied:  # another user's, in a container
            return int(sum(each.memory_info().rss for each in family))
    except psutil.NoSuchProcess:
        return 0


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except (PlatformError, ServerError, SupervisorError) as error:
        console.print("[red]✗[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
