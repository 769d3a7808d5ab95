"""
Freezes set at random moments while senders publish at full rate. The network's own log judges.

`freeze_under_load` is what `make verify-accounts` calls, and what a test calls with less.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median

from numerator.publishing.v1 import freezes_pb2 as pb
from numerator.publishing.v1 import freezes_pb2_grpc as pb_grpc
from numerator.publishing.v1 import publishing_pb2

from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Database, Tenant
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import Offer, member, serving
from services.publishing import usecases
from services.publishing.failpoints import FailPoints
from services.publishing.model.deliveries import (
    Policy,
    Posted,
    Postponed,
    SendOutcome,
    Timeline,
    TimelinePost,
    Unknown,
    idempotency_key,
)
from services.publishing.networks import Credentials, Notifications, Post
from services.publishing.rpc.freezes import FreezeServicer
from services.publishing.sender import Sender, SenderOptions
from services.publishing.tests.fakes import ENTERPRISE, make_account

TENANT = Tenant(ENTERPRISE)
GROUP = "province"
"""The group that is frozen as a subtree; half of its accounts are in a branch below it."""
SENDERS = 2
WATCHED = 0.25
"""For how long, in seconds, the network is watched after each freeze; requests take up to 40 ms."""
PATIENCE = 60.0

_POLICY = Policy(
    request_timeout=timedelta(seconds=2),
    server_margin=timedelta(milliseconds=50),
    visibility_lag=timedelta(milliseconds=50),
    first_delay=timedelta(milliseconds=50),
)


@dataclass(frozen=True)
class Sent:
    """When the first byte of a request left, by the clock of `time.monotonic`, for which account, under which key."""

    time: float
    account: str
    key: str


@dataclass
class SlowNetwork:
    """A network that honours keys, takes its time before and after the first byte, and now and then says nothing."""

    seed: int
    log: list[Sent] = field(default_factory=list)
    posts: dict[str, TimelinePost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def publish(
        self, credentials: Credentials, post: Post, time_left: timedelta, may_send: object
    ) -> SendOutcome:
        await asyncio.sleep(self._random.uniform(0, 0.02))  # connecting
        if not callable(may_send) or not may_send():
            return Postponed("LEASE_LOST")
        self.log.append(Sent(time.monotonic(), credentials.network_account_id, post.key))
        made = self.posts.setdefault(
            post.key, TimelinePost(post.key, "", datetime.now(UTC), post.text, post.in_reply_to)
        )
        await asyncio.sleep(self._random.uniform(0, 0.02))
        if self._random.random() < 0.05:
            return Unknown("NO_REPLY")
        return Posted(made.network_post_id, made.url, made.time)

    async def timeline(self, credentials: Credentials, since: datetime) -> Timeline:
        keys = {sent.key for sent in self.log if sent.account == credentials.network_account_id}
        return Timeline(tuple(self.posts[key] for key in keys), complete=True)

    async def notifications(self, credentials: Credentials, cursor: str, since: datetime) -> Notifications:
        return Notifications((), cursor)


@dataclass(frozen=True)
class Figures:
    """
    What was measured.

    Attributes:
        accounts: how many were frozen at once.
        freezes: how many times.
        sends: how many the network saw in all.
        answers: from each request of a freeze to its answer, in milliseconds.
        lasts: from each request to the last send on the frozen accounts, in milliseconds; 0 if there was none.
        in_flight: deliveries that the answers listed.
        late: sends that began after a freeze's answer, and were not those that it listed as SENDING.
        left: deliveries that were not published in the end.
    """

    accounts: int
    freezes: int
    sends: int
    answers: tuple[float, ...]
    lasts: tuple[float, ...]
    in_flight: int
    late: int
    left: int

    def __str__(self) -> str:
        return (
            f"{self.freezes} freezes of {self.accounts} accounts, {self.sends} sends: answered in {median(self.answers):.0f} ms "
            f"(slowest {max(self.answers):.0f}), last send {median(self.lasts):.0f} ms after the request (slowest "
            f"{max(self.lasts):.0f}); {self.in_flight} in flight were listed, {self.late} sends after an answer were not; "
            f"{self.left} deliveries left"
        )


def freeze_under_load(
    database: TemporaryDatabase,
    *,
    accounts: int = 150,
    freezes: int = 20,
    seed: int = 1,
    until_late: bool = False,
) -> Figures:
    """
    Freeze a group of `accounts` again and again while two senders publish on these and as many others.

    Args:
        database: publishing's, empty, on the system's clock.
        accounts: how many are in the group; half of them in a branch below it.
        freezes: how many times; each is lifted again.
        seed: of the random moments.
        until_late: stop after the freeze that the first late send was found at.
    """
    chance = random.Random(seed)
    network = SlowNetwork(seed)
    _bind(database, accounts)
    answers, lasts, listed, late = [], [], 0, 0
    with _stub(database) as stub, _sending(database, network):
        _publish(database)
        for number in range(freezes):
            _publish(database)
            time.sleep(chance.uniform(0, 0.1))  # the random moment
            asked = time.monotonic()
            frozen = stub.CreateFreeze(
                pb.CreateFreezeRequest(
                    parent=ENTERPRISE,
                    freeze=pb.Freeze(
                        account_group=f"{ENTERPRISE}/accountGroups/{GROUP}", reason=f"Test {number}"
                    ),
                )
            )
            answered = time.monotonic()
            time.sleep(WATCHED)  # what would come too late has time to come
            inside = [sent for sent in list(network.log) if int(sent.account) < accounts]
            stub.LiftFreeze(pb.LiftFreezeRequest(name=frozen.name))
            answers.append(1000 * (answered - asked))
            lasts.append(1000 * max(0.0, max((sent.time for sent in inside), default=asked) - asked))
            listed += len(frozen.in_flight)
            late += _late(frozen, [sent.key for sent in inside if sent.time > answered])
            if late and until_late:
                break
        left = _await_all(database)
    return Figures(accounts, len(answers), len(network.log), tuple(answers), tuple(lasts), listed, late, left)


def _late(frozen: pb.Freeze, keys: Sequence[str]) -> int:
    """How many of these requests a freeze does not allow for: what it lists as SENDING may begin, once, and no other."""
    allowed = Counter(
        idempotency_key(each.delivery, revision=1)
        for each in frozen.in_flight
        if each.state == publishing_pb2.Delivery.SENDING
    )
    return (Counter(keys) - allowed).total()


def _bind(database: Database, accounts: int) -> None:
    """So many accounts in the group, half of them in a branch; and as many outside."""
    with database.transaction(TENANT) as tx:
        bound = [make_account(number, network_account_id=str(number)) for number in range(2 * accounts)]
        for account in bound:
            usecases.bind_account(tx, account, tx.now)
        inside = bound[:accounts]
        usecases.place_accounts(
            tx,
            ENTERPRISE,
            [(each.name, [GROUP, "branch"] if number % 2 else [GROUP]) for number, each in enumerate(inside)],
            1,
        )


def _publish(database: Database) -> None:
    """One post more on every account, at once."""
    with database.transaction(TENANT) as tx:
        draft = usecases.create_publication(
            tx, ENTERPRISE, text="Hello", variants=(), accounts=(), exclude_accounts=(), schedule_time=None
        )
        usecases.schedule_publication(tx, ENTERPRISE, draft.name, None)
        usecases.materialise(tx, ENTERPRISE, draft.name)


def _await_all(database: Database) -> int:
    """Wait until all is published; how many deliveries are not, if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with database.transaction(PLATFORM) as tx:
            row = tx.execute("select count(*) as left from deliveries where state <> 'PUBLISHED'").fetchone()
        left = int(row["left"]) if row else 0
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


@contextmanager
def _stub(database: Database) -> Iterator[pb_grpc.FreezeServiceStub]:
    """The service as a company's owner calls it."""
    service = pb.DESCRIPTOR.services_by_name["FreezeService"]
    with serving(
        Offer(pb_grpc.add_FreezeServiceServicer_to_server, FreezeServicer(database), service)
    ) as server:
        yield pb_grpc.FreezeServiceStub(server.as_(member(ENTERPRISE)))


@contextmanager
def _sending(database: TemporaryDatabase, network: SlowNetwork) -> Iterator[None]:
    """Senders, each with connections of its own, in a thread; the block ends when they have."""
    options = SenderOptions(policy=_POLICY, concurrency=50, interactions_interval=timedelta(hours=1))
    databases = [Database(database.url, schema=database.schema) for _ in range(SENDERS)]
    senders = [
        Sender(
            each,
            {"mastodon": network},
            lambda _: "token",
            options,
            clock=SystemClock(),
            fail_points=FailPoints(),
        )
        for each in databases
    ]
    stopping, loop = asyncio.Event(), asyncio.new_event_loop()

    async def send() -> None:
        async with asyncio.TaskGroup() as group:
            for sender in senders:
                group.create_task(sender.run(stopping))

    thread = threading.Thread(target=lambda: loop.run_until_complete(send()), name="senders")
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        for each in databases:
            each.close()
