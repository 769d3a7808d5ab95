"""What every chapter of the story has in common: who is in it, where it is played, and how it is told."""

import html
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.demo.client import Gateway, Json, Problem, eventually
from deploy.demo.people import Network, consent
from deploy.demo.receiver import Receiver

PASSWORD = "off-road-and-family-2026"  # noqa: S105 -- of people who do not exist
ROLLOUT = "enterprise-edition"


@dataclass(frozen=True)
class Places:
    """Where the story is played, and with which keys."""

    gateway: str
    network: str
    operator_secret: str
    reviewer_secret: str
    network_secret: str
    profiles: Path
    network_password: str
    """Of every person of the sandbox network."""
    listen: str = "127.0.0.1"
    """An address of ours at which the platform's webhooks reach us."""


@dataclass
class Telling:
    """
    One telling of the story: what its chapters share.

    Attributes:
        results: what the tests look at.
    """

    places: Places
    console: Console = field(default_factory=Console)
    results: Json = field(default_factory=dict)
    receiver: Receiver = field(init=False)
    """The system of the partner who is told of events."""

    def __post_init__(self) -> None:
        self.public = Gateway(self.places.gateway)
        self.network = Network(self.places.network)
        self.began = stamp(timedelta())
        self.mark = datetime.now(UTC).strftime("%d %b %H:%M:%S")
        """Makes this telling's posts differ from those of the one before."""
        self.operator: Gateway
        self.enterprise: str
        """Of Tianshan Motors, the company of the story, whose owner is `owner`."""
        self.owner: Gateway
        self.accounts: dict[str, str] = {}
        """The four accounts that it binds first, by label."""
        self.groups: dict[str, str]
        """The groups of its tree, by what people call them."""
        self.outlets: dict[str, str]
        """The accounts of the tree on which can be published, by user name."""
        self.colleague: Gateway
        """Gulnar, who looks after Xinjiang."""

    def _register(self, display_name: str, industry: str, region: str, email: str) -> str:
        try:
            created = self.public.post(
                "/v1/enterprises",
                {
                    "displayName": display_name,
                    "industry": industry,
                    "region": region,
                    "ownerEmail": email,
                    "ownerPassword": PASSWORD,
                },
            )
            return str(created["name"])
        except Problem as problem:
            if problem.reason != "EMAIL_TAKEN":
                raise
        return str(self.public.login(email, PASSWORD).get("/v1/edition")["enterprise"])

    def _bind(self, owner: Gateway, enterprise: str, username: str, label: str) -> Json:
        """Bind an account of the network; the consent is given on the network's own page."""
        started = owner.post(
            f"/v1/{enterprise}/accounts:startBinding",
            {"network": "mastodon", "server": self.places.network, "labels": [label]},
        )
        handed = consent(started["authorizationUrl"], username, self.places.network_password)
        return owner.post(
            f"/v1/{enterprise}/accounts:completeBinding",
            {"state": handed["state"], "code": handed["code"]},
            once=True,
        )

    def _publish(self, who: Gateway, text: str, accounts: list[str], **when: str) -> str:
        """A publication on some accounts, scheduled; its name. Raises Problem."""
        publication = who.post(
            f"/v1/{self.enterprise}/publications", {"text": text, "accounts": accounts, **when}
        )
        who.post(f"/v1/{publication['name']}:schedule")
        return str(publication["name"])

    def _outcome(self, who: Gateway, account: str) -> str:
        """What comes of somebody's publishing on an account: the delivery's state, or why not."""
        try:
            publication = self._publish(who, f"Hello from our province. ({self.mark})", [account])
        except Problem as problem:
            return problem.reason
        return str(self.await_deliveries(publication)[0]["state"])

    def await_deliveries(self, publication: str, seconds: float = 60) -> list[Json]:
        """The publication's deliveries, once each has ended."""

        def ended() -> list[Json] | None:
            deliveries = list(self.owner.list(f"/v1/{publication}/deliveries", "deliveries"))
            open_states = {"QUEUED", "SENDING", "PENDING_REMOTE", "UNCONFIRMED"}
            return (
                deliveries if deliveries and not any(d["state"] in open_states for d in deliveries) else None
            )

        return eventually(ended, what=f"the end of all deliveries of {publication}", seconds=seconds)

    def count_on_network(self, delivery: Json) -> int:
        """How often a delivery's text stands on its account, as everybody sees it."""
        handle = next(a["handle"] for a in self._accounts() if a["name"] == delivery["account"])
        return sum(delivery["text"] in plain(post["content"]) for post in self.network.posts_of(handle))

    def _accounts(self) -> list[Json]:
        return list(self.owner.list(f"/v1/{self.enterprise}/accounts", "accounts"))

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def _table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        table = Table(title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        self.console.print(table)

    def _show_problem(self, problem: Problem) -> None:
        self.console.print_json(json.dumps(problem.body, ensure_ascii=False))


def integer(answer: Json, key: str) -> int:
    """A 64-bit number: proto-JSON writes it as a string, and leaves zero out."""
    return int(answer.get(key, 0))


def stamp(offset: timedelta) -> str:
    """A time from now, as the API takes it."""
    return (datetime.now(UTC) + offset).isoformat().replace("+00:00", "Z")


def plain(content: str) -> str:
    """The text of a post: the network gives HTML."""
    return html.unescape(re.sub(r"<[^>]+>", "", content))
