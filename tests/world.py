"""A running platform with the story's companies on it, for tests and measurements that cross services."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import httpx
from rich.console import Console

from deploy.demo import profiles
from deploy.demo.__main__ import places_of
from deploy.demo.client import Json
from deploy.demo.story import Story
from deploy.local.platform import Platform
from deploy.local.stubs import ROOT


@dataclass
class World:
    """A platform and a story that is being told on it, silently."""

    platform: Platform
    story: Story

    def prepare(self) -> None:
        """Tell the story up to the bound accounts."""
        for step in (self.story.start_rollout, self.story.register, self.story.admit, self.story.bind):
            step()

    def published(self, after: int = 0) -> list[Json]:
        """The judge's word: all posts that the network has committed, in order."""
        posts: list[Json] = []
        while page := self._control("GET", f"log?after={after}")["posts"]:
            posts += page
            after = page[-1]["sequence"]
        return posts

    def last_published(self) -> int:
        """The sequence number of the network's newest post."""
        return int(self._control("GET", "log?after=999999999999")["last_sequence"])

    def set_mode(self, mode: str) -> None:
        """What the network does with an Idempotency-Key. Accounts must be bound anew: the server's software changes."""
        self._control("POST", "mode", {"mode": mode})

    def _control(self, method: str, path: str, body: Json | None = None) -> Json:
        url = f"{self.platform.url('sandbox')}/control/{path}"
        answer: Json = httpx.request(method, url, json=body, timeout=10).raise_for_status().json()
        return answer


def world_of(platform: Platform, people: Path | None = None) -> World:
    """The world of a running platform. What the story prints goes nowhere."""
    if people is None:
        people = platform.home / "profiles.jsonl"
        if not people.exists():
            profiles.write(people, count=3_000)
    return World(platform, Story(places_of(platform, people), Console(file=StringIO())))


@contextmanager
def running_world(home: Path, port_base: int, **extra_env: str) -> Iterator[World]:
    """A platform of its own, up for the time of the block."""
    with Platform(home, port_base, extra_env=extra_env).running() as platform:
        yield world_of(platform)


@contextmanager
def fresh_world(name: str, port_base: int, **extra_env: str) -> Iterator[World]:
    """
    As `running_world`, on a platform without data in `.local/<name>`, where the servers' users can reach it.

    That nothing is left running is checked as it stops; its data and logs stay for a look.
    """
    home = ROOT / ".local" / name
    home.mkdir(parents=True, exist_ok=True)
    Platform(home, port_base).down()  # what an interrupted run has left
    shutil.rmtree(home)
    home.mkdir()
    with running_world(home, port_base, **extra_env) as world:
        yield world
