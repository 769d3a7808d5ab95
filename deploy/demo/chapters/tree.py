"""A company with many accounts: its tree, holders who are invited, a province that is frozen, a token that is lost."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from time import monotonic

from rich.tree import Tree as Drawing

from deploy.demo.client import Json, eventually
from deploy.demo.people import follow_invitation
from deploy.demo.telling import Telling

GROUPS = {
    "Headquarters": "",
    "Xinjiang": "Headquarters",
    "Urumqi": "Xinjiang",
    "Urumqi North": "Urumqi",
    "Urumqi Airport": "Urumqi",
    "Kashgar": "Xinjiang",
    "Kashgar Old Town": "Kashgar",
    "Gansu": "Headquarters",
    "Lanzhou": "Gansu",
    "Lanzhou East": "Lanzhou",
    "Lanzhou West": "Lanzhou",
    "Dunhuang": "Gansu",
}
"""The group that each is in: headquarters, provinces, branches, outlets."""

HOLDERS = [
    ("mastodon", "xinjiang-news", "Xinjiang"),
    ("mastodon", "urumqi-service", "Urumqi"),
    ("mastodon", "urumqi-north", "Urumqi North"),
    ("mastodon", "urumqi-airport", "Urumqi Airport"),
    ("mastodon", "kashgar-rental", "Kashgar"),
    ("mastodon", "kashgar-old-town", "Kashgar Old Town"),
    ("mastodon", "gansu-news", "Gansu"),
    ("mastodon", "lanzhou-east", "Lanzhou East"),
    ("mastodon", "lanzhou-west", "Lanzhou West"),
    ("mastodon", "dunhuang", "Dunhuang"),
    ("weibo", "tianshan", "Headquarters"),
    ("weibo", "urumqi-north", "Urumqi North"),
]
"""Network, user name and group of the accounts that are to be bound."""
REFUSES = "lanzhou-west"
ERRS = "dunhuang"
"""Logs in as somebody whom another company has bound."""

_SLOW_MILLISECONDS = 2000


class Tree(Telling):
    """Groups and their accounts."""

    def invite_holders(self) -> None:
        """Lay out the tree, invite, and watch how the holders answer."""
        self.groups = self._lay_out_groups()
        for _, username, _ in HOLDERS:
            self.network.settle(username, self.places.network_password)
        created = self.owner.post(
            f"/v1/{self.enterprise}/bindingBatches",
            {
                "displayName": f"Outlets {self.mark}",
                "rows": [
                    {
                        "network": network,
                        "server": self.places.network,
                        "group": self.groups[group],
                        "labels": ["outlet"],
                        "externalKey": f"@{username} on {network}",
                    }
                    for network, username, group in HOLDERS
                ],
            },
        )
        batch = created["batch"]["name"]
        self._say(
            f"Twelve links, as {created['rows'][0]['invitationLink'][:64]}…, and twelve people who open theirs:"
        )
        with ThreadPoolExecutor(4) as pool:
            answers = [
                pool.submit(self._answer_invitation, row["invitationLink"], username)
                for row, (_, username, _) in zip(created["rows"], HOLDERS, strict=True)
            ]
            self._show_progress(batch)
            for answer in answers:
                answer.result()
        rows = list(self.owner.list(f"/v1/{batch}/rows", "rows", pageSize=500))
        self.outlets = {
            username: row["account"]
            for row, (network, username, _) in zip(rows, HOLDERS, strict=True)
            if row["state"] == "BOUND" and network == "mastodon"
        }
        self._table(
            "What came of the others",
            ["account", "state", "reason"],
            [[row["externalKey"], row["state"], row["reason"]] for row in rows if row["state"] != "BOUND"],
        )
        self._draw()
        self.results["invited"] = {row["externalKey"]: row.get("reason") or row["state"] for row in rows}

    def freeze(self) -> None:
        """Freeze a province while one of its posts is under way; then let go what was to be posted meanwhile."""
        slow, held, free = (self.outlets[name] for name in ("urumqi-north", "kashgar-old-town", "gansu-news"))
        names = {account: f"@{username}" for username, account in self.outlets.items()}
        self.network.delay_post("urumqi-north", _SLOW_MILLISECONDS)
        first = self._publish(self.owner, f"All roads are open: come and see us! ({self.mark})", [slow])
        eventually(lambda: self._state(first, slow) != "QUEUED" or None, what="a post's beginning")
        began = monotonic()
        freeze = self.colleague.post(
            f"/v1/{self.enterprise}/freezes",
            {"accountGroup": self.groups["Xinjiang"], "reason": "sand storm: nobody is to be sent out"},
        )
        self._say(
            f"There is a sand storm. Gulnar freezes Xinjiang, in force after [bold]{(monotonic() - began) * 1000:.0f} ms[/bold], "
            "and is told what was under way at that moment:"
        )
        in_flight = [[names[each["account"]], each["state"]] for each in freeze.get("inFlight", [])]
        self._table("In flight", ["account", "state"], in_flight)
        second = self._publish(self.owner, f"Picnic at noon, on us! ({self.mark})", [held, free])
        eventually(
            lambda: self._state(second, free) == "PUBLISHED" or None,
            what="a post outside of the frozen province",
        )
        meanwhile = self._seen(second)
        self._table(
            "A post to two provinces, meanwhile", ["account", "state", "posts seen there"],
            [[names[account], *told] for account, told in meanwhile.items()],
        )  # fmt: skip
        self.colleague.post(f"/v1/{freeze['name']}:lift")
        self.await_deliveries(second)
        self.await_deliveries(first)
        afterwards = self._seen(second) | self._seen(first)
        self._table(
            "After the storm, with the freeze lifted", ["account", "state", "posts seen there"],
            [[names[account], *told] for account, told in afterwards.items()],
        )  # fmt: skip
        self.results["freeze"] = {
            "in_flight": in_flight,
            "meanwhile": {names[account]: told for account, told in meanwhile.items()},
            "afterwards": {names[account]: told for account, told in afterwards.items()},
        }

    def lose_token(self) -> None:
        """A holder takes back what they agreed to: see what that does to a post, who is told, and what is planned."""
        lost = self.outlets["kashgar-rental"]
        # The post must be planned before and sent afterwards, so a freeze keeps it meanwhile.
        brake = {"account": lost, "reason": "wait for the new prices"}
        freeze = self.owner.post(f"/v1/{self.enterprise}/freezes", brake)
        publication = self._publish(self.owner, f"Rent a T7. ({self.mark})", [lost])
        self.network.revoke_tokens("kashgar-rental")
        self.owner.post(f"/v1/{freeze['name']}:lift")
        failed = self.await_deliveries(publication)[0]
        told = eventually(
            lambda: self.receiver.first("accounts.account.reauth_required", account=lost),
            what="the news that an account has to be authorised anew",
        )
        state = self.owner.get(f"/v1/{lost}")["state"]
        health = Counter(
            each["health"]
            for each in self.owner.list(f"/v1/{self.enterprise}/accountHealth", "accountHealth", pageSize=500)
        )
        plan = self.owner.get(f"/v1/{self.enterprise}/accounts:planReauthorizations")
        self._say(
            f"Whoever holds @kashgar-rental has taken the access back. A post that waited is {failed['state']} "
            f"({failed['reason']}), the account {state}, and the partner's system was told: {told.event['type']}."
        )
        self._table("Health", list(health), [list(health.values())])
        self._table(
            "Whom to ask again, and by when",
            ["day", "accounts"],
            [
                [batch["day"], ", ".join(f"@{each['handle']}" for each in batch["accounts"][:6])]
                for batch in plan["batches"]
            ],
        )
        self.results["lost"] = {
            "failed": failed["reason"],
            "state": state,
            "health": self.owner.get(f"/v1/{lost}/health")["health"],
            "planned": [each["handle"] for each in plan["batches"][0]["accounts"]],
        }

    def _lay_out_groups(self) -> dict[str, str]:
        """The names of all groups by what people call them; those that are missing are made."""
        found = {
            each["displayName"]: str(each["name"])
            for each in self.owner.list(f"/v1/{self.enterprise}/accountGroups", "accountGroups", pageSize=500)
        }
        for title, parent in GROUPS.items():
            if title not in found:
                group = {"displayName": title, "parentGroup": found.get(parent, "")}
                found[title] = self.owner.post(f"/v1/{self.enterprise}/accountGroups", group)["name"]
        return found

    def _answer_invitation(self, link: str, username: str) -> None:
        """What the holder does: agrees, except for one who does not and one who picks the wrong account."""
        person = "kunlun-tours" if username == ERRS else username
        password = self.places.network_password
        follow_invitation(self.places.gateway, link, person, password, agrees=username != REFUSES)

    def _show_progress(self, batch: str) -> None:
        """Tell of each row as soon as it is answered."""
        for number, row in enumerate(islice(self._answered(batch), len(HOLDERS)), start=1):
            self._say(f"  {number:2} of {len(HOLDERS)}  {row['state']:8} {row['externalKey']}")

    def _answered(self, batch: str) -> Iterator[Json]:
        """Each row once, when it is BOUND or REFUSED, as the stream tells it."""
        seen = set()
        for told in self.owner.events(f"/v1/{batch}:watch"):
            row = told["row"]
            if row["state"] in ("BOUND", "REFUSED") and row["name"] not in seen:
                seen.add(row["name"])
                yield row

    def _draw(self) -> None:
        """The tree, with the accounts that are directly in each group."""
        accounts = self._accounts()
        drawn = {"": Drawing("", hide_root=True)}
        for title, parent in GROUPS.items():
            there = [
                f"@{each['handle']}{' (Weibo)' if each['network'] == 'weibo' else ''}"
                for each in accounts
                if each.get("group") == self.groups[title]
            ]
            drawn[title] = drawn[parent].add(f"[bold]{title}[/bold]  {', '.join(there)}")
        self.console.print(drawn[""], highlight=False)

    def _state(self, publication: str, account: str) -> str:
        """Of the delivery on an account; QUEUED also while it is being made."""
        deliveries = self.owner.list(f"/v1/{publication}/deliveries", "deliveries")
        return next((str(each["state"]) for each in deliveries if each["account"] == account), "QUEUED")

    def _seen(self, publication: str) -> dict[str, tuple[str, int]]:
        """For each account of a publication the state of its delivery, and how many such posts everybody sees there."""
        return {
            each["account"]: (each["state"], self.count_on_network(each))
            for each in self.owner.list(f"/v1/{publication}/deliveries", "deliveries")
        }
