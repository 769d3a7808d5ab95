"""
Many accounts bound at once by the links of invitations: what the enterprise, the holders and their browsers do, by HTTP alone.

Whatever is killed meanwhile, holders do what people do: they open the same link again.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count as numbers
from uuid import uuid4

import httpx

from deploy.demo.client import Gateway, Json, Problem
from deploy.demo.people import Network, decide

_PATIENCE = 120.0
"""How long one holder tries, in seconds."""
_WHOLE = 900.0
"""How long all of them may take, in seconds, however busy the machine is."""
_PAUSE = 0.2


@dataclass
class Figures:
    """
    What a bulk binding came to.

    Attributes:
        bound: rows that are BOUND in the end, each with another account.
        seconds: from the request that creates the batch to the last row.
        requests: that the gateway got from the enterprise and from the browsers.
        opened_again: how often a holder had to open their link again.
        disturbed_at: how many rows were bound when the disturbance began; None: there was none.
        streamed: rows that the stream of progress has shown as BOUND; `resumed`: how often it was taken up again.
        page_ms: median time of the gateway's answer to a browser, in milliseconds.
    """

    bound: int = 0
    seconds: float = 0.0
    requests: int = 0
    opened_again: int = 0
    disturbed_at: int | None = None
    streamed: int = 0
    resumed: int = 0
    page_ms: float = 0.0


@dataclass
class _Tally:
    """What happens while holders are at it; many threads write."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    times: list[float] = field(default_factory=list)
    opened_again: int = 0
    bound: int = 0

    def timed(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        began = time.monotonic()
        answer = call()
        with self.lock:
            self.times.append(time.monotonic() - began)
        return answer

    def again(self) -> None:
        with self.lock:
            self.opened_again += 1

    def done(self) -> int:
        with self.lock:
            self.bound += 1
            return self.bound


def bind_all(
    owner: Gateway,
    enterprise: str,
    sandbox_url: str,
    *,
    count: int = 150,
    at_once: int = 8,
    disturb: Callable[[], None] | None = None,
) -> Figures:
    """
    Bind so many accounts of the sandbox network, which are made for it.

    Args:
        owner: of the enterprise, logged in.
        enterprise: as `enterprises/x`; admitted, in a stage that has room.
        sandbox_url: of the network, which must be on the list of servers.
        count: of accounts, at most 500.
        at_once: how many holders are at it at the same time.
        disturb: called once half of them are bound, while the others go on, as to kill a process.

    Raises:
        TimeoutError: a holder was not bound within two minutes.
        Problem: the gateway refuses what it should not.
    """
    mark, network = uuid4().hex[:8], Network(sandbox_url)
    holders = [f"bulk-{mark}-{number}" for number in range(count)]
    for holder in holders:
        network.settle(holder, uuid4().hex)
    tally, figures = _Tally(), Figures()
    began = time.monotonic()
    batch = owner.post(
        f"/v1/{enterprise}/bindingBatches",
        {
            "displayName": f"Bulk {mark}",
            "rows": [
                {"network": "mastodon", "server": sandbox_url, "labels": ["bulk"], "externalKey": holder}
                for holder in holders
            ],
        },
    )
    stream = _Stream(owner, batch["batch"]["name"], count)
    stream.start()
    disturbing: list[threading.Thread] = []

    def hold(row: Json) -> None:
        _bind(row["invitationLink"], row["externalKey"], tally)
        if tally.done() == count // 2 and disturb is not None:
            figures.disturbed_at = tally.bound
            disturbing.append(threading.Thread(target=disturb))
            disturbing[0].start()

    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(hold, row) for row in batch["rows"]]:
            done.result()
    figures.seconds = time.monotonic() - began
    for thread in disturbing:
        thread.join()
    stream.join(_PATIENCE)
    figures.streamed, figures.resumed = len(stream.bound), stream.resumed
    figures.bound = _count_bound(owner, batch["batch"]["name"])
    figures.opened_again = tally.opened_again
    figures.requests = len(tally.times) + 1
    figures.page_ms = sorted(tally.times)[len(tally.times) // 2] * 1000
    return figures


class _Stream(threading.Thread):
    """Follows a batch until all rows are bound; goes on after the last change that it saw, whenever it breaks off."""

    def __init__(self, owner: Gateway, batch: str, count: int) -> None:
        super().__init__(daemon=True)
        self._owner = owner
        self._batch = batch
        self._count = count
        self.bound: set[str] = set()
        self.resumed = -1

    def run(self) -> None:
        seen = 0
        deadline = time.monotonic() + _WHOLE
        while len(self.bound) < self._count and time.monotonic() < deadline:
            self.resumed += 1
            try:
                for told in self._owner.events(f"/v1/{self._batch}:watch", afterSequence=seen):
                    if "row" not in told:
                        break  # it told an error instead
                    seen = int(told["sequence"])
                    if told["row"]["state"] == "BOUND":
                        self.bound.add(told["row"]["name"])
                    if len(self.bound) == self._count:
                        return
            except (httpx.TransportError, Problem):
                time.sleep(_PAUSE)  # between two tries; the deadline above is what ends them


def _bind(link: str, username: str, tally: _Tally) -> None:
    """What one holder does, in one browser: open the link, agree, come back; from the start when that fails."""
    deadline = time.monotonic() + _PATIENCE
    with httpx.Client(timeout=30) as browser:
        for attempt in numbers():
            if attempt:
                tally.again()
                time.sleep(_PAUSE)  # between two tries; the deadline is what ends them
            if time.monotonic() > deadline:
                raise TimeoutError(f"{username} was not bound within {_PATIENCE:g} s")
            try:
                opened = tally.timed(lambda: browser.get(link))
                if opened.status_code == HTTPStatus.CONFLICT and "INVITATION_USED" in opened.text:
                    return  # it was bound, and the page that says so was lost
                if not opened.is_redirect:
                    continue
                back = decide(browser, opened.headers["location"], decision="pick", pick=username)
                if tally.timed(lambda back=back: browser.get(back)).is_success:  # type: ignore[misc]
                    return
            except httpx.TransportError:
                continue


def _count_bound(owner: Gateway, batch: str) -> int:
    """How many rows are BOUND, each to an account of its own whose handle is its holder's."""
    rows = list(owner.list(f"/v1/{batch}/rows", "rows", pageSize=500, state="BOUND"))
    accounts = {row["account"]: owner.get(f"/v1/{row['account']}") for row in rows}
    handles: Sequence[str] = [accounts[row["account"]]["handle"] for row in rows]
    right = [handle == row["externalKey"] for handle, row in zip(handles, rows, strict=True)]
    return sum(right) if len(accounts) == len(rows) else len(accounts)
