"""
Mastodon's API, which many servers speak. They differ: ids are opaque, errors may come as text, keys may be
ignored.

Nothing that a server says is trusted: replies are capped in size, and what has not the expected form counts
as no answer.
"""

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from services.chassis.clock import Clock
from services.publishing.model.deliveries import (
    REAUTH_REQUIRED,
    NotRead,
    Posted,
    Postponed,
    Refused,
    SendOutcome,
    Timeline,
    TimelinePost,
    Unknown,
)
from services.publishing.model.interactions import InteractionKind, Notification
from services.publishing.model.texts import from_html
from services.publishing.networks import Credentials, Notifications, Post

_REPLY_BYTES = 4 * 1024 * 1024
_TIMELINE_PAGE, _TIMELINE_PAGES = 40, 25
_NOTIFICATION_PAGE, _NOTIFICATION_PAGES = 80, 10
_LONGEST_TEXT, _LONGEST_NAME = 10_000, 500
_KINDS = {
    "mention": InteractionKind.MENTION,
    "reblog": InteractionKind.REPOST,
    "favourite": InteractionKind.FAVOURITE,
}

Json = Any
T = TypeVar("T")
_MAY_SEND: ContextVar[Callable[[], bool]] = ContextVar("may_send", default=lambda: True)


class _NotAllowedError(Exception):
    """`may_send` said no: not one byte of the request was sent."""


class _MalformedError(ValueError):
    """A reply has not the expected form."""


class _Connector(aiohttp.TCPConnector):
    """Asks once more when the connection is there, just before the first byte."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 -- as aiohttp has it
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        if not _MAY_SEND.get()():
            connection.release()
            raise _NotAllowedError
        return connection


class Mastodon:
    """
    The network "mastodon". Use as an async context manager; one instance serves all accounts and servers.

    Args:
        clock: tells when a rate limit resets, relative to now.
        read_timeout: of one request that reads, its connection included.
        connections: the most at once, to all servers.

    """

    def __init__(self, clock: Clock, *, read_timeout: timedelta, connections: int) -> None:
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=read_timeout.total_seconds())
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=self._connections),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "Numerator"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def publish(
        self, credentials: Credentials, post: Post, time_left: timedelta, may_send: Callable[[], bool]
    ) -> SendOutcome:
        seconds = time_left.total_seconds()
        body = {"status": post.text, "visibility": "public"}
        if post.in_reply_to:
            body["in_reply_to_id"] = post.in_reply_to
        asked = _MAY_SEND.set(may_send)
        try:
            async with self._open().post(
                f"{credentials.server}/api/v1/statuses",
                json=body,
                headers={"Idempotency-Key": post.key, **_authorization(credentials)},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds, connect=seconds / 2),
            ) as response:
                return self._outcome(response, await _read(response))
        except _NotAllowedError:
            return Postponed("LEASE_LOST")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL):
            return Postponed("UNREACHABLE")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Unknown("NO_REPLY")
        finally:
            _MAY_SEND.reset(asked)

    async def timeline(self, credentials: Credentials, since: datetime) -> Timeline | NotRead:
        posts: dict[str, TimelinePost] = {}
        params = {"limit": str(_TIMELINE_PAGE), "exclude_reblogs": "true"}
        path = f"/api/v1/accounts/{credentials.network_account_id}/statuses"
        for _ in range(_TIMELINE_PAGES):
            page = await self._get(credentials, path, params, _timeline_post)
            if isinstance(page, NotRead):
                return page
            new = [post for post in page if post.network_post_id not in posts]
            posts |= {post.network_post_id: post for post in new}
            if not page or any(post.time < since for post in page):
                return Timeline(tuple(posts.values()), complete=True)
            if not new:
                break
            params["max_id"] = page[-1].network_post_id
        return Timeline(tuple(posts.values()), complete=False)

    async def notifications(
        self, credentials: Credentials, cursor: str, since: datetime
    ) -> Notifications | NotRead:
        found: list[Notification] = []
        newest = cursor
        params = {"limit": str(_NOTIFICATION_PAGE)} | ({"min_id": cursor} if cursor else {})
        for _ in range(_NOTIFICATION_PAGES):
            page = await self._get(
                credentials,
                "/api/v1/notifications",
                params,
                lambda item: (_text(item, "id"), _time(item, "created_at"), _notification(item, credentials)),
            )
            if isinstance(page, NotRead):
                return page
            found += [told for _, time, told in page if told and (cursor or time >= since)]
            if not page:
                break
            if cursor:
                # Upwards from where we were: the first of a page is its newest.
                newest = params["min_id"] = page[0][0]
            else:
                # The first reading goes down from the newest to the time when the account was bound.
                newest = newest or page[0][0]
                params["max_id"] = page[-1][0]
            if len(page) < _NOTIFICATION_PAGE or (not cursor and page[-1][1] < since):
                break
        return Notifications(tuple(found), newest)

    def _outcome(self, response: aiohttp.ClientResponse, body: bytes) -> SendOutcome:
        match response.status:
            case 200 | 201 | 202:
                return _posted(body)
            case 401 | 403:
                return Refused(REAUTH_REQUIRED)
            case 429:
                return Postponed("RATE_LIMITED", _reset(response.headers, self._clock.now()))
            case 408 | 409 | 423 | 425:
                # The server is not done with the request, or may not be.
                return Unknown("NO_REPLY")
            case status:
                server_error = status >= HTTPStatus.INTERNAL_SERVER_ERROR
                return Unknown("SERVER_ERROR", answered=True) if server_error else Refused("REJECTED_CONTENT")

    async def _get(
        self,
        credentials: Credentials,
        path: str,
        params: Mapping[str, str],
        parse: Callable[[Json], T],
    ) -> list[T] | NotRead:
        """One page of a list, each item parsed."""
        try:
            async with self._open().get(
                f"{credentials.server}{path}",
                params=params,
                headers=_authorization(credentials),
                allow_redirects=False,
            ) as response:
                match response.status:
                    case 200:
                        return [parse(item) for item in _list(await _read(response))]
                    case 401:
                        return NotRead(REAUTH_REQUIRED)
                    case 429:
                        return NotRead("RATE_LIMITED", _reset(response.headers, self._clock.now()))
                    case _:
                        return NotRead("SERVER_ERROR")
        except ValueError:
            return NotRead("MALFORMED_REPLY")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return NotRead("UNREACHABLE")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use Mastodon as an async context manager")
        return self._session


def _authorization(credentials: Credentials) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials.token}"}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body; empty if it is larger than we take, for then it is no answer to us."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _REPLY_BYTES:
            return b""
    return bytes(body)


def _json(body: bytes) -> Json:
    try:
        return json.loads(body)
    except RecursionError:
        raise _MalformedError("nested too deeply") from None


def _posted(body: bytes) -> Posted | Unknown:
    try:
        status = _json(body)
        return Posted(_text(status, "id"), _url(status), _time(status, "created_at"))
    except ValueError:
        return Unknown("MALFORMED_REPLY", answered=True)


def _list(body: bytes) -> list[Json]:
    items = _json(body)
    if not isinstance(items, list):
        raise _MalformedError("no list")
    return items


def _timeline_post(status: Json) -> TimelinePost:
    return TimelinePost(
        network_post_id=_text(status, "id"),
        url=_url(status),
        time=_time(status, "created_at"),
        content=from_html(_text(status, "content")),
        in_reply_to=_optional(status, "in_reply_to_id"),
    )


def _notification(item: Json, credentials: Credentials) -> Notification | None:
    """A notification of a kind that we keep."""
    kind = _KINDS.get(_text(item, "type"))
    if kind is None:
        return None
    account, status = _object(item, "account"), _object(item, "status")
    wrote = kind is InteractionKind.MENTION
    to_us = wrote and _optional(status, "in_reply_to_account_id") == credentials.network_account_id
    acct = _text(account, "acct")[:_LONGEST_NAME]
    host = credentials.server.partition("://")[2]
    followers = account.get("followers_count")
    return Notification(
        network_id=_text(item, "id"),
        kind=kind,
        acct=acct,
        author=acct if "@" in acct else f"{acct}@{host}",
        author_display_name=_optional(account, "display_name")[:_LONGEST_NAME],
        author_followers=followers if isinstance(followers, int) and 0 <= followers < 1 << 62 else 0,
        post_id=_text(status, "id"),
        answered_post_id=_optional(status, "in_reply_to_id") if to_us else "",
        text=from_html(_text(status, "content"))[:_LONGEST_TEXT] if wrote else "",
        url=_url(status),
        time=_time(item, "created_at"),
    )


def _object(value: Json, key: str) -> Mapping[str, Json]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise _MalformedError(key)
    return found


def _text(value: Json, key: str) -> str:
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, str) or (key == "id" and not found):
        raise _MalformedError(key)
    # PostgreSQL takes no NUL in a text.
    return found.replace("\x00", "")


def _optional(value: Json, key: str) -> str:
    return _text(value, key) if isinstance(value, Mapping) and value.get(key) is not None else ""


def _time(value: Json, key: str) -> datetime:
    time = datetime.fromisoformat(_text(value, key))
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _url(status: Json) -> str:
    url = _optional(status, "url")
    return url if url.startswith(("https://", "http://")) else ""


def _reset(headers: Mapping[str, str], now: datetime) -> datetime | None:
    """When a rate limit resets: in ISO 8601, or in seconds since the epoch; else by `Retry-After`."""
    reset = headers.get("X-RateLimit-Reset", "")
    after = headers.get("Retry-After", "")
    try:
        if reset.isdecimal():
            return datetime.fromtimestamp(int(reset), UTC)
        if reset:
            time = datetime.fromisoformat(reset)
            return time if time.tzinfo else time.replace(tzinfo=UTC)
        return now + timedelta(seconds=int(after)) if after.isdecimal() else None
    except (ValueError, OverflowError, OSError):
        return None
