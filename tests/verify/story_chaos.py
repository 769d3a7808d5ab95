"""What breaks, and what comes of it: rows 2, 3, 4 and 9 of `make verify-story`, in CI size."""

from collections.abc import Iterator
from os import cpu_count, getloadavg
from pathlib import Path
from random import SystemRandom

from tests.chaos import kills as killing
from tests.chaos import poison as poisoning
from tests.chaos.broker import stop_broker
from tests.chaos.database import restart_database
from tests.chaos.startup import start_twice
from tests.verify.table import Row
from tests.world import World

EVENTS = 2_000
AWAY_SECONDS = 20
RESTARTS = 3
RECOVERY_SECONDS = 10
POISON = 1_000
START_SECONDS = 120


def kills(world: World) -> Iterator[Row]:
    """Row 2: everything once, and what a publication needs twice, in both modes; then the whole story."""
    seed = _seed()
    victims = [*killing.programs(world.platform), *killing.PATH]
    for mode in ("ignores", "honours"):
        came = killing.kill_each(world, mode, victims, seed=seed)
        yield Row(
            f"kill -9 of each of {len(set(victims))} programs during a publication, network {mode} keys",
            "0 lost, 0 twice by the network's log, all final after 60 s",
            f"{came}; seed {seed}",
            came.flawless,
        )
    told = killing.tell_the_story(world)
    seen = told["posts_seen"]
    yield Row(
        "the whole story after the killings",
        "ends; each account has its post once",
        f"posts seen: {seen}",
        set(seen.values()) == {1},
    )


def broker_and_database(world: World) -> Iterator[Row]:
    """Row 3."""
    outage = stop_broker(world, EVENTS, AWAY_SECONDS)
    yield Row(
        f"RabbitMQ stopped for {AWAY_SECONDS} s, {EVENTS:,} events meanwhile",
        "0 lost, 0 applied twice",
        str(outage),
        outage.flawless and outage.away >= AWAY_SECONDS,
    )
    seed = _seed()
    restarts = restart_database(world, RESTARTS, seed=seed)
    yield Row(
        "PostgreSQL restarted with -m immediate under requests",
        f"errors are 503 with a reason and Retry-After; recovery < {RECOVERY_SECONDS} s; writes there once",
        f"{restarts}; seed {seed}",
        restarts.flawless and max(restarts.recoveries) < RECOVERY_SECONDS,
    )


def poison(world: World) -> Iterator[Row]:
    """Row 4."""
    killing.tell_the_story(world)
    seed = _seed()
    came = poisoning.poison_all(world, POISON, seed=seed)
    yield Row(
        f"{POISON:,} poison messages on each of {came.queues} queues",
        "no process dies, all are dead letters with the reason, good ones among them are handled",
        f"{came}; seed {seed}",
        came.flawless,
    )


def start_up(home: Path, port_base: int) -> Iterator[Row]:
    """Row 9: on a platform of its own, with nothing else of ours running."""
    load = getloadavg()[0]
    first, second = start_twice(home, port_base)
    for which, start in (("first, without data", first), ("second", second)):
        yield Row(
            f"start-up of everything, {which}",
            f"up within {START_SECONDS} s; seconds and memory",
            f"{start}; the machine's load before was {load:.0f} on {cpu_count()} cores",
            start.seconds < START_SECONDS,
        )


def _seed() -> int:
    return SystemRandom().randrange(1 << 32)
