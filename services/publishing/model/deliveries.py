"""The life of a delivery, and how an unknown outcome becomes known."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.chassis.ids import deterministic_id
from services.chassis.names import NamePattern
from services.publishing.model.accounts import NetworkClass
from services.publishing.model.texts import fingerprint

DELIVERY = NamePattern("enterprises/{enterprise}/publications/{publication}/deliveries/{delivery}")


class DeliveryState(StrEnum):
    """Where a delivery stands. PENDING_REMOTE is for networks that take a post now and show it later."""

    QUEUED = "QUEUED"
    SENDING = "SENDING"
    PENDING_REMOTE = "PENDING_REMOTE"
    PUBLISHED = "PUBLISHED"
    UNCONFIRMED = "UNCONFIRMED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL = frozenset({DeliveryState.PUBLISHED, DeliveryState.FAILED, DeliveryState.CANCELLED})


class Rule(StrEnum):
    """Which rule decided about an account."""

    SAME = "SAME"
    VARIANT = "VARIANT"
    EXCLUDED = "EXCLUDED"
    NOT_INCLUDED = "NOT_INCLUDED"


@dataclass(frozen=True, slots=True)
class Policy:
    """
    The times and bounds of sending.

    Attributes:
        request_timeout: how long one request may take, connection included.
        lease_margin: how much longer a lease lasts than its request may take; time to record the outcome.
        server_margin: how long after we gave up on a request its server may still be working on it.
        visibility_lag: how long a post may be missing from its account's timeline after it was made.
        clock_skew: how far a server's clock may be from ours.
        key_life: how long a class A server surely remembers a key (Mastodon: 60 minutes).
        first_delay: the wait after the first failure; it doubles each time.
        longest_delay: the longest of these waits.
        most_attempts: how many times it is sent before we give up; about an hour of them.

    """

    request_timeout: timedelta = timedelta(seconds=10)
    lease_margin: timedelta = timedelta(seconds=10)
    server_margin: timedelta = timedelta(seconds=30)
    visibility_lag: timedelta = timedelta(seconds=30)
    clock_skew: timedelta = timedelta(minutes=5)
    key_life: timedelta = timedelta(minutes=55)
    first_delay: timedelta = timedelta(seconds=1)
    longest_delay: timedelta = timedelta(minutes=5)
    most_attempts: int = 20

    def delay(self, tries: int) -> timedelta:
        """The wait after the `tries`-th failure in a row, counted from 1."""
        doublings = min(max(tries, 1) - 1, 20)
        return min(self.first_delay * (1 << doublings), self.longest_delay)


@dataclass(frozen=True, slots=True)
class Doubt:
    """
    Some attempt may have made a post that we do not know of.

    Attributes:
        since: when the first such attempt began. No such post is older.
        over: when the last such attempt is surely over on the server's side too.
        resend: whether sending again could tell. Not after the network refused to take the post again.

    """

    since: datetime
    over: datetime
    resend: bool = True


@dataclass(frozen=True, slots=True)
class Restoration:
    """
    The database was brought back from a backup: what was sent after the backup is not on record.

    Attributes:
        since: when the backup was made, or a little earlier.
        until: when all that was begun before the restoration is surely over, on the networks' side too.

    """

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    One post on one account.

    Attributes:
        key: the idempotency key, the same for every attempt, for ever.
        in_reply_to: the post on the network that it answers; empty for a post of its own.
        attempts: how many times it was sent.
        attempt_time: when the last of these began.
        tries: failures in a row; decides how long to wait.
        doubt: set from the first unknown outcome, or a restoration, until it is known what came of it. A QUEUED
            delivery in doubt is looked for before it is sent.
        cancel_requested: it must not be sent again.
        fence: grows with each lease. An outcome under an older number is not recorded.
        lease_until: until when its sender has it. None: nobody has it.
        next_time: when it is tried or looked up next, at the earliest.
        traceparent: the trace that made it.
        freeze: the freeze that held it when it was read, if it was due and nothing else kept it.

    """

    name: str
    enterprise: str
    publication: str
    account: str
    text: str
    rule: Rule
    key: str
    due_time: datetime
    create_time: datetime
    update_time: datetime
    in_reply_to: str = ""
    state: DeliveryState = DeliveryState.QUEUED
    reason: str = ""
    attempts: int = 0
    attempt_time: datetime | None = None
    tries: int = 0
    doubt: Doubt | None = None
    cancel_requested: bool = False
    fence: int = 0
    lease_until: datetime | None = None
    next_time: datetime | None = None
    network_post_id: str = ""
    url: str = ""
    publish_time: datetime | None = None
    traceparent: str = ""
    freeze: str = ""


def idempotency_key(delivery: str, *, revision: int) -> str:
    """The key under which a revision of a delivery is sent, by every attempt and after every restart."""
    return deterministic_id("delivery", delivery, str(revision))


# The outcome of sending. A network's module makes exactly one of these of whatever happened.


@dataclass(frozen=True, slots=True)
class Posted:
    """The post is on the network."""

    network_post_id: str
    url: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Refused:
    """The network took the request and said no for good; this attempt made no post."""

    reason: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """No post was made, and a later attempt may make one; at `until`, if the network says when."""

    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """
    Bytes were sent and no clear answer came back.

    Attributes:
        answered: the server did answer, so it is no longer working on the request.

    """

    reason: str
    answered: bool = False


SendOutcome = Posted | Refused | Postponed | Unknown

REAUTH_REQUIRED = "REAUTH_REQUIRED"


@dataclass(frozen=True, slots=True)
class TimelinePost:
    """A post in an account's own timeline; `content` is plain text."""

    network_post_id: str
    url: str
    time: datetime
    content: str
    in_reply_to: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """
    An account's own posts, any order.

    Attributes:
        complete: no post since the asked time is missing. Only then does absence prove anything.

    """

    posts: tuple[TimelinePost, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class NotRead:
    """The timeline could not be read."""

    reason: str
    until: datetime | None = None


def begin_attempt(delivery: Delivery, now: datetime, policy: Policy) -> Delivery:
    """The delivery as it must be on record before the first byte of an attempt leaves."""
    return replace(
        _leased(delivery, now, policy),
        state=DeliveryState.SENDING,
        attempts=delivery.attempts + 1,
        attempt_time=now,
        reason="",
        update_time=now,
    )


def begin_lookup(delivery: Delivery, now: datetime, policy: Policy) -> Delivery:
    """The delivery while somebody looks for it in its account's timeline."""
    return _leased(delivery, now, policy)


def _leased(delivery: Delivery, now: datetime, policy: Policy) -> Delivery:
    return replace(
        delivery,
        fence=delivery.fence + 1,
        lease_until=now + policy.request_timeout + policy.lease_margin,
        next_time=None,
    )


def after_attempt(delivery: Delivery, outcome: SendOutcome, now: datetime, policy: Policy) -> Delivery:
    """
    What follows from the outcome of the last attempt.

    While an earlier attempt is in doubt a refusal proves nothing about it: the delivery stays UNCONFIRMED.
    """
    done = replace(delivery, lease_until=None, next_time=None, update_time=now)
    match outcome:
        case Posted():
            return _published(done, outcome)
        case Unknown():
            began = delivery.attempt_time or now
            # A sender that died or was stopped has let no byte go after the request's deadline.
            ended = min(now, began + policy.request_timeout)
            over = now if outcome.answered else ended + policy.server_margin
            since = delivery.doubt.since if delivery.doubt else began
            tries = delivery.tries + 1
            return replace(
                done,
                state=DeliveryState.UNCONFIRMED,
                reason=outcome.reason,
                tries=tries,
                doubt=Doubt(since, max(over, delivery.doubt.over) if delivery.doubt else over),
                next_time=now + policy.delay(tries),
            )
        case Refused() | Postponed() if delivery.doubt:
            tries = delivery.tries + 1
            return replace(
                done,
                state=DeliveryState.UNCONFIRMED,
                reason=outcome.reason,
                tries=tries,
                doubt=replace(
                    delivery.doubt, resend=delivery.doubt.resend and isinstance(outcome, Postponed)
                ),
                next_time=_later(outcome, now, policy, tries),
            )
        case Refused():
            return replace(done, state=DeliveryState.FAILED, reason=outcome.reason)
        case Postponed():
            return _try_again(done, outcome, now, policy)


def restored(delivery: Delivery, restoration: Restoration) -> Delivery:
    """A delivery as the backup knows it: in doubt if it had not ended, and was due before the restoration."""
    if delivery.state in FINAL or delivery.due_time > restoration.until:
        return delivery
    return in_doubt(delivery, restoration)


def in_doubt(delivery: Delivery, restoration: Restoration, *, resend: bool = True) -> Delivery:
    """
    A delivery that may have been sent, or sent once more, in the time that is not on record.

    With `resend` False only the account's timeline can tell, because it may have been sent under another key.
    """
    doubt = Doubt(restoration.since, restoration.until, resend)
    if delivery.state is DeliveryState.SENDING and delivery.attempt_time:
        doubt = replace(doubt, since=min(doubt.since, delivery.attempt_time))
    if known := delivery.doubt:
        doubt = Doubt(
            min(doubt.since, known.since), max(doubt.over, known.over), doubt.resend and known.resend
        )
    return replace(delivery, doubt=doubt)


def find_out(delivery: Delivery, now: datetime) -> Delivery:
    """A QUEUED delivery in doubt when its turn has come: whether it is there must be known before it is sent."""
    return replace(
        delivery, state=DeliveryState.UNCONFIRMED, reason="RESTORED", next_time=now, update_time=now
    )


def abandoned(delivery: Delivery, now: datetime, policy: Policy) -> Delivery:
    """A delivery found SENDING under an expired lease: its sender died, and nobody knows how far it came."""
    unknown = after_attempt(delivery, Unknown("NO_REPLY"), now, policy)
    return replace(unknown, fence=delivery.fence + 1, next_time=now)


class Step(StrEnum):
    """What to do about an unconfirmed delivery."""

    SEND = "SEND"
    """Send under the same key: the network answers with the post that it has, or makes it now."""
    LOOK_UP = "LOOK_UP"
    """Read the account's timeline."""
    WAIT = "WAIT"
    """The request may still be at work on the server; nothing that we do now is safe or tells us anything."""
    PARK = "PARK"
    """A person has to look."""


def next_step(
    delivery: Delivery, network_class: NetworkClass, now: datetime, policy: Policy, *, frozen: bool = False
) -> Step:
    """
    How to find out about an UNCONFIRMED delivery.

    A resend is safe only where keys are honoured, inside the key's life, and when the first request is over:
    some servers honour a key one request after another, but not two at once. It is a send as every other: what is
    cancelled, or on a frozen account, is only looked up.
    """
    if delivery.doubt is None:
        raise ValueError(f"{delivery.name} is not in doubt")
    match network_class:
        case NetworkClass.C:
            return Step.PARK
        case NetworkClass.A if delivery.doubt.resend and not (delivery.cancel_requested or frozen):
            if now < delivery.doubt.over:
                return Step.WAIT
            if now + policy.request_timeout <= delivery.doubt.since + policy.key_life:
                return Step.SEND
            return Step.LOOK_UP
        case _:
            return Step.LOOK_UP


def after_lookup(  # noqa: PLR0917 -- all of it is needed, and named at the call
    delivery: Delivery,
    read: Timeline | NotRead,
    claimed: Collection[str],
    began: datetime,
    now: datetime,
    policy: Policy,
) -> Delivery:
    """
    What follows from reading the account's timeline.

    Args:
        delivery: an UNCONFIRMED delivery.
        read: what was read.
        claimed: the network's ids of posts that are known to be other deliveries'.
        began: when the reading began.
        now: the present.
        policy: the times.

    Absence is believed only of a complete timeline, read when the last request in doubt was over and whatever
    it made had become visible. Then the delivery is surely not on the network and may be sent again.

    """
    if delivery.doubt is None:
        raise ValueError(f"{delivery.name} is not in doubt")
    done = replace(delivery, lease_until=None, next_time=None, update_time=now)
    tries = delivery.tries + 1
    if isinstance(read, NotRead):
        return replace(done, reason=read.reason, tries=tries, next_time=_later(read, now, policy, tries))
    found = find_post(delivery, read.posts, claimed, delivery.doubt.since - policy.clock_skew)
    if found:
        return _published(done, Posted(found.network_post_id, found.url, found.time))
    visible = delivery.doubt.over + policy.visibility_lag
    if began < visible:
        return replace(done, tries=tries, next_time=min(now + policy.delay(tries), max(now, visible)))
    if not read.complete:
        return replace(done, reason="TIMELINE_INCOMPLETE", tries=tries, next_time=now + policy.delay(tries))
    return _try_again(replace(done, doubt=None, tries=0), Postponed(delivery.reason, until=now), now, policy)


def find_post(
    delivery: Delivery, posts: Iterable[TimelinePost], claimed: Collection[str], since: datetime
) -> TimelinePost | None:
    """The oldest unclaimed post since `since` that says the same in answer to the same post."""
    wanted = fingerprint(delivery.text)
    candidates = [
        post
        for post in posts
        if post.network_post_id not in claimed
        and post.time >= since
        and post.in_reply_to == delivery.in_reply_to
        and fingerprint(post.content) == wanted
    ]
    return min(candidates, key=lambda post: post.time, default=None)


def request_cancel(delivery: Delivery, now: datetime) -> Delivery:
    """The delivery after its publication was cancelled: what surely waits ends, the rest is not sent again."""
    if delivery.state is DeliveryState.QUEUED and delivery.doubt is None:
        return replace(
            delivery, state=DeliveryState.CANCELLED, cancel_requested=True, next_time=None, update_time=now
        )
    return delivery if delivery.state in FINAL else replace(delivery, cancel_requested=True)


def fail(delivery: Delivery, reason: str, now: datetime) -> Delivery:
    """A QUEUED delivery that will not be sent, because its account cannot be used."""
    return replace(delivery, state=DeliveryState.FAILED, reason=reason, next_time=None, update_time=now)


def _published(delivery: Delivery, posted: Posted) -> Delivery:
    return replace(
        delivery,
        state=DeliveryState.PUBLISHED,
        reason="",
        doubt=None,
        network_post_id=posted.network_post_id,
        url=posted.url,
        publish_time=posted.time,
    )


def _try_again(delivery: Delivery, outcome: Postponed, now: datetime, policy: Policy) -> Delivery:
    """Surely not on the network: back into the queue, unless it was cancelled or tried often enough."""
    tries = delivery.tries + 1
    if delivery.cancel_requested:
        return replace(delivery, state=DeliveryState.CANCELLED, reason="")
    if delivery.attempts >= policy.most_attempts:
        return replace(delivery, state=DeliveryState.FAILED, reason="TRIES_EXHAUSTED")
    return replace(
        delivery,
        state=DeliveryState.QUEUED,
        reason=outcome.reason,
        tries=tries,
        next_time=_later(outcome, now, policy, tries),
    )


def _later(outcome: Refused | Postponed | NotRead, now: datetime, policy: Policy, tries: int) -> datetime:
    """When to go on: when the network says, within reason, or after the usual wait."""
    until = None if isinstance(outcome, Refused) else outcome.until
    if until is None:
        return now + policy.delay(tries)
    return min(max(until, now), now + timedelta(hours=3))
