"""The log of API calls that arrived, whatever became of them; commits have their own log (see `store`)."""

import json
from array import array
from datetime import UTC, datetime
from pathlib import Path

from deploy.sandbox.journal import Entry, Journal


class AttemptLog:
    """Two lines per call: when it arrives and when it ends. A kill leaves out the second."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._offsets = array("Q")
        """Where each attempt's first line is."""
        for offset, line in self._journal.lines():
            if line.startswith(b'{"received"'):
                self._offsets.append(offset)

    @property
    def last(self) -> int:
        return len(self._offsets)

    def received(self, operation: str, account: str | None, idempotency_key: str | None) -> int:
        number = len(self._offsets) + 1
        offset = self._journal.append(
            {
                "received": number,
                "time": _now(),
                "operation": operation,
                "account": account,
                "idempotency_key": idempotency_key,
            }
        )
        self._offsets.append(offset)
        return number

    def ended(self, number: int, *, http_status: int | None, fault: str | None, milliseconds: float) -> None:
        """`http_status` None: no reply was sent."""
        self._journal.append(
            {
                "ended": number,
                "time": _now(),
                "http_status": http_status,
                "fault": fault,
                "milliseconds": round(milliseconds, 3),
            }
        )

    def read(self, after: int, limit: int) -> list[Entry]:
        """The attempts above number `after`, in the order of arrival, each with its end if it has one."""
        if after >= len(self._offsets):
            return []
        found: dict[int, Entry] = {}
        running = 0
        for _, line in self._journal.lines(self._offsets[max(0, after)]):
            entry = json.loads(line)
            if (number := entry.pop("received", None)) and len(found) < limit:
                found[number] = {"attempt": number, "received": entry.pop("time"), **entry, "ended": None}
                running += 1
            elif attempt := found.get(entry.pop("ended", 0)):
                attempt.update(ended=entry.pop("time"), **entry)
                running -= 1
            if len(found) == limit and not running:
                break
        return list(found.values())

    def clear(self) -> None:
        self._journal.clear()
        del self._offsets[:]

    def close(self) -> None:
        self._journal.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
