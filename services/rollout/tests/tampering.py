"""Forges the audit trail as a superuser of the database, in every way and at many places, and counts what verifying finds."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from operator import attrgetter
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from services.chassis.chain import GENESIS, Verification
from services.chassis.database import PLATFORM, Transaction
from services.chassis.testing.databases import TemporaryDatabase
from services.rollout import audit
from services.rollout.audit import AuditEvent, Entry

Trail = list[AuditEvent]
LATER = timedelta(hours=1)
"""How long after its last event a trail is verified: no anchor is on its way any more."""

_COLUMNS = tuple(AuditEvent.__dataclass_fields__)
_row = attrgetter(*_COLUMNS)
_CLEANING = 50  # forgeries that are taken back leave rows behind, which slow the next ones down


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many forgeries were found, of how many; and those that were not."""

    found: int
    total: int
    missed: tuple[str, ...]


def edit(trail: Trail, place: int, dice: random.Random) -> None:
    """Change one field of one event."""
    event = trail[place]
    trail[place] = dice.choice(
        [
            replace(event, time=event.time + timedelta(microseconds=1)),
            replace(event, actor=event.actor + "x"),
            replace(event, cause="rollout.resumed"),
            replace(event, rollout="rollouts/another"),
            replace(event, enterprise=None if event.enterprise else "enterprises/x"),
            replace(event, detail={**event.detail, "reason": "another"}),
            replace(event, snapshot_version=event.snapshot_version + 1),
        ]
    )


def delete(trail: Trail, place: int, dice: random.Random) -> None:
    """Take one event out."""
    del trail[place]


def insert(trail: Trail, place: int, dice: random.Random) -> None:
    """Put one event in, at the end, too; those behind it move on by one."""
    forged = replace(trail[place - 1], sequence=place + 1, actor="clients/nobody")
    trail.insert(place, forged)
    trail[place + 1 :] = [replace(event, sequence=event.sequence + 1) for event in trail[place + 1 :]]


def reorder(trail: Trail, place: int, dice: random.Random) -> None:
    """Let two events change places; each keeps its hash, as if it had always been there."""
    other = dice.choice([each for each in range(len(trail)) if each != place])
    first, second = trail[place], trail[other]
    trail[place], trail[other] = (
        replace(second, sequence=first.sequence),
        replace(first, sequence=second.sequence),
    )


def cut(trail: Trail, place: int, dice: random.Random) -> None:
    """Take an event and all behind it out."""
    del trail[place:]


KINDS: tuple[Callable[[Trail, int, random.Random], None], ...] = (edit, delete, insert, reorder, cut)


def reseal(trail: Trail) -> None:
    """Number and hash a whole trail anew: in itself it is then without a flaw."""
    previous = GENESIS
    for place, event in enumerate(trail):
        if (event.sequence, event.previous_hash) != (place + 1, previous) or audit.hash_of(
            event
        ) != event.hash:
            renumbered = replace(event, sequence=place + 1, previous_hash=previous)
            trail[place] = replace(renumbered, hash=audit.hash_of(renumbered))
        previous = trail[place].hash


def write_trail(database: TemporaryDatabase, anchors: Path, events: int, dice: random.Random) -> Trail:
    """Write a trail as the service does: one to five events in a transaction, which is anchored when it has committed."""
    audit.anchor_to(anchors)
    written: Trail = []
    while len(written) < events:
        entries = [
            Entry(
                "clients/operator",
                "rollout.paused",
                "rollouts/edition",
                dice.choice([None, "enterprises/e1"]),
                {"reason": f"reason {dice.random()}"},
                len(written),
            )
            for _ in range(min(dice.randint(1, 5), events - len(written)))
        ]
        with database.transaction(PLATFORM) as tx:
            written += audit.append_all(tx, entries)
    audit.anchor_to(None)
    return written


class Forger:
    """A superuser's connection. What is forged is verified and taken back."""

    def __init__(self, database: TemporaryDatabase, anchors: Path) -> None:
        self._database = database
        self._anchors = anchors
        self._connection = psycopg.connect(
            database.admin_url,
            autocommit=True,
            row_factory=dict_row,
            options=f"-c search_path={database.schema} -c timezone=UTC",
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def clean(self) -> None:
        """Have the database forget what was taken back."""
        self._connection.execute("vacuum audit_events")

    def verified(self, before: Trail, after: Trail, **options: int) -> Verification:
        """What verifying finds where `after` stands in the place of the trail `before`."""
        kept = {id(event) for event in before} & {id(event) for event in after}
        gone = [event.sequence for event in before if id(event) not in kept]
        with self._connection.transaction(force_rollback=True):
            self._connection.execute("delete from audit_events where sequence = any(%s)", (gone,))
            with (
                self._connection.cursor() as cursor,
                cursor.copy(f"copy audit_events ({', '.join(_COLUMNS)}) from stdin") as copy,
            ):
                for event in (event for event in after if id(event) not in kept):
                    copy.write_row(_row(replace(event, detail=json.dumps(event.detail))))
            now = before[-1].time + LATER
            tx = Transaction(self._connection, schema=self._database.schema, scope=PLATFORM, now=now)
            return audit.verify(tx, self._anchors, **options)


def tamper_everywhere(
    database: TemporaryDatabase, anchors: Path, places: int, *, events: int = 1000, seed: int = 0
) -> Outcome:
    """
    Forge a trail in each way at so many random places, and verify each time.

    In every second case all hashes are computed anew, so that only the anchors can tell.

    Args:
        database: of the service rollout, without events.
        anchors: an empty directory.
        places: how many places for each of the five kinds.
        events: how long the trail is.
        seed: of the random places.
    """
    dice = random.Random(seed)
    trail = write_trail(database, anchors, events, dice)
    forger = Forger(database, anchors)
    total, missed = 0, []
    try:
        assert forger.verified(trail, trail).ok, "the trail is not even right before anybody forged it"
        for kind in KINDS:
            for number in range(places):
                place = dice.randrange(events + (kind is insert))
                forged = list(trail)
                kind(forged, place, dice)
                if resealed := number % 2 == 1:
                    reseal(forged)
                total += 1
                if forger.verified(trail, forged, most=1).ok:
                    missed.append(f"{kind.__name__} at {place}{', resealed' if resealed else ''}")
                if total % _CLEANING == 0:
                    forger.clean()
        assert forger.verified(trail, trail).ok, "a forgery was not taken back"
    finally:
        forger.close()
    return Outcome(total - len(missed), total, tuple(missed))
