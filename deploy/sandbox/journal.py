"""A file of JSON lines that only grows."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """
    A line is committed when `append` returns: it is with the operating system, so that it outlives a kill -9
    of this process (not a power cut: there is no fsync). A line that a kill cut short was never committed,
    and is removed when the file is opened again. A second process gets `BlockingIOError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.size = self._whole_lines()
        os.ftruncate(self._file, self.size)

    def _whole_lines(self) -> int:
        """The size of the file up to its last line end."""
        end = os.fstat(self._file).st_size
        while end:
            start = max(0, end - 65_536)
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0

    def append(self, entry: Entry) -> int:
        """Commit one line and return where it begins. On `OSError` (disk full) the file is as before."""
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        start = self.size
        self.size += len(line)
        return start

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The lines from byte `start` to the present end, each with where it begins."""
        end = self.size
        with self.path.open("rb") as file:
            file.seek(start)
            while start < end and (line := file.readline()):
                yield start, line
                start += len(line)

    def clear(self) -> None:
        os.ftruncate(self._file, 0)
        self.size = 0

    def close(self) -> None:
        os.close(self._file)
