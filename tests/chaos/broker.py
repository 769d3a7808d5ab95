"""The broker is away while people see a campaign: every exposure that was accepted is counted, once."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import psycopg

from deploy.demo.client import Problem, eventually
from tests.chaos.crowd import Crowd, crowd
from tests.chaos.ledger import Ledger
from tests.world import World

_THREADS = 12
_HEAD_START = 0.1
"""The part of the events that is accepted before the broker goes, so that confirms are under way when it does."""
_CATCH_UP_SECONDS = 120
_CALM_POLLS = 5

_QUEUE = "analytics.on_exposure_recorded"


@dataclass
class Outage:
    """What came of a broker's absence."""

    ledger: Ledger = field(default_factory=Ledger)
    """By decision; seen are the facts that analytics knows."""
    counted: int = 0
    """What the public API answers."""
    handled: int = 0
    """What analytics' inbox holds of these events."""
    away: float = 0.0
    """Seconds between the broker's end and its readiness."""
    accepted_meanwhile: int = 0
    caught_up: float = 0.0
    """Seconds from the broker's readiness until everything was counted."""

    @property
    def flawless(self) -> bool:
        """Whether every event was accepted, and counted exactly once in all three places."""
        expected = len(self.ledger.acknowledged)
        return (
            self.ledger.flawless
            and self.ledger.acknowledged == self.ledger.attempted
            and self.counted == self.handled == expected > 0
        )

    def __str__(self) -> str:
        return (
            f"broker away {self.away:.0f} s, {self.accepted_meanwhile:,} events accepted meanwhile; {self.ledger}; "
            f"counted {self.counted:,}, handled {self.handled:,}; all {self.caught_up:.1f} s after its return"
        )


def stop_broker(world: World, events: int, seconds: float, say: Callable[[str], None] = print) -> Outage:
    """
    Stop RabbitMQ for `seconds` while `events` exposures are reported over HTTP.

    Args:
        world: prepared.
        events: how many, each of another person.
        seconds: from its end to its new start.
        say: told how it goes.
    """
    outage = Outage()
    with crowd(world, events) as seen_by, ThreadPoolExecutor(_THREADS) as pool:
        reports = [pool.submit(_report, seen_by, decision, outage.ledger) for decision in seen_by.tokens]
        eventually(
            lambda: len(outage.ledger.acknowledged) >= events * _HEAD_START or None,
            what="the first exposures",
        )
        world.platform.stop("rabbitmq")
        stopped, before = time.monotonic(), len(outage.ledger.acknowledged)
        say(f"    the broker is away; {before:,} of {events:,} exposures were accepted before")
        for report in reports:
            report.result()
        outage.accepted_meanwhile = len(outage.ledger.acknowledged) - before
        say(f"    all exposures were sent {time.monotonic() - stopped:.1f} s after it had gone")
        time.sleep(max(0.0, stopped + seconds - time.monotonic()))  # the absence itself, not synchronisation
        world.platform.start("rabbitmq")
        back = time.monotonic()
        outage.away = back - stopped
        expected = len(outage.ledger.acknowledged)
        with suppress(TimeoutError):  # what is missing then is lost: the ledger tells
            eventually(
                lambda: _counted(world, seen_by) >= expected or None,
                what="the count",
                seconds=_CATCH_UP_SECONDS,
            )
        outage.caught_up = time.monotonic() - back
        # What is applied twice may come late.
        outage.counted = max(_counted(world, seen_by) for _ in range(_CALM_POLLS))
        outage.handled, outage.ledger.seen = _kept(world, seen_by)
    return outage


def _report(seen_by: Crowd, decision: str, ledger: Ledger) -> None:
    ledger.attempted.add(decision)
    try:
        seen_by.feed.post("/v1/exposures", {"token": seen_by.tokens[decision]})
    except (Problem, httpx.HTTPError):
        return  # not acknowledged: the ledger tells
    ledger.acknowledged.add(decision)


def _counted(world: World, seen_by: Crowd) -> int:
    answer = world.story.owner.post(
        f"/v1/{seen_by.enterprise}/analytics:query",
        {"metrics": ["exposures"], "filters": [{"dimension": "placement", "values": [seen_by.placement]}]},
    )
    return sum(int(row["values"][0]) for row in answer.get("rows", []))


def _kept(world: World, seen_by: Crowd) -> tuple[int, Counter[str]]:
    """How many of the events analytics has handled, and the decisions of which it has a fact."""
    with psycopg.connect(world.platform.database_url) as connection:
        handled = connection.execute(
            """
            select count(*) from analytics.inbox where handler = %s
              and event_id in (select id from placement.outbox where subject = %s)
            """,
            (_QUEUE, seen_by.placement),
        ).fetchone()
        facts = connection.execute(
            "select id from analytics.fact_ids where id = any (%s)",
            ([f"exposure:{decision}" for decision in seen_by.tokens],),
        ).fetchall()
    return int(handled[0]) if handled else 0, Counter(str(fact).partition(":")[2] for (fact,) in facts)
