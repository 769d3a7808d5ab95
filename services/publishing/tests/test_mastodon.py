"""The network "mastodon" against a real server over HTTP: what happens on the wire becomes the right outcome."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.sandbox.people import Person
from services.chassis.clock import SystemClock
from services.publishing.model.deliveries import (
    NotRead,
    Posted,
    Postponed,
    Refused,
    SendOutcome,
    Timeline,
    Unknown,
)
from services.publishing.model.interactions import InteractionKind
from services.publishing.model.texts import fingerprint
from services.publishing.networks import Credentials, Notifications, Post
from services.publishing.networks.mastodon import Mastodon
from services.publishing.tests.conftest import Sandbox

PATIENCE = timedelta(seconds=5)


@pytest.fixture
async def network() -> AsyncIterator[Mastodon]:
    async with Mastodon(SystemClock(), read_timeout=PATIENCE, connections=10) as mastodon:
        yield mastodon


@pytest.fixture
def us(sandbox: Sandbox) -> Credentials:
    return Credentials(sandbox.url, sandbox.account_id("tianshan"), sandbox.token("tianshan"))


def now() -> datetime:
    return datetime.now(UTC)


async def publish(
    network: Mastodon, us: Credentials, text: str = "Hello", key: str = "k1", **post: str
) -> SendOutcome:
    return await network.publish(us, Post(text, key, **post), PATIENCE, lambda: True)


async def test_publish__good__is_posted(sandbox: Sandbox, network: Mastodon, us: Credentials) -> None:
    """The outcome carries the network's id, URL and time; the key is on the wire."""
    outcome = await publish(network, us, "第一条 <b>post</b>")

    (post,) = sandbox.posts()
    assert isinstance(outcome, Posted)
    assert (post["status_id"], post["text"], post["idempotency_key"]) == (
        outcome.network_post_id, "第一条 <b>post</b>", "k1",
    )  # fmt: skip
    assert outcome.url.startswith(sandbox.url)
    assert abs(now() - outcome.time) < timedelta(seconds=5)


@pytest.mark.parametrize(("mode", "posts"), [("honours", 1), ("serial", 1), ("ignores", 2)])
async def test_publish__same_key_again__as_the_server_is(
    sandbox: Sandbox, network: Mastodon, us: Credentials, mode: str, posts: int
) -> None:
    """One after another, a server that knows keys gives the old post; one that does not makes another."""
    sandbox.control("mode", mode=mode)

    first, again = await publish(network, us), await publish(network, us)

    assert isinstance(first, Posted)
    assert isinstance(again, Posted)
    assert len(sandbox.posts()) == posts
    assert (first.network_post_id == again.network_post_id) is (posts == 1)


@pytest.mark.parametrize(
    ("fault", "outcome", "posts"),
    [
        ({"kind": "lost_reply_after_commit"}, Unknown("NO_REPLY"), 1),
        ({"kind": "error_500_after_commit"}, Unknown("SERVER_ERROR", answered=True), 1),
        ({"kind": "error_500_before"}, Unknown("SERVER_ERROR", answered=True), 0),
        ({"kind": "reset_before"}, Unknown("NO_REPLY"), 0),
    ],
)
async def test_publish__faults__are_unknown(
    sandbox: Sandbox,
    network: Mastodon,
    us: Credentials,
    *,
    fault: dict[str, Any],
    outcome: SendOutcome,
    posts: int,
) -> None:
    """Whether there is a post or not, we do not know, and say so."""
    sandbox.fault(**fault)

    assert await publish(network, us) == outcome
    assert len(sandbox.posts()) == posts


@pytest.mark.parametrize("kind", ["black_hole", "latency"])
async def test_publish__no_answer_in_time__is_unknown(
    sandbox: Sandbox, network: Mastodon, us: Credentials, kind: str
) -> None:
    """We give up after the time that we have, not after the server's."""
    sandbox.fault(kind, milliseconds=3000 if kind == "latency" else 0)
    began = now()

    outcome = await network.publish(us, Post("Hello", "k1"), timedelta(seconds=0.5), lambda: True)

    assert outcome == Unknown("NO_REPLY")
    assert now() - began < timedelta(seconds=2)


async def test_publish__rate_limited__says_until_when(
    sandbox: Sandbox, network: Mastodon, us: Credentials
) -> None:
    """The server's reset becomes the time of the next try."""
    sandbox.fault("too_many_requests", retry_after=90)

    outcome = await publish(network, us)

    assert isinstance(outcome, Postponed)
    assert outcome.until is not None
    assert timedelta(seconds=60) < outcome.until - now() < timedelta(seconds=120)


async def test_publish__refused__is_for_good(sandbox: Sandbox, network: Mastodon, us: Credentials) -> None:
    """A text that the server does not take, a post that is not there, a token that is not good."""
    too_long = await publish(network, us, "x" * 501)
    gone = await publish(network, us, in_reply_to="12345")
    revoked = await publish(network, Credentials(us.server, us.network_account_id, "wrong"))

    assert too_long == gone == Refused("REJECTED_CONTENT")
    assert revoked == Refused("REAUTH_REQUIRED")
    assert sandbox.posts() == []


async def test_publish__nobody_listens__may_be_tried_again(network: Mastodon) -> None:
    """No connection, no byte, no post."""
    outcome = await publish(network, Credentials("http://127.0.0.1:1", "1", "token"))

    assert outcome == Postponed("UNREACHABLE")


async def test_publish__lease_lost__sends_not_one_byte(
    sandbox: Sandbox, network: Mastodon, us: Credentials
) -> None:
    """The last look is on the open connection, a new one and a used one alike."""
    refused = await network.publish(us, Post("Hello", "k1"), PATIENCE, lambda: False)
    await publish(network, us, "Other", "k2")
    refused_again = await network.publish(us, Post("Hello", "k1"), PATIENCE, lambda: False)

    assert refused == refused_again == Postponed("LEASE_LOST")
    assert [post["text"] for post in sandbox.posts()] == ["Other"]


async def test_timeline__several_pages__is_complete(
    sandbox: Sandbox, network: Mastodon, us: Credentials
) -> None:
    """All own posts since a time, replies too, as plain text."""
    began = now()
    for number in range(45):
        await publish(network, us, f"Post {number} & more", f"k{number}")
    first = sandbox.posts()[0]["status_id"]
    await publish(network, us, "An answer", "ka", in_reply_to=first)

    read = await network.timeline(us, began - timedelta(minutes=5))

    assert isinstance(read, Timeline)
    assert read.complete
    assert {fingerprint(post.content) for post in read.posts} == {
        fingerprint(post["text"]) for post in sandbox.posts()
    }
    assert [post.in_reply_to for post in read.posts if post.in_reply_to] == [first]


async def test_timeline__not_readable__says_why(sandbox: Sandbox, network: Mastodon, us: Credentials) -> None:
    """Nothing is concluded from a timeline that was not read."""
    wrong = await network.timeline(Credentials(us.server, us.network_account_id, "wrong"), now())
    sandbox.fault("error_500_before", operation="account_statuses")
    broken = await network.timeline(us, now())
    away = await network.timeline(Credentials("http://127.0.0.1:1", "1", "token"), now())

    assert wrong == NotRead("REAUTH_REQUIRED")
    assert broken == NotRead("SERVER_ERROR")
    assert away == NotRead("UNREACHABLE")


async def test_notifications__what_people_do__comes_in_once(
    sandbox: Sandbox, network: Mastodon, us: Credentials
) -> None:
    """Reposts, comments, mentions and favourites, each once, across readings; nothing from before the binding."""
    posted = await publish(network, us)
    assert isinstance(posted, Posted)

    def act(number: int) -> None:
        with Person(sandbox.url, "li-na") as li_na:
            li_na.comment(posted.network_post_id, f"Question {number}?")
            if number == 0:
                li_na.repost(posted.network_post_id)
                li_na.favourite(posted.network_post_id)
                li_na.post("@tianshan hello")

    await asyncio.to_thread(act, 0)
    first = await network.notifications(us, "", now() - timedelta(minutes=1))
    assert isinstance(first, Notifications)
    await asyncio.to_thread(act, 1)
    second = await network.notifications(us, first.cursor, now())
    assert isinstance(second, Notifications)
    third = await network.notifications(us, second.cursor, now())
    bound_now = await network.notifications(us, "", now() + timedelta(minutes=1))

    told = {(each.kind, each.answered_post_id, each.text) for each in first.notifications}
    assert told == {
        (InteractionKind.MENTION, posted.network_post_id, "@tianshan Question 0?"),
        (InteractionKind.REPOST, "", ""),
        (InteractionKind.FAVOURITE, "", ""),
        (InteractionKind.MENTION, "", "@tianshan hello"),
    }
    assert {(each.author, each.author_followers) for each in first.notifications} == {
        (f"li-na@{sandbox.url.partition('://')[2]}", 412)
    }
    assert [each.text for each in second.notifications] == ["@tianshan Question 1?"]
    assert third == Notifications((), second.cursor)
    assert bound_now == Notifications((), second.cursor)


async def test_notifications__more_than_a_page__all_come(
    sandbox: Sandbox, network: Mastodon, us: Credentials
) -> None:
    """A burst of 100 comments between two readings."""
    posted = await publish(network, us)
    before = await network.notifications(us, "", now())
    assert isinstance(posted, Posted)
    assert isinstance(before, Notifications)

    def burst() -> None:
        with Person(sandbox.url, "li-na") as li_na:
            for number in range(100):
                li_na.comment(posted.network_post_id, f"Question {number}?")

    await asyncio.to_thread(burst)
    with_first = await network.notifications(us, before.cursor, now() - timedelta(minutes=1))

    assert isinstance(with_first, Notifications)
    assert len({each.post_id for each in with_first.notifications}) == 100


@pytest.mark.parametrize(
    ("status", "body", "headers", "outcome"),
    [
        (200, b"<html>", {}, Unknown("MALFORMED_REPLY", answered=True)),
        (200, b'{"id": 7, "created_at": "x"}', {}, Unknown("MALFORMED_REPLY", answered=True)),
        (200, b"[" * 100_000, {}, Unknown("MALFORMED_REPLY", answered=True)),
        (200, b'{"id": "7", "created_at": "2026-01-15T12:00:00Z", "url": "javascript:x"}', {},
         Posted("7", "", datetime(2026, 1, 15, 12, tzinfo=UTC))),
        (302, b"", {"Location": "http://127.0.0.1:1/"}, Refused("REJECTED_CONTENT")),
        (409, b"", {}, Unknown("NO_REPLY")),
        (429, b"", {"X-RateLimit-Reset": "1768478400"},
         Postponed("RATE_LIMITED", datetime(2026, 1, 15, 12, tzinfo=UTC))),
        (429, b"", {"X-RateLimit-Reset": "2026-01-15T12:00:00.123456Z"},
         Postponed("RATE_LIMITED", datetime(2026, 1, 15, 12, 0, 0, 123456, tzinfo=UTC))),
        (429, b"", {"X-RateLimit-Reset": "soon"}, Postponed("RATE_LIMITED")),
    ],
)  # fmt: skip
async def test_publish__odd_servers__never_break_us(
    network: Mastodon,
    odd_server: Callable[..., Any],
    *,
    status: int,
    body: bytes,
    headers: dict[str, str],
    outcome: SendOutcome,
) -> None:
    """Whatever a server answers becomes an outcome; redirects are not followed."""
    url = await odd_server(status, body, headers)

    assert await publish(network, Credentials(url, "1", "token")) == outcome


@pytest.fixture
async def odd_server() -> AsyncIterator[Callable[..., Any]]:
    """Starts a server that gives one fixed answer to everything."""
    servers = []

    async def start(status: int, body: bytes, headers: dict[str, str]) -> str:
        lines = [f"HTTP/1.1 {status} Odd", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        answer = "\r\n".join([*lines, "", ""]).encode() + body

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
