"""The things of the network: accounts, applications, tokens, media, posts, notifications."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Account:
    """A user of the network. The password is no secret: these people are made up."""

    id: int
    username: str
    password: str
    display_name: str
    followers: int
    created_at: datetime
    statuses: list["Status"] = field(default_factory=list)
    """Own posts and reposts, oldest first."""
    notifications: list["Notification"] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Application:
    id: int
    client_id: str
    client_secret: str
    name: str
    website: str | None
    redirect_uris: list[str]
    scopes: list[str]


@dataclass(slots=True, eq=False)
class Token:
    value: str
    application: Application
    account: Account | None
    """None for the application's own token (client credentials)."""
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None = None
    """None: never."""
    refresh: str | None = None
    """What gets the next token, for one that expires."""

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and datetime.now(UTC) >= self.expires_at

    def allows(self, scope: str) -> bool:
        """`write` covers `write:statuses`."""
        return scope in self.scopes or scope.partition(":")[0] in self.scopes


@dataclass(slots=True, eq=False)
class Media:
    id: int
    account: Account
    file_name: str
    content_type: str
    description: str | None
    ready_at: float
    """Seconds since the epoch; until then the upload is being processed."""
    status_id: int | None = None

    @property
    def ready(self) -> bool:
        return time.time() >= self.ready_at


@dataclass(frozen=True, slots=True)
class Draft:
    """What a client asks to be posted, checked."""

    text: str
    visibility: str = "public"
    sensitive: bool = False
    spoiler_text: str = ""
    language: str | None = None
    in_reply_to_id: int | None = None
    media_ids: Sequence[int] = ()


@dataclass(slots=True, eq=False)
class Status:
    """A post, or the repost of one (`reblog_of`; all else but id, account and time is then empty)."""

    id: int
    account: Account
    created_at: datetime
    text: str = ""
    visibility: str = "public"
    sensitive: bool = False
    spoiler_text: str = ""
    language: str | None = None
    application: str | None = None
    in_reply_to: "Status | None" = None
    media: list[Media] = field(default_factory=list)
    reblog_of: "Status | None" = None
    edited_at: datetime | None = None
    mentioned: list[Account] = field(default_factory=list)
    replies: list["Status"] = field(default_factory=list)
    reblogs: dict[int, "Status"] = field(default_factory=dict)
    """The reposts, by account id."""
    favourites: dict[int, Account] = field(default_factory=dict)

    @property
    def addressed(self) -> list[Account]:
        """Whom it answers, and who is mentioned."""
        answered = [self.in_reply_to.account] if self.in_reply_to else []
        return list(dict.fromkeys([*answered, *self.mentioned]))


@dataclass(frozen=True, slots=True)
class Notification:
    id: int
    kind: str
    """`mention` (also a reply), `reblog` or `favourite`."""
    account: Account
    """Who did it."""
    status: Status

    @property
    def created_at(self) -> datetime:
        """Read from the id, which holds the milliseconds."""
        return datetime.fromtimestamp((self.id >> 16) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list a client asks for; ids are exclusive bounds."""

    limit: int
    max_id: int | None = None
    since_id: int | None = None
    min_id: int | None = None

    def select(self, items: Sequence[T], id_of: Callable[[T], int], keep: Callable[[T], bool]) -> list[T]:
        """Newest first. `min_id` takes the oldest of the newer ones, else the newest are taken."""
        after = max(self.min_id or 0, self.since_id or 0)
        start = bisect_left(items, after + 1, key=id_of)
        end = bisect_left(items, self.max_id, key=id_of) if self.max_id is not None else len(items)
        backwards = self.min_id is None
        positions = range(end - 1, start - 1, -1) if backwards else range(start, end)
        found: list[T] = []
        for position in positions:
            if len(found) == self.limit:
                break
            if keep(items[position]):
                found.append(items[position])
        return found if backwards else found[::-1]
