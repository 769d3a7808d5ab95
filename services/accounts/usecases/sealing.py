"""
Seals over the audit trail, so that nothing in it changes unseen.

The trail is appended to by many transactions at once, of all enterprises, and none of them waits for another: what they wrote is
chained afterwards, each second, by one of the workers. A seal is a link of a hash chain over all entries that have come since the
one before it, and is anchored outside the database (`services/chassis/chain.py`). When nothing comes there is a seal a minute, so
that an entry which says to be older than the seal before it was put in later.

What this cannot tell: what a superuser changes between an entry's commit and its seal.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from services.accounts import store
from services.accounts.store import seals
from services.accounts.store.seals import Seal, SealedEntry
from services.chassis import chain
from services.chassis.chain import (
    GENESIS,
    AnchorFile,
    Link,
    Mistake,
    Verification,
    canonical,
)
from services.chassis.database import PLATFORM, Database, Transaction

MOST = 1_000
"""How many entries one seal covers."""

QUIET = timedelta(minutes=1)
"""After this time without an entry there is a seal all the same."""

GRACE = timedelta(minutes=2)
"""From which age on an entry must be sealed, and a seal anchored; also how long a transaction may have been open."""


def seal(database: Database, anchors: AnchorFile) -> None:
    """Seal what has come, and anchor the seals; nothing happens while another process does."""
    more = True
    while more:
        with database.transaction(PLATFORM) as tx:
            if not seals.hold_seals(tx):
                return
            before = seals.newest_seal(tx)
            taken = seals.take_unsealed(tx, MOST)
            if not taken and before and before.time and tx.now - before.time < QUIET:
                return
            newest = append(tx, before, taken)
            tx.after_commit(partial(anchors.write, newest.number, newest.hash, tx.now))
        more = len(taken) == MOST


def append(tx: Transaction, before: Seal | None, entries: list[int]) -> Seal:
    """Seal entries, after the newest seal."""
    number, previous = (before.number + 1, before.hash) if before else (1, GENESIS)
    unhashed = Seal(number, tx.now, entries, previous, "")
    hashed = replace(unhashed, hash=hash_of(unhashed, seals.entries_of(tx, entries)))
    seals.insert_seal(tx, hashed)
    return hashed


def hash_of(link: Seal, entries: list[SealedEntry]) -> str:
    """SHA-256 of the hash before, as text, and of the content as JSON in its canonical form."""
    content = {
        "number": link.number,
        "time": link.time.astimezone(UTC).isoformat(timespec="microseconds") if link.time else None,
        "entries": [each.content for each in entries],
    }
    return hashlib.sha256(f"{link.previous_hash}{canonical(content)}".encode()).hexdigest()


def verify(tx: Transaction, anchors: Path | None, *, most: int = 100) -> Verification:
    """Compute the whole chain anew, and hold it against the anchors; needs the platform's scope. See `chain.verify`."""
    sealed: list[int] = []
    found = chain.verify(_links(tx, sealed), anchors, now=tx.now, grace=GRACE, most=most)
    tx.execute("close audit_chain")
    if found.mistakes:
        return found
    mistakes = []
    entries, waiting, since = seals.count_entries(tx)
    if entries != sum(sealed) + waiting:
        mistakes.append(
            Mistake(0, f"{entries} entries, of which seals cover {sum(sealed)}, and {waiting} wait")
        )
    if since and tx.now - since > GRACE:
        mistakes.append(Mistake(0, f"entries wait for a seal since {since.isoformat()}"))
    return replace(found, mistakes=tuple(mistakes))


def _links(tx: Transaction, sealed: list[int]) -> Iterator[Link]:
    """`sealed` gets how many entries each link covers."""
    floor: datetime | None = None
    for link in seals.all_seals(tx):
        sealed.append(len(link.entries))
        yield Link(link.number, link.time, link.hash, partial(_flaws, tx, link, floor))
        floor = link.time - GRACE if link.time else None


def _flaws(tx: Transaction, link: Seal, floor: datetime | None, previous: str) -> Iterator[str]:
    """What is wrong with a seal that should follow the hash `previous`, and whose entries are not older than `floor`."""
    if link.previous_hash != previous:
        yield "does not continue the one before it"
    entries = seals.entries_of(tx, link.entries, floor)
    if hash_of(link, entries) != link.hash:
        yield "is not what was written: its hash is another"
    for each in entries:
        if each.early:
            yield f"covers the entry {each.content[0]}, which says to be older than the seal before"


def restored(tx: Transaction, anchors: Path | None, *, since: datetime) -> tuple[int, int]:
    """
    Go on after the database was restored from a backup of the time `since`; needs the platform's scope.

    Anchors of seals that are gone are put aside, into a folder named by the time now, and an entry of the trail says so. Returns
    the newest seal that the backup holds, and the newest that was ever anchored.
    """
    newest = seals.newest_seal(tx)
    head = newest.number if newest else 0
    anchored = chain.put_aside(anchors, head, f"{tx.now:%Y%m%dT%H%M%S.%fZ}") if anchors else head
    store.audit(
        tx,
        enterprise="enterprises/platform",
        actor="restore",
        action="database.restored",
        subject="audit",
        backup_time=since.isoformat(),
        head=str(head),
        anchored=str(anchored),
    )
    return head, anchored
