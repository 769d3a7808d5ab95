"""A network in memory, for the rules of delivery: it knows which delivery each post is of, and tells only the tests."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.publishing.model.accounts import Account, AccountState, NetworkClass
from services.publishing.model.deliveries import (
    Delivery,
    Posted,
    Rule,
    Timeline,
    TimelinePost,
    idempotency_key,
)
from services.publishing.model.publications import Publication, PublicationState

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
ENTERPRISE = "enterprises/tianshan"


def make_account(number: int = 1, **changes: object) -> Account:
    values: dict[str, object] = {
        "name": f"{ENTERPRISE}/accounts/a{number}",
        "enterprise": ENTERPRISE,
        "network": "mastodon",
        "server": "https://example.social",
        "software": "mastodon",
        "network_account_id": f"10{number}",
        "handle": f"tianshan{number}",
        "state": AccountState.ACTIVE,
        "max_characters": 500,
        "bind_time": NOON,
        "sealed_token": b"sealed",
    }
    return Account(**(values | changes))  # type: ignore[arg-type]


def make_publication(**changes: object) -> Publication:
    values: dict[str, object] = {
        "name": f"{ENTERPRISE}/publications/p1",
        "enterprise": ENTERPRISE,
        "text": "An SUV weekend in the mountains",
        "variants": (),
        "accounts": (),
        "exclude_accounts": (),
        "schedule_time": None,
        "state": PublicationState.DRAFT,
        "create_time": NOON,
        "update_time": NOON,
    }
    return Publication(**(values | changes))  # type: ignore[arg-type]


def make_delivery(**changes: object) -> Delivery:
    name = changes.get("name", f"{ENTERPRISE}/publications/p/deliveries/d")
    values: dict[str, object] = {
        "name": name,
        "enterprise": ENTERPRISE,
        "publication": f"{ENTERPRISE}/publications/p",
        "account": f"{ENTERPRISE}/accounts/a",
        "text": "Hello",
        "rule": Rule.SAME,
        "key": idempotency_key(str(name), revision=1),
        "due_time": NOON,
        "create_time": NOON,
        "update_time": NOON,
    }
    return Delivery(**(values | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class FakePost:
    network_post_id: str
    delivery: str
    text: str
    key: str
    time: datetime
    visible: datetime


@dataclass
class FakeNetwork:
    """One account of a network of class A, which honours keys, or B, which ignores them."""

    network_class: NetworkClass
    posts: list[FakePost] = field(default_factory=list)

    def commit(self, delivery: Delivery, key: str, now: datetime, lag: timedelta) -> Posted:
        """Make a post, or find the one of the same key."""
        if self.network_class is NetworkClass.A:
            for post in self.posts:
                if post.key == key and now - post.time < timedelta(hours=1):
                    return Posted(post.network_post_id, "", post.time)
        post = FakePost(str(len(self.posts) + 1), delivery.name, delivery.text, key, now, now + lag)
        self.posts.append(post)
        return Posted(post.network_post_id, "", post.time)

    def timeline(self, now: datetime) -> Timeline:
        visible = [post for post in self.posts if post.visible <= now]
        return Timeline(
            tuple(TimelinePost(post.network_post_id, "", post.time, post.text, "") for post in visible),
            complete=True,
        )

    def count(self, delivery: Delivery) -> int:
        """How many posts were made for a delivery."""
        return sum(post.delivery == delivery.name for post in self.posts)
