"""Whom the company looks for, what they are shown, and what came of it."""

import json
from collections import Counter
from datetime import timedelta
from typing import Any

from deploy.demo.client import Json, Problem, eventually
from deploy.demo.telling import Telling, integer, stamp

CITIES = ["Chengdu", "Chongqing", "Xi'an", "Urumqi", "Lanzhou", "Kunming", "Beijing", "Shanghai"]

AUDIENCE: Json = {
    "all": {
        "rules": [
            {"demographics": {"minAge": 25, "maxAge": 45, "cities": CITIES}},
            {
                "any": {
                    "rules": [
                        {"topics": {"values": ["off-road", "road-trips", "camping", "family-cars"]}},
                        {"keywords": {"words": ["露营", "自驾", "SUV", "road trip"]}},
                    ]
                }
            },
            {"not": {"brands": {"values": ["tianshan"]}}},
        ]
    }
}
"""People who may want an SUV: off-road, road trips, family cars; 25 to 45; in eight cities; not customers already."""


class Campaign(Telling):
    """Page, audience, campaign and numbers."""

    def lay_out(self) -> None:
        """Put the SUV weekend on the page and look at the page as anybody does."""
        title = f"SUV weekend · {self.mark}"
        module = self.owner.post(
            f"/v1/{self.enterprise}/modules",
            {
                "title": title,
                "body": "Two days in the dunes, child seats included. Drive the new Tianshan T7 with your own family.",
                "startTime": stamp(timedelta(minutes=-1)),
                "endTime": stamp(timedelta(days=14)),
            },
        )
        path = "/pages/" + self.enterprise.split("/")[1]
        eventually(lambda: title in self.public.page(path) or None, what="the module on the public page")
        self.results |= {"page": self.places.gateway + path, "module": module["name"]}
        self._say(
            f"Module [bold]{title}[/bold] holds its place until {module['endTime'][:10]}. "
            f"The public page shows it: {self.results['page']}"
        )

    def ingest_profiles(self) -> None:
        """Send the file of profiles, and three lines of which two are bad."""
        feed = self.public.client("network", self.places.network_secret)
        with self.places.profiles.open("rb") as file:
            answer = feed.upload("/v1/profiles:ingest", iter(lambda: file.read(1 << 18), b""))
        bad = feed.upload(
            "/v1/profiles:ingest",
            [b'{"user": "u000001", "age": "old"}\n', b"{broken\n", b'{"user": "guest", "city": "Harbin"}\n'],
        )
        self._table(
            "Profiles",
            ["file", "accepted", "unchanged", "rejected"],
            [
                [name, *(integer(each, key) for key in ("acceptedCount", "unchangedCount", "rejectedCount"))]
                for name, each in ((self.places.profiles.name, answer), ("three more lines", bad))
            ],
        )
        self._table(
            "Lines that were skipped",
            ["line", "reason", "what is wrong"],
            [[p["line"], p["reason"], p["description"]] for p in bad["problems"]],
        )
        self.feed = feed
        self.results["profiles"] = {
            "accepted": integer(answer, "acceptedCount"),
            "rejected": [p["line"] for p in bad["problems"]],
        }

    def describe_audience(self) -> None:
        """Estimate, build, and look at why sample people are in it."""
        estimate = self.owner.post(f"/v1/{self.enterprise}/audiences:estimate", {"definition": AUDIENCE})
        self._say(
            f"About [bold]{integer(estimate, 'size'):,}[/bold] of {integer(estimate, 'population'):,} people fit the description."
        )
        self._table(
            "What they are like",
            ["", "group", "people", "share"],
            [[s["dimension"], s["value"], s["size"], f"{s['fraction']:.0%}"] for s in estimate["shares"][:8]],
        )
        created = self.owner.post(
            f"/v1/{self.enterprise}/audiences",
            {"displayName": "May want an SUV", "definition": AUDIENCE},
        )
        built = self.owner.post(f"/v1/{created['name']}:build")
        sample = self.owner.get(f"/v1/{created['name']}:sample", pageSize=4)
        self._table(
            f"Built: {integer(built, 'size'):,} people. Four of them, and why",
            ["relevance", "evidence"],
            [[f"{m['relevance']:.2f}", ", ".join(m["evidence"])] for m in sample["members"]],
        )
        self.audience: str = created["name"]
        self.results["audience_size"] = integer(built, "size")
        self.results["estimate"] = integer(estimate, "size")

    def start_campaign(self) -> None:
        """Create campaign and placement, and go live."""
        campaign = self.owner.post(
            f"/v1/{self.enterprise}/campaigns",
            {
                "displayName": f"SUV weekend {self.mark}",
                "startTime": stamp(timedelta(minutes=-1)),
                "endTime": stamp(timedelta(days=7)),
                "capacity": 500,
            },
        )
        placement = eventually(
            lambda: self._placement(campaign["name"]), what="the audience's arrival at placement"
        )
        live = self.owner.post(f"/v1/{campaign['name']}:start")
        self.campaign: str = campaign["name"]
        self.placement: str = placement["name"]
        self._table(
            "Campaign",
            ["state", "touchpoint", "format", "floor", "cap a day", "capacity"],
            [
                [
                    live["state"],
                    placement["touchpoint"],
                    placement["format"],
                    placement["relevanceFloor"],
                    placement["dailyCap"],
                    live["capacity"],
                ]
            ],
        )

    def decide(self) -> None:
        """Ask for people of all kinds; find some inside and some outside, with reasons."""
        with self.places.profiles.open(encoding="utf-8") as file:
            people = [json.loads(line)["user"] for _, line in zip(range(300), file, strict=False)]
        asked = {"requests": [{"user": f"users/{user}", "touchpoint": "HOME_FEED"} for user in people]}

        def ask() -> list[Json] | None:
            decisions: list[Json] = self.feed.post("/v1/decisions:decideBatch", asked)["decisions"]
            return decisions if any(d.get("placement") == self.placement for d in decisions) else None

        decisions = eventually(ask, what="the first placement of the live campaign")
        chosen = [d for d in decisions if d.get("placement") == self.placement]
        others = [d for d in decisions if d["choice"] == "NONE"]
        self._table(
            f"{len(chosen)} of {len(decisions)} people get the card; the others keep their page as it is",
            ["person", "choice", "relevance", "reasons", "label"],
            [
                [
                    d["user"],
                    d["choice"],
                    f"{d.get('relevance', 0):.2f}",
                    ", ".join(d["reasons"][:3]),
                    d.get("label", ""),
                ]
                for d in [*chosen[:3], *others[:3]]
            ],
        )
        self.decisions = chosen
        self.results["decisions"] = Counter(d["choice"] for d in decisions)

    def sign_up(self) -> None:
        """Three people see the card; one of them signs up, twice by accident."""
        for decision in self.decisions[:3]:
            self.feed.post("/v1/exposures", {"token": decision["token"]})
        token = self.decisions[0]["token"]
        first = self.feed.post("/v1/registrations", {"token": token, "displayName": "Li Na"})
        again = self.feed.post("/v1/registrations", {"token": token, "displayName": "Li Na"})
        seen = list(self.owner.list(f"/v1/{self.campaign}/registrations", "registrations"))
        self._say(
            f"{len(self.decisions[:3])} exposures recorded. Li Na signed up; her second click made no second "
            f"registration: {len(seen)} in the list."
        )
        self.results["registrations"] = len(seen)
        self.results["registration_repeated"] = first["name"] == again["name"]

    def analyse(self) -> None:
        """Ask for the numbers; send a file of engagement the same way."""
        engagement = [
            {
                "type": "post",
                "post": f"launch-{self.mark}",
                "user": "tianshan",
                "time": "2026-11-01T08:00:00+08:00",
            },
            *(
                {
                    "type": "repost",
                    "id": f"{self.mark}-{n}",
                    "post": f"launch-{self.mark}",
                    "parent": None,
                    "user": f"u{n:06d}",
                    "time": f"2026-11-01T08:{n % 5:02d}:30+08:00",
                }
                for n in range(50)
            ),
        ]
        sent = self.owner.upload(
            f"/v1/{self.enterprise}/engagements:ingest", [(json.dumps(e) + "\n").encode() for e in engagement]
        )
        self._say(
            f"A file of engagement: {integer(sent, 'acceptedCount')} accepted, {integer(sent, 'duplicateCount')} duplicates, "
            f"{integer(sent, 'rejectedCount')} rejected."
        )

        def totals() -> Json | None:
            row = self._query(["reach", "engagements", "registrations", "answers"])
            found = (
                dict(zip(("reach", "engagements", "registrations", "answers"), row[0]["values"], strict=True))
                if row
                else {}
            )
            return found if found.get("registrations", 0) >= 1 and found.get("answers", 0) >= 1 else None

        numbers = eventually(totals, what="the numbers of this telling")
        self._table("All in all", list(numbers), [[f"{value:,.0f}" for value in numbers.values()]])
        minutes = self._query(
            ["engagements"],
            dimensions=["minute"],
            filters=[{"dimension": "post", "values": [f"launch-{self.mark}"]}],
        )
        self._table(
            "Reposts of the launch by minute",
            ["minute", "reposts"],
            [[r["dimensions"][0], f"{r['values'][0]:.0f}"] for r in minutes],
        )
        self.results |= {"numbers": numbers, "minutes": [r["values"][0] for r in minutes]}

    def _placement(self, campaign: str) -> Json | None:
        try:
            return self.owner.post(
                f"/v1/{campaign}/placements",
                {
                    "touchpoint": "HOME_FEED",
                    "format": "EVENT_CARD",
                    "audience": self.audience,
                    "relevanceFloor": 0.2,
                    "dailyCap": 2,
                    "creative": {
                        "title": "SUV weekend in the dunes",
                        "description": "Two days, your family, the new T7.",
                        "callToAction": "Sign up",
                        "venue": "Kumtag Desert, gate 3",
                        "eventTime": stamp(timedelta(days=10)),
                    },
                },
            )
        except Problem as problem:
            if problem.reason != "AUDIENCE_NOT_READY":
                raise
            return None

    def _query(self, metrics: list[str], **more: Any) -> list[Json]:
        rows: list[Json] = self.owner.post(
            f"/v1/{self.enterprise}/analytics:query", {"metrics": metrics, **more}
        ).get("rows", [])
        return rows
