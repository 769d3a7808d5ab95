"""Accounts, what is published on them, and what people say to it."""

from collections import Counter

from deploy.demo.client import Json, eventually
from deploy.demo.telling import Telling, plain
from deploy.sandbox.people import Person


class Publishing(Telling):
    """Four accounts, publications, and people who answer."""

    def bind(self) -> None:
        """Bind four accounts; the consent is given on the network's own page."""
        rows = []
        for label, username in (
            ("brand", "tianshan"),
            ("dealer", "tianshan-dealer"),
            ("jobs", "tianshan-jobs"),
            ("care", "tianshan-care"),
        ):
            account = self._bind(self.owner, self.enterprise, username, label)
            self.accounts[label] = account["name"]
            rows.append(
                [
                    label,
                    f"@{account['handle']}",
                    account["software"],
                    account["state"],
                    account["name"].rsplit("/")[-1],
                ]
            )
        self._table("Bound accounts", ["label", "handle", "software", "state", "id"], rows)
        self.results["accounts"] = dict(self.accounts)

    def publish(self) -> None:
        """Plan, schedule, watch, and count on the network itself."""
        publication = self.owner.post(f"/v1/{self.enterprise}/publications", self.publication())
        plan = self.owner.post(f"/v1/{publication['name']}:plan")
        self._table(
            "The plan: what will appear where, and which rule says so",
            ["account", "rule", "text"],
            [
                [e["handle"], e["rule"], e.get("text", "–")]
                for e in plan["entries"]
                if e["account"] in self.accounts.values()
            ],
        )
        self.owner.post(f"/v1/{publication['name']}:schedule")
        self.deliveries = self.await_deliveries(publication["name"])
        rows = []
        for delivery in self.deliveries:
            label = next(label for label, name in self.accounts.items() if name == delivery["account"])
            rows.append(
                [
                    label,
                    delivery["state"],
                    delivery.get("attemptCount", 0),
                    self.count_on_network(delivery),
                    delivery.get("url", ""),
                ]
            )
        self._table("On the network", ["account", "state", "attempts", "posts seen there", "url"], rows)
        self.results["posts_seen"] = {row[0]: row[3] for row in rows}
        self.results["publication"] = publication["name"]

    def publication(self) -> Json:
        """The same for two of four accounts but one left out, and two variants."""
        return {
            "text": f"SUV weekend in the dunes: two days, your family, the new T7. Places are few. ({self.mark})",
            "variants": [
                {
                    "accounts": [self.accounts["dealer"]],
                    "text": f"Come by on Saturday: the T7 is here for a test drive, coffee included. ({self.mark})",
                },
                {
                    "accounts": [self.accounts["jobs"]],
                    "text": f"We look for guides for our SUV weekends. Sand in your shoes is a plus. ({self.mark})",
                },
            ],
            "accounts": list(self.accounts.values()),
            "excludeAccounts": [self.accounts["care"]],
        }

    def answer(self) -> None:
        """People act on the network; what they did comes back, and one gets an answer."""
        post = next(d for d in self.deliveries if d["account"] == self.accounts["brand"])["networkPostId"]
        question = f"Is there a child seat in the T7? ({self.mark})"
        with (
            Person(self.places.network, "li-na") as li_na,
            Person(self.places.network, "wang-wei") as wang_wei,
        ):
            li_na.repost(post)
            wang_wei.repost(post)
            wang_wei.favourite(post)
            li_na.comment(post, question)

        def arrived() -> list[Json] | None:
            found = [
                i for i in self.owner.list(f"/v1/{self.enterprise}/interactions", "interactions")
                if i.get("delivery") and i["delivery"] in {d["name"] for d in self.deliveries}
            ]  # fmt: skip
            return found if len(found) >= 4 else None

        interactions = eventually(arrived, what="the return of what people did")
        self._table(
            "Interactions",
            ["kind", "from", "text"],
            [[i["kind"], i["author"], i.get("text", "")] for i in interactions],
        )
        asked = next(i for i in interactions if i["kind"] == "COMMENT" and question in i["text"])
        reply = f"Two of them, and the middle row has Isofix. See you in the dunes! ({self.mark})"
        self.owner.post(f"/v1/{asked['name']}:answer", {"text": reply})
        answered = eventually(
            lambda: ((i := self.owner.get(f"/v1/{asked['name']}"))["state"] == "ANSWERED" and i) or None,
            what="the answer on the network",
        )
        replies = [reply in plain(each["content"]) for each in self.network.replies_to(post)]
        self._say(
            f"The question is {answered['state']}; the answer stands {sum(replies)} time on the network, under the post."
        )
        self.results |= {
            "interactions": Counter(i["kind"] for i in interactions),
            "answers_seen": sum(replies),
        }
