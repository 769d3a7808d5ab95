"""
The audit trail of rollouts: who did what, why, and what it changed; so kept that nothing in it changes unseen.

A subject of its own, so its SQL stands here and not in `store`.

Events are numbered without gaps, and each one's hash covers its content and the hash before it. That alone does not stop
whoever may write to the database from computing the whole chain anew. So each process also writes, after the commit, the newest
event's number and hash into a file of its own outside the database: an *anchor*. `verify` holds the chain against all anchors.

Keep the anchors where the database's administrators cannot write, and verify often: an event that is forged at the very end looks
like one whose process died before it anchored, and is told as not covered only until the next event, or start, covers it.
After a restore from a backup the anchors are ahead of the database: `restored` puts those aside.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Transaction
from services.chassis.logs import get_logger
from services.rollout import store

GENESIS = "0" * 64
"""What the first event has for the hash before it."""

WAKES = "audit"
"""The key under which `Database.changes_listener()` wakes who waits for events."""

_logger = get_logger(__name__)

_PAGE = 1000
_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
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


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with the trail, and at which event; 0: not at one event."""

    sequence: int
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """
    What verifying has found.

    Attributes:
        checked: how many events were looked at.
        head: the newest event; 0 for none.
        anchored: the newest event that an anchor vouches for, and with it all before; 0 for none.
        mistakes: the first ones, by event.
    """

    checked: int
    head: int
    anchored: int
    mistakes: Sequence[Mistake]

    @property
    def ok(self) -> bool:
        """Whether the trail is what was written."""
        return not self.mistakes


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
        elif _canonical(before[key]) != _canonical(after[key]):
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
    tx.after_commit(partial(_own_file.write, events[-1], tx.now))
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
    return hashlib.sha256(f"{event.previous_hash}{_canonical(content)}".encode()).hexdigest()


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
        _own_file.write(newest, tx.now)


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
    # Read before the events, so that what is anchored here is certainly among them.
    known, mistakes = _read_anchors(anchors)
    none, checked, head, previous, anchored = not known, 0, 0, GENESIS, 0
    uncovered: datetime | None = None
    tx.execute("declare audit_chain no scroll cursor for " + _SELECT + " order by sequence")
    for row in _fetch(tx):
        if len(mistakes) >= most:
            break
        checked += 1
        sequence = row["sequence"] or 0
        if sequence != head + 1:
            mistakes.append(Mistake(sequence, f"follows {head}: events are missing, or were put in"))
        mistakes += [Mistake(sequence, what) for what in _flaws(row, previous)]
        head, previous = sequence, row["hash"]
        hashes = known.pop(sequence, None)
        if hashes is None:
            uncovered = uncovered or row["time"]
        elif hashes == {row["hash"]}:
            anchored, uncovered = sequence, None
        else:
            mistakes.append(Mistake(sequence, "is not what was anchored"))
    else:
        if none and head:
            mistakes.append(Mistake(0, "there are events, and no anchors"))
        elif (newest := max(known, default=0)) > head:
            mistakes.append(Mistake(head, f"is the last, but events up to {newest} were anchored"))
        elif uncovered and abs(tx.now - uncovered) > grace:
            mistakes.append(Mistake(anchored + 1, "is covered by no anchor, nor is what follows"))
    tx.execute("close audit_chain")
    return Verification(checked, head, anchored, tuple(mistakes[:most]))


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
    came = Restored(head, _put_aside(anchors, head, aside) if anchors else head)
    detail = {
        "backup_time": since.isoformat(),
        "head": head,
        "anchored": came.anchored,
        "aside": aside if came.lost else "",
    }
    append(tx, actor="restore", cause="database.restored", rollout="", detail=detail)
    return came


def _put_aside(anchors: Path, head: int, folder: str) -> int:
    """Keep the anchors up to an event, and all as it was in a folder below. Returns the newest event that was anchored."""
    newest = head
    for path in sorted(anchors.glob("*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        beyond = {line: each for line in lines if (each := _anchored(line)) > head}
        if beyond:
            newest = max(newest, *beyond.values())
            (anchors / folder).mkdir(exist_ok=True)
            (anchors / folder / path.name).hardlink_to(path)
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                file.writelines(line for line in lines if line not in beyond)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
    return newest


def _anchored(line: bytes) -> int:
    """The event that a line anchors; 0 for what is no anchor."""
    match _loaded(line):
        case {"sequence": int(sequence)}:
            return sequence
    return 0


class _AnchorFile:
    """The file in which this process anchors; one line of JSON for each anchor."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self.newest = 0

    def begin(self, directory: Path | None) -> None:
        self._path, self.newest = None, 0
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        started = SystemClock().now().strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = directory / f"{socket.gethostname()}-{os.getpid()}-{started}.jsonl"
        self._path.touch()
        folder = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(folder)  # or a crash of the machine may lose the file's name
        finally:
            os.close(folder)

    def write(self, event: AuditEvent, now: datetime) -> None:
        """Anchor an event; when that fails it is logged, and the next anchor covers this event, too."""
        if self._path is None:
            return
        line = _canonical({"sequence": event.sequence, "hash": event.hash, "time": now.isoformat()})
        try:
            with self._path.open("a") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            _logger.exception("anchor.write_failed", sequence=event.sequence)
        else:
            self.newest = event.sequence


_own_file = _AnchorFile()


def _read_anchors(directory: Path | None) -> tuple[dict[int, set[str]], list[Mistake]]:
    """The hashes that were anchored, by event; and what cannot be read."""
    known: dict[int, set[str]] = {}
    mistakes: list[Mistake] = []
    for path in sorted(directory.glob("*.jsonl")) if directory else ():
        # What follows the last line break is half a line of a process that died.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            match _loaded(line):
                case {"sequence": int(sequence), "hash": str(hash_)}:
                    known.setdefault(sequence, set()).add(hash_)
                case _:
                    mistakes.append(Mistake(0, f"line {number} of {path.name} is no anchor"))
    return known, mistakes


def _loaded(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


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
