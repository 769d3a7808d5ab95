"""Any process is killed in the middle of a publication; the network's own log says what came of it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from statistics import median

import httpx
import psutil
import psycopg

from deploy.demo.client import Json, Problem, eventually
from deploy.local.platform import Platform
from deploy.local.programs import Stage
from tests.chaos.ledger import Ledger
from tests.world import World

SOFTWARE = {"honours": "mastodon", "serial": "hollo", "ignores": "gotosocial"}
"""What the network says it is, by mode. Publishing goes by it."""

PATH = (
    "postgres",
    "rabbitmq",
    "sandbox",
    "gateway",
    "publishing-api",
    "publishing-worker",
    "publishing-sender",
)
"""Whom a publication needs on its way."""

FINAL_SECONDS = 60
"""How long a delivery may take to its end, whatever happens. The story itself waits no longer."""

RECOVERY_SECONDS = 90

Say = Callable[[str], None]


@dataclass
class Killings:
    """What came of a series of killings."""

    kills: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    refused: list[str] = field(default_factory=list)
    """Programs at whose death the story's step got an error instead of an end."""
    not_final: list[str] = field(default_factory=list)
    """Programs after whose death a delivery had no end within 60 s, or a wrong one."""
    in_the_middle: int = 0
    """Kills after the step had begun and before all of its posts were on the network."""
    slowest: float = 0.0

    @property
    def flawless(self) -> bool:
        """Whether the step always came to its end, and each account has its post exactly once."""
        return bool(self.kills) and self.ledger.flawless and not (self.refused or self.not_final)

    def __str__(self) -> str:
        return (
            f"{len(self.kills)} kills, {self.in_the_middle} before the last post was out; {self.ledger}; "
            f"{len(self.not_final)} not final after {FINAL_SECONDS} s, {len(self.refused)} steps refused; "
            f"slowest {self.slowest:.0f} s"
        )


def programs(platform: Platform) -> list[str]:
    """Everything that can be killed: all of ours, database and broker; not the supervisor."""
    return [name for name, program in platform.programs.items() if program.stage is not Stage.MIGRATIONS]


def kill_each(
    world: World,
    mode: str,
    victims: Sequence[str],
    *,
    seed: int,
    rebind: bool = True,
    window: float | None = None,
    say: Say = print,
) -> Killings:
    """
    For each program: begin the story's publication, kill -9 the program at a random moment of it, and wait for the end.

    Args:
        world: prepared.
        mode: what the network does with an Idempotency-Key: `honours` or `ignores`.
        victims: whom to kill, one after another.
        seed: of the moments.
        rebind: let publishing know what the network is. Without, it goes on believing what it knew: a mutant.
        window: within how many seconds of its beginning to kill; by default until all posts are out when nobody is killed.
        say: told of each killing.
    """
    random = Random(f"{seed} {mode}")
    world.set_mode(mode)
    if rebind:
        bind_anew(world, SOFTWARE[mode])
    if window is None:
        window = median(_calm_seconds(world, f"{mode} calm {random.getrandbits(32):08x}") for _ in range(3))
    say(f"    {mode}: kills within {window:.2f} s of the beginning; seed {seed}")
    before = world.last_published()
    killings = Killings()
    strikes = []
    for victim in victims:
        mark = f"{mode} {victim} {random.getrandbits(32):08x}"
        moment = random.uniform(0, window)
        end, killed_at = _strike(world, killings, victim, mark, moment)
        strikes.append((mark, killed_at))
        say(f"    {mode}: {victim} killed after {moment:.2f} s; {end}")
    # Once more at the very end: what is sent twice may come late.
    posts = world.published(after=before)
    killings.ledger.seen.update(post["text"] for post in posts)
    for mark, killed_at in strikes:
        out = sum(mark in post["text"] and _time(post) < killed_at for post in posts)
        killings.in_the_middle += out < 3
    return killings


def bind_anew(world: World, software: str) -> None:
    """Bind the accounts, and wait until publishing knows what their server runs now."""
    world.story.bind()
    accounts = list(world.story.accounts.values())

    def learned() -> bool | None:
        with psycopg.connect(world.platform.database_url) as connection:
            known = connection.execute(
                "select software from publishing.accounts where name = any (%s)", (accounts,)
            ).fetchall()
        return True if known == [(software,)] * len(accounts) else None

    eventually(
        learned, what=f"publishing's knowledge that the network runs {software}", seconds=FINAL_SECONDS
    )


def tell_the_story(world: World) -> Json:
    """The whole story once more, from its beginning; returns its results. Raises what ends it."""
    world.story.mark = datetime.now(UTC).strftime("%d %b %H:%M:%S.%f")
    return world.story.play()


def _calm_seconds(world: World, mark: str) -> float:
    """How long it takes from the beginning of the step to its last post when nobody is killed."""
    world.story.mark = mark
    before, began = world.last_published(), datetime.now(UTC)
    world.story.publish()
    return max((_time(post) - began).total_seconds() for post in world.published(after=before))


def _strike(world: World, killings: Killings, victim: str, mark: str, moment: float) -> tuple[str, datetime]:
    """One publication and one killing; returns how it ended, in words, and when the victim was killed."""
    world.story.mark = mark
    texts = _texts(world)
    killings.kills.append(victim)
    killings.ledger.attempted |= texts
    process = psutil.Process(world.platform.pid(victim))
    killed: list[datetime] = []

    def kill() -> None:
        process.kill()
        killed.append(datetime.now(UTC))

    killer = threading.Timer(moment, kill)
    began = time.monotonic()
    killer.start()
    end = "published"
    try:
        world.story.publish()
        killings.ledger.acknowledged |= texts
    except TimeoutError:
        killings.ledger.acknowledged |= texts
        end = "NOT FINAL"
    except (Problem, httpx.HTTPError) as error:
        killings.refused.append(victim)
        end = f"REFUSED: {error!r}"
    ended = time.monotonic() - began
    killer.join()
    states = sorted(delivery["state"] for delivery in world.story.deliveries)
    if end == "published" and states != ["PUBLISHED"] * len(texts):
        end = f"ENDED AS {', '.join(states)}"
    if end != "published" and victim not in killings.refused:
        killings.not_final.append(victim)
    recovered = await_recovery(world.platform, victim, process.pid)
    killings.slowest = max(killings.slowest, ended)
    return f"{end} after {ended:.1f} s; all ready {recovered:.1f} s later", killed[0]


def _texts(world: World) -> set[str]:
    """What the publication says where; left out is `care`."""
    publication = world.story.publication()
    return {publication["text"], *(variant["text"] for variant in publication["variants"])}


def _time(post: Json) -> datetime:
    return datetime.fromisoformat(post["time"])


def await_recovery(platform: Platform, program: str, old: int) -> float:
    """Wait until a killed program runs again and all others are ready, too; returns the seconds."""
    began = time.monotonic()
    eventually(
        lambda: (platform.states()[program].pid not in (0, old) and not platform.not_ready()) or None,
        what=f"the recovery of {program}",
        seconds=RECOVERY_SECONDS,
    )
    return time.monotonic() - began
