"""
Networks to which accounts belong: one module per network, behind one Protocol.

A network's module turns whatever happens on the wire into the outcomes of `model.deliveries`. It knows
nothing of leases, retries or the database, and keeps no state between calls but its connections.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from services.publishing.model.deliveries import NotRead, SendOutcome, Timeline
from services.publishing.model.interactions import Notification


@dataclass(frozen=True, slots=True)
class Credentials:
    """Which account, on which server (a base URL), and its access token."""

    server: str
    network_account_id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Post:
    """What is to be posted, and the key under which a server may recognise it."""

    text: str = field(repr=False)
    key: str
    in_reply_to: str = ""


@dataclass(frozen=True, slots=True)
class Notifications:
    """What an account was told, and the cursor from which to read on."""

    notifications: tuple[Notification, ...]
    cursor: str


class Network(Protocol):
    """One kind of network. No method raises for what the network does; each answers with an outcome."""

    async def publish(
        self, credentials: Credentials, post: Post, time_left: timedelta, may_send: Callable[[], bool]
    ) -> SendOutcome:
        """
        Publish a post.

        Args:
            credentials: the account.
            post: what to publish.
            time_left: after which we give up, connection included. No byte leaves later.
            may_send: asked on the open connection, just before the first byte; False ends the attempt.

        """
        ...

    async def timeline(self, credentials: Credentials, since: datetime) -> Timeline | NotRead:
        """The account's own posts since a time, by the server's clock."""
        ...

    async def notifications(
        self, credentials: Credentials, cursor: str, since: datetime
    ) -> Notifications | NotRead:
        """What the account was told after `cursor`; with an empty one, since a time."""
        ...
