"""
The audit trail of rollouts: who did what, why, and what it changed; so kept that nothing in it changes unseen.

A subject of its own, so its SQL stands here and not in `store`.

Events are numbered without gaps, and are the links of a hash chain that is anchored outside the database, after each commit: see
`services/chassis/chain.py`.
After a restore from a backup the anchors are ahead of the database: `restored` puts those aside.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from services.chassis import chain
from services.chassis.chain import GENESIS, AnchorFile, Verification, canonical
from services.chassis.database import PLATFORM, Transaction
from services.rollout import store

WAKES = "audit"
"""The key under which `Database.changes_listener()` wakes who waits for events."""

_PAGE = 1000
# A moment that Python cannot hold was not written by us.
_SELECT = """
    select sequence, case when time between '0001-01-02' and '9999-12-30' then time end as time, actor, cause, rollout,
           enterprise, detail::text as detail, snapshot_version, previous_hash, hash
    from audit_events
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What is to be written down.

    Attributes:
        actor: who did it: a principal's subject, as `clients/operator`, or a part of the system, as `scheduler`.
        cause: what was done, as `rollout.paused`.
        rollout: whom it concerns, as `rollouts/edition`; empty for no rollout.
        enterprise: whom it concerns, when it is one enterprise.
        detail: reasons, and before and after, as by `patch`. JSON; no secrets.
        snapshot_version: of the snapshot that says so; 0 when none does.
    """

    actor: str
    cause: str
    rollout: str
    enterprise: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    snapshot_version: int = 0


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An entry in its place in the chain. Hashes are 64 hexadecimal digits."""

    sequence: int
    time: datetime
    actor: str
    cause: str
    rollout: str
    enterprise: str | None
    detail: Mapping[str, Any]
    snapshot_version: int
    previous_hash: str
    hash: str


def patch(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> list[dict[str, Any]]:
    """
    What changed between two JSON objects, as a JSON Patch (RFC 6902); lists are replaced whole.

    Each operation also tells what was there `before`, which readers of JSON Patch pass over.
    """
    operations: list[dict[str, Any]] = []
    for key in sorted({*before, *after}):
        path = f"{at}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in after:
            operations.append({"op": "remove", "path": path, "before": before[key]})
        elif key not in before:
            operations.append({"op": "add", "path": path, "value": after[key]})
        elif isinstance(before[key], Mapping) and isinstance(after[key], Mapping):
            operations += patch(before[key], after[key], path)
        elif canonical(before[key]) != canonical(after[key]):
            operations.append({"op": "replace", "path": path, "before": before[key], "value": after[key]})
    return operations


def append(
    tx: Transaction,
    *,
    actor: str,
    cause: str,
    rollout: str,
    enterprise: str | None = None,
    detail: Mapping[str, Any],
    snapshot_version: int = 0,
) -> AuditEvent:
    """Write one event down; see `Entry` and `append_all`."""
    return append_all(tx, [Entry(actor, cause, rollout, enterprise, detail, snapshot_version)])[0]


def append_all(tx: Transaction, entries: Sequence[Entry]) -> list[AuditEvent]:
    """
    Write events down when, and only when, this transaction commits, and anchor the last of them then.

    Takes `store.lock`, which is what makes the numbers follow each other. Needs the scope PLATFORM.
    """
    _check_scope(tx)
    if not entries:
        return []
    store.lock(tx)
    last = _newest(tx)
    first, previous = (last.sequence + 1, last.hash) if last else (1, GENESIS)
    # Hashed as the database gives it back: it writes some numbers in another way than Python.
    stored = tx.execute(
        "select detail::text from jsonb_array_elements(%s) with ordinality as given (detail, place) order by place",
        (Jsonb([entry.detail for entry in entries]),),
    )
    events = []
    for sequence, (entry, row) in enumerate(zip(entries, stored, strict=True), start=first):
        event = AuditEvent(
            sequence=sequence,
            time=tx.now,
            actor=entry.actor,
            cause=entry.cause,
            rollout=entry.rollout,
            enterprise=entry.enterprise,
            detail=json.loads(row["detail"]),
            snapshot_version=entry.snapshot_version,
            previous_hash=previous,
            hash="",
        )
        previous = hash_of(event)
        events.append(replace(event, hash=previous))
    tx.executemany(
        """
        insert into audit_events (sequence, time, actor, cause, rollout, enterprise, detail, snapshot_version, previous_hash,
               hash)
        values (%(sequence)s, %(time)s, %(actor)s, %(cause)s, %(rollout)s, %(enterprise)s, %(detail)s, %(snapshot_version)s,
                %(previous_hash)s, %(hash)s)
        """,
        [asdict(event) | {"detail": Jsonb(event.detail)} for event in events],
    )
    tx.execute("select pg_notify(%s, %s)", (f"{tx.schema}_changes", WAKES))
    tx.after_commit(partial(_own_file.write, events[-1].sequence, events[-1].hash, tx.now))
    return events


def hash_of(event: AuditEvent) -> str:
    """
    An event's hash: SHA-256 of the hash before it, as text, and of its content as JSON. Frozen: golden vectors guard it.

    The JSON has its keys in the order of their code points, no spaces, and no escapes but those that it needs. The time is in UTC
    and has six decimals.
    """
    content = {
        "sequence": event.sequence,
        "time": event.time.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": event.actor,
        "cause": event.cause,
        "rollout": event.rollout,
        "enterprise": event.enterprise,
        "detail": event.detail,
        "snapshotVersion": event.snapshot_version,
    }
    return hashlib.sha256(f"{event.previous_hash}{canonical(content)}".encode()).hexdigest()


def list_events(
    tx: Transaction, rollout: str | None, *, limit: int, after: int | None = None, ascending: bool = False
) -> list[AuditEvent]:
    """
    Events of a rollout, or of all (None): newest first those before the number `after`, or `ascending` those behind it.

    To watch: subscribe to `WAKES`, ask for what is behind the last that was seen, wait, ask again.
    """
    asked = {"rollout": rollout, "after": after, "limit": limit}
    where = " where (%(rollout)s::text is null or rollout = %(rollout)s)"
    if ascending:
        behind = " and sequence > coalesce(%(after)s, 0) order by sequence limit %(limit)s"
        return [_event(row) for row in tx.execute(_SELECT + where + behind, asked)]
    before = " and (%(after)s::bigint is null or sequence < %(after)s) order by sequence desc limit %(limit)s"
    return [_event(row) for row in tx.execute(_SELECT + where + before, asked)]


def anchor_to(directory: Path | None) -> None:
    """
    Anchor what this process writes from now on in a new file in `directory`, which is made; None: no more.

    Processes and replicas may share the directory. Call it once, at the start. Raises OSError when that cannot be.
    """
    _own_file.begin(directory)


def anchor_head(tx: Transaction) -> None:
    """
    Anchor the newest event, and with it all before, unless this process has anchored yet; needs the scope PLATFORM.

    Makes up for a process that died between commit and anchor. For the start of a process, as soon as the database answers.
    """
    _check_scope(tx)
    if not _own_file.newest and (newest := _newest(tx)):
        _own_file.write(newest.sequence, newest.hash, tx.now)


def newest_anchored() -> int:
    """The number of the newest event that this process has anchored; 0 before the first."""
    return _own_file.newest


def verify(
    tx: Transaction, anchors: Path | None, *, grace: timedelta = timedelta(minutes=1), most: int = 100
) -> Verification:
    """
    Hold the chain against itself, and against the anchors in a directory; needs the scope PLATFORM.

    That there are events and no anchors at all is a mistake, too.

    Args:
        tx: reads all events, a page at a time. At most one verification in a transaction at a time.
        anchors: where all processes anchor; None: nowhere.
        grace: the age from which an event must be covered by an anchor. Younger ones may be about to be.
        most: how many mistakes are enough; it then stops.
    """
    _check_scope(tx)
    verification = chain.verify(_links(tx), anchors, now=tx.now, grace=grace, most=most)
    tx.execute("close audit_chain")
    return verification


def _links(tx: Transaction) -> Iterator[chain.Link]:
    tx.execute("declare audit_chain no scroll cursor for " + _SELECT + " order by sequence")
    for row in _fetch(tx):
        yield chain.Link(row["sequence"] or 0, row["time"], row["hash"], partial(_flaws, row))


@dataclass(frozen=True, slots=True)
class Restored:
    """
    What a restore has cost the trail.

    Attributes:
        head: the newest event that the backup holds; 0 for none.
        anchored: the newest event that was ever anchored; 0 for none.
    """

    head: int
    anchored: int

    @property
    def lost(self) -> bool:
        """Whether events were anchored that are gone."""
        return self.anchored > self.head


def restored(tx: Transaction, anchors: Path | None, *, since: datetime) -> Restored:
    """
    Go on after the database was restored from a backup of the time `since`; needs the scope PLATFORM, and a trail at rest.

    Anchors of events that are gone are put aside, into a folder named by the time now, and an event says so. Anchors of what the
    backup holds stay, so a backup that was forged is found as ever.
    """
    _check_scope(tx)
    store.lock(tx)
    newest = _newest(tx)
    head = newest.sequence if newest else 0
    aside = f"{tx.now:%Y%m%dT%H%M%S.%fZ}"
    came = Restored(head, chain.put_aside(anchors, head, aside) if anchors else head)
    detail = {
        "backup_time": since.isoformat(),
        "head": head,
        "anchored": came.anchored,
        "aside": aside if came.lost else "",
    }
    append(tx, actor="restore", cause="database.restored", rollout="", detail=detail)
    return came


_own_file = AnchorFile()


def _fetch(tx: Transaction) -> Iterator[dict[str, Any]]:
    """
    The rows of the cursor `audit_chain`.

    A cursor and not pages by number: an administrator who forges may also have dropped the key, and made numbers twice.
    """
    while rows := tx.execute(f"fetch {_PAGE} from audit_chain").fetchall():
        yield from rows


def _flaws(row: dict[str, Any], previous: str) -> Iterator[str]:
    """What is wrong with an event that should follow the one with the hash `previous`."""
    if row["previous_hash"] != previous:
        yield "does not continue the one before it"
    try:
        intact = hash_of(_event(row)) == row["hash"]
    except (ValueError, RecursionError):
        intact = False  # what cannot be read was not written by us
    if not intact:
        yield "is not what was written: its hash is another"


def _newest(tx: Transaction) -> AuditEvent | None:
    row = tx.execute(_SELECT + " order by sequence desc limit 1").fetchone()
    return _event(row) if row else None


def _event(row: dict[str, Any]) -> AuditEvent:
    """Raises ValueError for what we never write."""
    if row["time"] is None:
        raise ValueError("the time is out of range")
    return AuditEvent(**row | {"detail": json.loads(row["detail"])})


def _check_scope(tx: Transaction) -> None:
    if tx.scope != PLATFORM:
        raise ValueError(
            "the audit trail is written and verified in the scope PLATFORM: another one sees a part"
        )
