"""
Hash chains in which nothing changes unseen: each link's hash covers its content and the hash before it.

That alone does not stop whoever may write to the database from computing the whole chain anew. So each process also writes the
newest link's number and hash into a file of its own outside the database: an *anchor*. `verify` holds a chain against them all.

Keep the anchors where the database's administrators cannot write, and verify often: a link that is forged at the very end looks
like one whose process died before it anchored, and is told as not covered only until the next one covers it.
"""

import json
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from services.chassis.clock import SystemClock
from services.chassis.logs import get_logger

GENESIS = "0" * 64
"""What the first link has for the hash before it."""

canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
"""JSON in one form only: keys in the order of their code points, no spaces, no escapes but those that it needs."""

_logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """
    A link as it is found.

    Attributes:
        sequence: its number; 0 for none.
        time: when it was written; None for no time that we can have written.
        hash: as it is kept.
        flaws: what is wrong with it, if it should follow the link with a given hash.
    """

    sequence: int
    time: datetime | None
    hash: str
    flaws: Callable[[str], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with a chain, and at which link; 0: not at one link."""

    sequence: int
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """
    What verifying has found.

    Attributes:
        checked: how many links were looked at.
        head: the newest link; 0 for none.
        anchored: the newest link that an anchor vouches for, and with it all before; 0 for none.
        mistakes: the first ones, by link.
    """

    checked: int
    head: int
    anchored: int
    mistakes: Sequence[Mistake]

    @property
    def ok(self) -> bool:
        """Whether the chain is what was written."""
        return not self.mistakes


def verify(
    links: Iterable[Link],
    anchors: Path | None,
    *,
    now: datetime,
    grace: timedelta = timedelta(minutes=1),
    most: int = 100,
) -> Verification:
    """
    Hold a chain against itself, and against the anchors in a directory. That there are links and no anchors is a mistake, too.

    Args:
        links: all, by their numbers. Read after the anchors, so that what is anchored is certainly among them.
        anchors: where all processes anchor; None: nowhere.
        now: the time.
        grace: the age from which a link must be covered by an anchor. Younger ones may be about to be.
        most: how many mistakes are enough; it then stops.
    """
    known, mistakes = _read_anchors(anchors)
    none, checked, head, previous, anchored = not known, 0, 0, GENESIS, 0
    uncovered: datetime | None = None
    for link in links:
        if len(mistakes) >= most:
            break
        checked += 1
        if link.sequence != head + 1:
            mistakes.append(Mistake(link.sequence, f"follows {head}: events are missing, or were put in"))
        mistakes += [Mistake(link.sequence, what) for what in link.flaws(previous)]
        head, previous = link.sequence, link.hash
        hashes = known.pop(link.sequence, None)
        if hashes is None:
            uncovered = uncovered or link.time
        elif hashes == {link.hash}:
            anchored, uncovered = link.sequence, None
        else:
            mistakes.append(Mistake(link.sequence, "is not what was anchored"))
    else:
        if none and head:
            mistakes.append(Mistake(0, "there are events, and no anchors"))
        elif (newest := max(known, default=0)) > head:
            mistakes.append(Mistake(head, f"is the last, but events up to {newest} were anchored"))
        elif uncovered and abs(now - uncovered) > grace:
            mistakes.append(Mistake(anchored + 1, "is covered by no anchor, nor is what follows"))
    return Verification(checked, head, anchored, tuple(mistakes[:most]))


class AnchorFile:
    """
    The file in which a process anchors; one line of JSON for each anchor.

    Attributes:
        newest: the number of the newest link that this process has anchored; 0 before the first.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self.newest = 0

    def begin(self, directory: Path | None) -> None:
        """
        Anchor from now on in a new file in `directory`, which is made; None: no more.

        Processes and replicas may share the directory. Raises OSError when that cannot be.
        """
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

    def write(self, sequence: int, hash_: str, now: datetime) -> None:
        """Anchor a link; when that fails it is logged, and the next anchor covers this link, too."""
        if self._path is None:
            return
        line = canonical({"sequence": sequence, "hash": hash_, "time": now.isoformat()})
        try:
            with self._path.open("a") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            _logger.exception("anchor.write_failed", sequence=sequence)
        else:
            self.newest = sequence


def put_aside(anchors: Path, head: int, folder: str) -> int:
    """
    Keep the anchors up to a link, and all as it was in a folder below; for a database that was restored from a backup.

    Returns the newest link that was anchored.
    """
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
    """The link that a line anchors; 0 for what is no anchor."""
    match _loaded(line):
        case {"sequence": int(sequence)}:
            return sequence
    return 0


def _read_anchors(directory: Path | None) -> tuple[dict[int, set[str]], list[Mistake]]:
    """The hashes that were anchored, by link; and what cannot be read."""
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
