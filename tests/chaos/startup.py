"""From nothing to ready: how long, and how much memory."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.platform import Platform
from tests.chaos.kills import programs


@dataclass(frozen=True, slots=True)
class StartUp:
    """
    One start of everything.

    Attributes:
        seconds: until all is ready.
        programs: how many run then.
        processes: with their children.
        proportional: bytes of memory, what is shared counted once.
        resident: bytes of memory, what is shared counted each time.
    """

    seconds: float
    programs: int
    processes: int
    proportional: int
    resident: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:.1f} s; {self.programs} programs, {self.processes} processes, "
            f"{self.proportional / 2**20:,.0f} MB (resident {self.resident / 2**20:,.0f} MB)"
        )


def start_twice(home: Path, port_base: int) -> tuple[StartUp, StartUp]:
    """The first start, on nothing, and the second, on what the first left. Nothing runs before, between and after."""
    home.mkdir(parents=True, exist_ok=True)
    Platform(home, port_base).down()
    shutil.rmtree(home)
    home.mkdir()
    platform = Platform(home, port_base)
    return _start(platform), _start(platform)


def _start(platform: Platform) -> StartUp:
    began = time.monotonic()
    with platform.running():
        seconds = time.monotonic() - began
        roots = [psutil.Process(platform.pid(name)) for name in programs(platform)]
        everything = [each for root in roots for each in [root, *root.children(recursive=True)]]
        memory = [each.memory_full_info() for each in everything]
        return StartUp(
            seconds,
            len(roots),
            len(everything),
            sum(each.pss for each in memory),
            sum(each.rss for each in memory),
        )
