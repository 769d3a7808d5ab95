"""Messages that no handler can understand, on every handler's queue, with good ones between them."""

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from statistics import median
from typing import Any

import pika
import psycopg
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from numerator.events.v1.accounts_pb2 import AccountTokenRefreshed
from numerator.events.v1.publishing_pb2 import AccountTokenRefused
from pika.adapters.blocking_connection import BlockingChannel

from deploy.demo.client import eventually
from deploy.local.programs import SERVICES
from services.chassis import events
from services.chassis.ids import new_id
from services.chassis.messaging.envelope import ORDERING_KEY, PoisonError, decode, make_headers
from services.chassis.messaging.handling import ATTEMPTS, REASON
from services.chassis.messaging.publisher import Outcome, Outgoing, Publisher
from services.chassis.messaging.topology import SUBSCRIPTION, dead_queue, parameters, queue_name
from tests.chaos.kills import programs
from tests.world import World

_GOOD = 10
"""How many good messages are among a queue's poison, evenly."""
_HUGE = 3
"""How many of a queue's bad messages have a body of 1 MiB."""
_SECONDS = 30
"""How long the broker may take to take a queue's poison, and a handler to handle the good among it."""
_AWAIT_THEIR_ACCOUNT = (AccountTokenRefreshed, AccountTokenRefused)
"""Their handlers try again until somebody has told of the account: an event may overtake the one that does."""
_STILL_SECONDS = 10
"""When no more dead letters have come for so long, no more will."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A handler's queue and what belongs on it, or one kind of it."""

    service: str
    name: str
    message_class: type[Message]


@dataclass
class Poisoning:
    """What came of the poison."""

    queues: int = 0
    sent: int = 0
    dead: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    without_reason: int = 0
    left_before: Counter[str] = field(default_factory=Counter)
    """Dead letters that lay there before us, by reason."""
    died: list[str] = field(default_factory=list)
    good: int = 0
    good_lost: int = 0
    calm: list[float] = field(default_factory=list)
    """Seconds from a good message's sending to its handling, with nothing else on the queue."""
    delays: list[float] = field(default_factory=list)
    """The same with poison around it."""

    @property
    def flawless(self) -> bool:
        """Whether nothing died, all poison and nothing else is a dead letter with its reason, and all good was handled."""
        return (
            self.sent > 0
            and self.dead == self.sent
            and not (self.without_reason or self.died or self.good_lost or self.left_before)
        )

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        left = ", ".join(f"{count} {reason}" for reason, count in self.left_before.items()) or "none"
        return (
            f"{self.queues} queues, {self.sent:,} poison: {self.dead:,} dead letters, {self.without_reason} without a "
            f"reason ({reasons}); there before: {left}; died: {', '.join(self.died) or 'nobody'}; good among it: "
            f"{self.good - self.good_lost} of {self.good} handled, median {median(self.delays):.2f} s, slowest "
            f"{max(self.delays):.2f} s (calm: {median(self.calm):.2f} s, {max(self.calm):.2f} s)"
        )


def _handler_queues() -> Iterator[Queue]:
    for service in SERVICES:
        worker = importlib.import_module(f"services.{service}.worker").Worker
        for method, function in sorted(vars(worker).items()):
            if classes := getattr(function, SUBSCRIPTION, ()):
                yield Queue(service, queue_name(service, method), classes[0])


QUEUES = tuple(_handler_queues())
"""Of all handlers, from the worker classes."""


def poison_all(world: World, each: int, *, seed: int, say: Callable[[str], None] = print) -> Poisoning:
    """
    Put poison on the queue of every handler, one after another, with good messages between; then clear the dead letters.

    Args:
        world: on which the story was told, so that there are events to spoil.
        each: how many bad messages each queue gets, in one burst.
        seed: of the poison.
        say: told how it goes.
    """
    random = Random(seed)
    poisoning = Poisoning()
    pids = {name: world.platform.pid(name) for name in programs(world.platform)}
    amqp_url = world.platform.amqp_url
    with _publisher(amqp_url) as publisher:
        for queue in QUEUES:
            poisoning.queues += 1
            poisoning.left_before.update(_drain(amqp_url, queue))
            good = _Good(world, queue)
            poisoning.calm += good.await_handled(good.send(publisher, []))
            began = time.monotonic()
            sent = good.send(publisher, [spoil(good.sample) for spoil in recipes(random, each)])
            delays = good.await_handled(sent)
            dead = _await_dead(amqp_url, queue, each)
            seconds = time.monotonic() - began
            reasons = _drain(amqp_url, queue)
            poisoning.sent += each
            poisoning.dead += dead
            poisoning.reasons += reasons
            poisoning.without_reason += reasons[""]
            poisoning.good += len(sent)
            poisoning.good_lost += len(sent) - len(delays)
            poisoning.delays += delays
            say(
                f"    {queue.name}: {dead} of {each} dead after {seconds:.1f} s; {len(delays)} of {len(sent)} good "
                f"ones handled, the slowest after {max(delays, default=0):.2f} s"
            )
    poisoning.died = [name for name, pid in pids.items() if world.platform.pid(name) != pid]
    return poisoning


class _Good:
    """Good messages for a queue: the newest event of its type that the story told, under new ids, or one about nobody."""

    def __init__(self, world: World, queue: Queue) -> None:
        self._url = world.platform.database_url
        self._queue = queue
        event_type = events.event_type(queue.message_class)
        told = self._told(event_type)
        if told is None:
            enterprise = world.story.haihe
            account, when = f"{enterprise}/accounts/nobody", datetime.now(UTC)
            if queue.message_class in _AWAIT_THEIR_ACCOUNT:
                enterprise, account = self._account()
                when = datetime.fromtimestamp(0, UTC)  # so long ago that it changes nothing
            content_type, body = events.encode(about_nobody(queue.message_class, enterprise, account))
            told = content_type, body, enterprise, enterprise, when
        content_type, body, subject, enterprise, when = told
        headers = make_headers(
            event_id="", event_type=event_type, source="numerator/chaos", subject=subject, ordering_key="",
            time=when, enterprise=enterprise, traceparent="",
        )  # fmt: skip
        self.sample = Sample(queue, headers, content_type, bytes(body))

    def _told(self, event_type: str) -> tuple[str, bytes, str, str | None, datetime] | None:
        with psycopg.connect(self._url) as connection:
            for service in SERVICES:
                found = connection.execute(
                    f"""
                    select content_type, body, subject, enterprise, time from {service}.outbox
                    where type = %s order by sequence desc limit 1
                    """,
                    (event_type,),
                ).fetchone()
                if found:
                    return found
        return None

    def _account(self) -> tuple[str, str]:
        """An enterprise and an account of it."""
        with psycopg.connect(self._url) as connection:
            found = connection.execute("select enterprise, name from publishing.accounts limit 1").fetchone()
        assert found is not None  # the story bound some
        return found

    def send(self, publisher: Publisher, bad: list[Outgoing]) -> dict[str, datetime]:
        """Send bad messages in one window, with good ones evenly between; returns when each good one was sent, by id."""
        step = max(1, len(bad) // _GOOD)
        window, good = [], []
        for part in [bad[begin : begin + step] for begin in range(0, len(bad), step)] or [[]]:
            good.append(new_id())
            window += [*part, self.sample.message(id=good[-1], **{ORDERING_KEY: good[-1]})]
        began = datetime.now(UTC)
        outcomes = Counter(publisher.publish(window, _SECONDS))
        if set(outcomes) != {Outcome.CONFIRMED}:
            raise RuntimeError(f"{self._queue.name}: the broker did not take all of it: {outcomes}")
        return dict.fromkeys(good, began)

    def await_handled(self, sent: Mapping[str, datetime]) -> list[float]:
        """The seconds until each was handled; fewer than were sent when some never are."""

        def times() -> list[datetime]:
            with psycopg.connect(self._url) as connection:
                found = connection.execute(
                    f"select received_time from {self._queue.service}.inbox where handler = %s and event_id = any (%s)",
                    (self._queue.name, list(sent)),
                ).fetchall()
            return [when for (when,) in found]

        with suppress(TimeoutError):
            eventually(lambda: len(times()) == len(sent) or None, what="the good messages", seconds=_SECONDS)
        began = min(sent.values())
        return [(when - began).total_seconds() for when in times()]


@dataclass(frozen=True, slots=True)
class Sample:
    """A good message of a queue, to be spoilt."""

    queue: Queue
    headers: Mapping[str, str]
    content_type: str
    body: bytes

    def message(
        self,
        *,
        properties: bool = True,
        body: bytes | None = None,
        content_type: str | None = "",
        **headers: Any,
    ) -> Outgoing:
        """The message with other headers (None leaves one out), another body, or without properties."""
        told = {name: value for name, value in {**self.headers, **headers}.items() if value is not None}
        return Outgoing(
            exchange="",
            routing_key=self.queue.name,
            body=self.body if body is None else body,
            message_id=new_id() if properties else None,  # absent on the wire
            content_type=(self.content_type if content_type == "" else content_type) if properties else None,
            headers=told if properties else {},
        )


def about_nobody(message_class: type[Message], enterprise: str, account: str) -> Message:
    """An event of a class about an account and things that do not exist, of an enterprise that does."""
    texts = {
        "enterprise": enterprise,
        "account": account,
        "user": "users/nobody",
        "reason": "REJECTED_CONTENT",
    }
    values: dict[str, object] = {}
    for each in message_class.DESCRIPTOR.fields:
        if each.is_repeated:
            continue
        if each.type == FieldDescriptor.TYPE_STRING:
            values[each.name] = texts.get(each.name, f"{enterprise}/{each.name}s/nobody")
        elif each.type == FieldDescriptor.TYPE_ENUM:
            values[each.name] = each.enum_type.values[-1].number
    return message_class(**values)


def recipes(random: Random, each: int) -> Iterator[Callable[[Sample], Outgoing]]:
    """How to spoil a good message, `each` times: all kinds in turn, in an order that the seed decides."""
    kinds = [_random_bytes, _cut, _too_deep, _wrong_type, _header_missing, _no_properties, _odd_header, _bad_text,
             _wrong_content_type, _odd_notes, _compressed, _empty]  # fmt: skip
    chosen = [_huge] * min(_HUGE, each) + [kinds[n % len(kinds)] for n in range(max(0, each - _HUGE))]
    random.shuffle(chosen)
    for kind in chosen:
        yield lambda sample, kind=kind: _spoilt(kind, sample, random)


def _spoilt(kind: Callable[[Sample, Random], Outgoing], sample: Sample, random: Random) -> Outgoing:
    """A bad message of a kind. Made again if by chance it is good: random bytes may be a message."""
    while True:
        message = kind(sample, random)
        try:
            decode(sample.queue.message_class, message.headers, message.content_type, message.body)
        except PoisonError:
            return message


def _random_bytes(sample: Sample, random: Random) -> Outgoing:
    content_type = random.choice([events.JSON, events.BINARY])
    return sample.message(
        id=new_id(), body=random.randbytes(random.randint(1, 500)), content_type=content_type
    )


def _huge(sample: Sample, random: Random) -> Outgoing:
    return sample.message(id=new_id(), body=random.randbytes(1 << 20))


def _cut(sample: Sample, random: Random) -> Outgoing:
    body = sample.body[: random.randrange(max(1, len(sample.body)))] + b"\xff"
    return sample.message(id=new_id(), body=body)


def _too_deep(sample: Sample, random: Random) -> Outgoing:
    depth = random.randint(2_000, 50_000)
    return sample.message(id=new_id(), body=b'{"a":' * depth, content_type=events.JSON)


def _wrong_type(sample: Sample, random: Random) -> Outgoing:
    return sample.message(
        id=new_id(), type=random.choice(["chaos.thing.happened", "x", "*", "#", "numerator.dead"])
    )


def _header_missing(sample: Sample, random: Random) -> Outgoing:
    return sample.message(**{"id": new_id(), random.choice(["id", "type", "subject", "time"]): None})


def _no_properties(sample: Sample, random: Random) -> Outgoing:
    return sample.message(properties=False, body=random.choice([b"", b"{}", sample.body]))


def _odd_header(sample: Sample, random: Random) -> Outgoing:
    values = [
        7,
        -(1 << 60),
        True,
        b"\x00\xff",
        [1, "two", None],
        {"a": {"b": []}},
        datetime.now(UTC),
        "",
        "x" * 5_000,
    ]
    header = random.choice(["id", "type", "subject", "time", "enterprise"])
    return sample.message(**{"id": new_id(), header: random.choice(values)})


def _bad_text(sample: Sample, random: Random) -> Outgoing:
    header, value = random.choice(
        [
            ("time", "yesterday"),
            ("time", "9999-99-99T00:00:00Z"),
            ("subject", "a\x00b"),
            ("enterprise", "tianshan"),
        ]
    )
    return sample.message(**{"id": new_id(), header: value})


def _wrong_content_type(sample: Sample, random: Random) -> Outgoing:
    wrong = random.choice([None, "text/plain", "application/x-python-serialize", "application/JSON", "\x7f"])
    return sample.message(id=new_id(), content_type=wrong)


def _odd_notes(sample: Sample, random: Random) -> Outgoing:
    attempts = random.choice([-5, 1 << 60, "many", [8]])
    return sample.message(
        **{"id": new_id(), ATTEMPTS: attempts, "traceparent": "00-zz-zz-01"}, body=b"\xc3\x28"
    )


def _compressed(sample: Sample, random: Random) -> Outgoing:
    return sample.message(
        id=new_id(), compression=random.choice(["application/x-gzip", 3]), body=random.randbytes(64)
    )


def _empty(sample: Sample, random: Random) -> Outgoing:
    content_type, body = random.choice([(events.JSON, b"{}"), (events.BINARY, b"")])
    return sample.message(id=new_id(), content_type=content_type, body=body)


def _await_dead(amqp_url: str, queue: Queue, expected: int) -> int:
    """How many dead letters there are when all are there, or when no more come."""
    dead, changed = 0, time.monotonic()
    with _channel(amqp_url) as channel:
        while time.monotonic() - changed < _STILL_SECONDS:
            now = _length(channel, dead_queue(queue.name))
            if now >= expected and _length(channel, queue.name) == 0:
                return now
            if now != dead:
                dead, changed = now, time.monotonic()
            time.sleep(0.1)  # between two looks
    return dead


def _length(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def _drain(amqp_url: str, queue: Queue) -> Counter[str]:
    """Take all dead letters away; returns how many there were of each reason, "" where there is none."""
    reasons: Counter[str] = Counter()
    with _channel(amqp_url) as channel:
        while True:
            method, properties, _body = channel.basic_get(dead_queue(queue.name), auto_ack=True)
            if method is None:
                return reasons
            headers = properties.headers or {}
            broker = (headers.get("x-death") or [{}])[0].get("reason", "")
            reasons[str(headers.get(REASON) or broker.upper())] += 1


@contextmanager
def _publisher(amqp_url: str) -> Iterator[Publisher]:
    publisher = Publisher(amqp_url)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop()


@contextmanager
def _channel(amqp_url: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(parameters(amqp_url))
    try:
        yield connection.channel()
    finally:
        connection.close()
