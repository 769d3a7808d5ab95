"""
Measures that dead endpoints do not hold up live ones. `make verify-accounts` runs it, and a test in small.

A fifth of the endpoints is dead: they never answer, refuse connections, or answer 500. Events come evenly, and what counts is
the time from an event's commit to its arrival at each live endpoint, by the sender as it runs.
"""

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import cycle

from numerator.events.v1.placement_pb2 import CampaignStarted

from services.accounts.model.webhooks import MAX_ENDPOINTS
from services.accounts.tests.partners import (
    Partner,
    endpoint,
    enterprise,
    environment,
    partner,
    start,
    tell,
)
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import MasterKey, MasterKeys
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.servers import free_ports
from services.chassis.testing.waiting import eventually


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What was measured.

    Attributes:
        endpoints, dead: how many there were.
        deliveries: how many events live endpoints were to be told of, each for itself.
        missing: how many of these did not arrive.
        repeated: how many arrived more than once.
        p50, p99, slowest: seconds from commit to arrival.
        most_to_dead: the most requests that a dead endpoint got.
        seconds: for how long events came.
    """

    endpoints: int
    dead: int
    deliveries: int
    missing: int
    repeated: int
    p50: float
    p99: float
    slowest: float
    most_to_dead: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.endpoints:,} endpoints, {self.dead} dead; {self.deliveries:,} deliveries to the live in "
            f"{self.seconds:.0f} s: {self.missing} missing, {self.repeated} twice, p50 {self.p50:.3f} s, "
            f"p99 {self.p99:.3f} s, slowest {self.slowest:.3f} s; a dead one got {self.most_to_dead} requests at most"
        )


def measure(
    database: TemporaryDatabase, *, endpoints: int = 1_000, events: int = 5, per_second: float = 150
) -> Measured:
    """Tell `endpoints` endpoints, a fifth of them dead, of `events` events each, at `per_second` deliveries a second."""
    master_key = os.urandom(32)
    vault = Vault(MasterKeys(MasterKey(master_key)))
    refusing = free_ports(1)[0]
    with partner() as receiver:
        dead = cycle([f"{receiver.url}/hang", f"http://127.0.0.1:{refusing}", f"{receiver.url}/500"])
        owners, live = [], set()
        for number in range(endpoints):
            if number % MAX_ENDPOINTS == 0:
                owners.append(enterprise(database))
            if number % 5 == 4:
                endpoint(database, vault, owners[-1], f"{next(dead)}/{number}")
            else:
                endpoint(database, vault, owners[-1], f"{receiver.url}/200/{number}")
                live.add(f"/200/{number}")
        pause = endpoints / len(owners) / per_second
        sender = start(environment(database, master_key))
        try:
            begin = time.time()
            told = _tell_evenly(database, receiver, owners, number=events * len(owners), pause=pause)
            return _measured(receiver, live, told, endpoints=endpoints, seconds=time.time() - begin)
        finally:
            sender.terminate()
            sender.wait(40)


def _tell_evenly(
    database: TemporaryDatabase, receiver: Partner, owners: list[str], *, number: int, pause: float
) -> dict[str, float]:
    """Tell the enterprises in turn; returns when each event was committed, by id. Begins when the sender runs."""
    warm = tell(database, owners[0], CampaignStarted(campaign="warm-up"))
    eventually(lambda: any(each.headers["webhook-id"] == warm for each in receiver.requests), timeout=30)
    begin, told = time.time(), {}
    for count in range(number):
        time.sleep(max(0.0, begin + count * pause - time.time()))  # the rate is what is asked for
        event = tell(database, owners[count % len(owners)], CampaignStarted(campaign=f"c{count}"))
        told[event] = time.time()
    return told


def _measured(
    receiver: Partner, live: set[str], told: dict[str, float], *, endpoints: int, seconds: float
) -> Measured:
    wanted = len(live) * len(told) * MAX_ENDPOINTS // endpoints

    def arrivals() -> dict[tuple[str, str], list[float]]:
        found = defaultdict(list)
        for each in list(receiver.requests):
            if each.path in live and (event := each.headers["webhook-id"]) in told:
                found[each.path, event].append(each.time - told[event])
        return found

    deadline = time.time() + 30
    while len(arrivals()) < wanted and time.time() < deadline:
        time.sleep(0.2)
    came = arrivals()
    delays = sorted(times[0] for times in came.values())
    to_dead: dict[str, int] = defaultdict(int)
    for each in receiver.requests:
        if each.path not in live:
            to_dead[each.path] += 1
    return Measured(
        endpoints=endpoints,
        dead=endpoints - len(live),
        deliveries=wanted,
        missing=wanted - len(came),
        repeated=sum(len(times) > 1 for times in came.values()),
        p50=delays[len(delays) // 2],
        p99=delays[len(delays) * 99 // 100],
        slowest=delays[-1],
        most_to_dead=max(to_dead.values(), default=0),
        seconds=seconds,
    )
