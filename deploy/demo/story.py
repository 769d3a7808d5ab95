"""
The story that must always work, step by step, over the gateway's public HTTP API only.

Played by `make demo`, by the end-to-end tests and by `make verify-story`. It can be played again on the same data: who exists is
used again, and whatever must be new is new.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from deploy.demo.client import Gateway, Json, Problem, eventually
from deploy.demo.people import Network, consent
from deploy.sandbox.people import Person

PASSWORD = "off-road-and-family-2026"  # noqa: S105 -- of people who do not exist
ROLLOUT = "enterprise-edition"
PLAN = Path(__file__).with_name("plan.yaml")
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


@dataclass
class Story:
    """
    One telling of the story. The steps come in order; each leaves what the next ones need.

    Attributes:
        results: what the tests look at.
    """

    places: Places
    console: Console = field(default_factory=Console)
    results: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.public = Gateway(self.places.gateway)
        self.network = Network(self.places.network)
        self.mark = datetime.now(UTC).strftime("%d %b %H:%M:%S")
        """Makes this telling's posts differ from those of the one before."""

    def play(self) -> Json:
        """Tell it all."""
        for number, (title, step) in enumerate(self.steps(), start=1):
            self.console.print()
            self.console.print(Rule(f"[bold]{number}. {title}", align="left", style="cyan"))
            step()
        return self.results

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """The steps, in order."""
        yield "Ops starts a staged rollout of the edition", self.start_rollout
        yield "A company registers, and finds the door of the edition closed", self.register
        yield "Ops verifies the company: it is admitted to the private beta", self.admit
        yield "Two more companies wait, each with its reason", self.wait
        yield "A member binds four accounts by OAuth2", self.bind
        yield "The company's page gets a module that keeps its place", self.lay_out
        yield "The network sends what its people tell of themselves", self.ingest_profiles
        yield "The company describes whom it looks for", self.describe_audience
        yield "A campaign goes live: an event card on matched people's home pages", self.start_campaign
        yield "The network asks what to show, person by person", self.decide
        yield "Somebody signs up", self.sign_up
        yield "One publication, four accounts: the same, two variants, one left out", self.publish
        yield "People repost, comment and ask; one question is answered", self.answer
        yield "What came of it", self.analyse
        yield "Ops widens the stage", self.widen
        yield "A guardrail trips: the rollout takes itself back", self.trip
        yield "Who did what, and the proof of it", self.audit

    # Admission

    def start_rollout(self) -> None:
        """Put the plan in force, and let the rollout run."""
        self.operator = self.public.client("operator", self.places.operator_secret)
        self.reviewer = self.public.client("reviewer", self.places.reviewer_secret)
        rollout = f"/v1/rollouts/{ROLLOUT}"
        text = PLAN.read_text()
        applied = self.operator.post("/v1/rollouts:apply", {"plan": text})
        verb = {"DRAFT": "start", "PAUSED": "resume", "ROLLED_BACK": "restart"}.get(
            applied["rollout"]["state"]
        )
        if verb:
            self.operator.post(f"{rollout}:{verb}")
        self.console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)
        self.console.print()
        self._show_rollout()

    def register(self) -> None:
        """Register the three companies of the story and look at the closed door."""
        self.tianshan = self._register("Tianshan Motors", "automotive", "Xinjiang", "owner@tianshan.example")
        self.kunlun = self._register("Kunlun Tours", "travel", "Yunnan", "owner@kunlun.example")
        self.haihe = self._register("Haihe Snacks", "food", "Tianjin", "owner@haihe.example")
        owner = self.public.login("owner@tianshan.example", PASSWORD)
        self.enterprise: str = self.tianshan
        if owner.get(f"/v1/{self.enterprise}")["verification"] == "VERIFIED":
            self._say(f"Tianshan Motors is {self.enterprise}, verified in an earlier telling.")
        else:
            self._ask_for_verification(owner, self.enterprise)
            problem = eventually(
                partial(self._refused, owner, "NOT_VERIFIED"), what="the refusal with its reason"
            )
            self._say(
                f"Tianshan Motors is {self.enterprise}. Its first try to list its accounts was refused:"
            )
            self._show_problem(problem)
        self.owner = owner

    def admit(self) -> None:
        """Verify, and wait until the gateways know."""
        self._verify(self.owner, self.tianshan)
        edition = eventually(lambda: self._admitted(self.owner), what="the admission of Tianshan Motors")
        eventually(lambda: self._let_in(self.owner), what="the gateway's knowledge of the admission")
        self._show_rollout()
        self._say(f"GET /v1/edition now says: admitted, stage [bold]{edition['stage']}[/bold].")
        self.results["stage"] = edition["stage"]

    def wait(self) -> None:
        """The unverified company, and the verified one for which the stage has no place."""
        self.kunlun_owner = self.public.login("owner@kunlun.example", PASSWORD)
        self._verify(self.kunlun_owner, self.kunlun)
        haihe_owner = self.public.login("owner@haihe.example", PASSWORD)
        rows = []
        for name, who, reason in (
            ("Haihe Snacks", haihe_owner, "NOT_VERIFIED"),
            ("Kunlun Tours", self.kunlun_owner, "QUOTA_FULL"),
        ):
            edition = eventually(partial(self._waits, who, reason), what=f"{name} on the waitlist")
            rows.append(
                [name, edition["state"], edition["reason"], edition.get("position", "–"), edition["nextStep"]]
            )
        problem = eventually(
            lambda: self._refused(haihe_owner, "NOT_VERIFIED"), what="the refusal of Haihe Snacks"
        )
        self._table(
            "The waitlist, as each company sees it",
            ["company", "state", "reason", "place", "next step"],
            rows,
        )
        self._say("What a gated call of Haihe Snacks gets:")
        self._show_problem(problem)
        self.results["waitlist_problem"] = problem.body

    # Accounts and page

    def bind(self) -> None:
        """Bind four accounts; the consent is given on the network's own page."""
        self.accounts: dict[str, str] = {}
        rows = []
        for label, username in (
            ("brand", "tianshan"),
            ("dealer", "tianshan-dealer"),
            ("jobs", "tianshan-jobs"),
            ("care", "tianshan-care"),
        ):
            started = self.owner.post(
                f"/v1/{self.enterprise}/accounts:startBinding",
                {"network": "mastodon", "server": self.places.network, "labels": [label]},
            )
            handed = consent(started["authorizationUrl"], username, self.places.network_password)
            account = self.owner.post(
                f"/v1/{self.enterprise}/accounts:completeBinding",
                {"state": handed["state"], "code": handed["code"]},
                once=True,
            )
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

    def lay_out(self) -> None:
        """Put the SUV weekend on the page and look at the page as anybody does."""
        title = f"SUV weekend · {self.mark}"
        module = self.owner.post(
            f"/v1/{self.enterprise}/modules",
            {
                "title": title,
                "body": "Two days in the dunes, child seats included. Drive the new Tianshan T7 with your own family.",
                "startTime": _stamp(timedelta(minutes=-1)),
                "endTime": _stamp(timedelta(days=14)),
            },
        )
        path = "/pages/" + self.enterprise.split("/")[1]
        eventually(lambda: title in self.public.page(path) or None, what="the module on the public page")
        self.results |= {"page": self.places.gateway + path, "module": module["name"]}
        self._say(
            f"Module [bold]{title}[/bold] holds its place until {module['endTime'][:10]}. "
            f"The public page shows it: {self.results['page']}"
        )

    # People

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
                [name, *(_int(each, key) for key in ("acceptedCount", "unchangedCount", "rejectedCount"))]
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
            "accepted": _int(answer, "acceptedCount"),
            "rejected": [p["line"] for p in bad["problems"]],
        }

    def describe_audience(self) -> None:
        """Estimate, build, and look at why sample people are in it."""
        estimate = self.owner.post(f"/v1/{self.enterprise}/audiences:estimate", {"definition": AUDIENCE})
        self._say(
            f"About [bold]{_int(estimate, 'size'):,}[/bold] of {_int(estimate, 'population'):,} people fit the description."
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
            f"Built: {_int(built, 'size'):,} people. Four of them, and why",
            ["relevance", "evidence"],
            [[f"{m['relevance']:.2f}", ", ".join(m["evidence"])] for m in sample["members"]],
        )
        self.audience: str = created["name"]
        self.results["audience_size"] = _int(built, "size")
        self.results["estimate"] = _int(estimate, "size")

    def start_campaign(self) -> None:
        """Create campaign and placement, and go live."""
        campaign = self.owner.post(
            f"/v1/{self.enterprise}/campaigns",
            {
                "displayName": f"SUV weekend {self.mark}",
                "startTime": _stamp(timedelta(minutes=-1)),
                "endTime": _stamp(timedelta(days=7)),
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

    # Publishing

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
        return sum(delivery["text"] in _plain(post["content"]) for post in self.network.posts_of(handle))

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
        replies = [reply in _plain(each["content"]) for each in self.network.replies_to(post)]
        self._say(
            f"The question is {answered['state']}; the answer stands {sum(replies)} time on the network, under the post."
        )
        self.results |= {
            "interactions": Counter(i["kind"] for i in interactions),
            "answers_seen": sum(replies),
        }

    # Numbers

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
            f"A file of engagement: {_int(sent, 'acceptedCount')} accepted, {_int(sent, 'duplicateCount')} duplicates, "
            f"{_int(sent, 'rejectedCount')} rejected."
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

    # Widening and rolling back

    def widen(self) -> None:
        """The stage holds; somebody else approves, ops passes over the rest in writing, and Kunlun Tours gets in."""
        rollout = f"/v1/rollouts/{ROLLOUT}"
        simulated = self.operator.post(
            "/v1/rollouts:simulate", {"name": f"rollouts/{ROLLOUT}", "verb": "advance"}
        )
        self._say(
            f"What would it come to? {simulated['enteringCount']} would enter and {simulated['leavingCount']} leave; "
            f"{simulated['admittedCount']} would be in, of at most {simulated['quota']}. But the stage holds:"
        )
        held = self._held(partial(self.operator.post, f"{rollout}:advance"))
        self._show_problem(held)
        self.reviewer.post(f"{rollout}:approve", {"gate": self.results["stage"]})
        self.operator.post(f"{rollout}:advance", {"skipHold": True, "reason": "drill of the story"})
        self._say(
            "Somebody else than the plan's author approves, and ops passes over the waiting time, with a reason."
        )
        eventually(lambda: self._let_in(self.kunlun_owner), what="the admission of Kunlun Tours")
        status = eventually(self._converged, what="the same at all gateways")
        served = status["convergence"]
        self._show_rollout()
        self._say(
            f"{served['convergedCount']} of {len(served['replicas'])} gateways serve it, the slowest after "
            f"{_int(served, 'slowestMs')} ms. What comes next: it {status['nextStep']}."
        )
        self.results["held"] = held.reason

    def trip(self) -> None:
        """The network refuses what the company posts; the guardrail sees it and takes the stage back."""
        refused: list[Json] = []

        def state() -> Json | None:
            now = self.operator.get(f"/v1/rollouts/{ROLLOUT}")
            return now if now["state"] == "ROLLED_BACK" else None

        def post_until_rolled_back() -> Json | None:
            self.network.refuse_posts(len(self.accounts))
            refused.extend(self._post_everywhere(f"The T7 is here, part {len(refused) + 1}. ({self.mark})"))
            with suppress(TimeoutError):
                return eventually(state, what="the guardrail's rollback", seconds=3)
            return None

        # What is posted in the window of time in which the stage was entered does not count: so the company goes on posting.
        back = eventually(post_until_rolled_back, what="the guardrail's rollback", seconds=120)
        problem = eventually(
            lambda: self._refused(self.kunlun_owner, "STAGE_ROLLED_BACK"), what="the rollback at the gateway"
        )
        eventually(lambda: self._let_in(self.owner), what="Tianshan Motors still in")
        self._say(
            f"The network has a bad day: of {len(refused)} posts it refused "
            f"{sum(delivery['state'] == 'FAILED' for delivery in refused)}. Nobody touches the rollout, and yet:"
        )
        self._show_rollout()
        self._say(f"It says why: [bold]{back['reason']}[/bold].")
        self._say(
            "Tianshan Motors, in before, is in still. Kunlun Tours, which came with the stage, keeps its place and is told:"
        )
        self._show_problem(problem)
        self.results |= {"rolled_back": problem.body["admission"]["reason"], "rolled_back_by": back["cause"]}

    def _converged(self) -> Json | None:
        status = self.operator.get(f"/v1/rollouts/{ROLLOUT}/status")
        served = status["convergence"]
        return status if served.get("convergedCount") == len(served["replicas"]) else None

    def _post_everywhere(self, text: str) -> list[Json]:
        """A publication on all accounts; its deliveries, once each has ended."""
        publication = self.owner.post(
            f"/v1/{self.enterprise}/publications", {"text": text, "accounts": list(self.accounts.values())}
        )
        self.owner.post(f"/v1/{publication['name']}:schedule")
        return self.await_deliveries(publication["name"])

    @staticmethod
    def _held(call: Callable[[], Json]) -> Problem:
        """How a call is refused, which it must be."""
        try:
            call()
        except Problem as problem:
            return problem
        raise RuntimeError("nothing held the stage")

    def audit(self) -> None:
        """What was done, and the proof that nobody rewrote it."""
        events = self.operator.get("/v1/audit/events", rollout=f"rollouts/{ROLLOUT}", pageSize=8)["events"]
        self._table(
            "The newest of the audit trail",
            ["", "who", "did what", "why", "hash"],
            [
                [
                    e["sequence"],
                    e["actor"],
                    e["cause"],
                    json.loads(e["detail"]).get("reason", ""),
                    e["hash"][:12],
                ]
                for e in events
            ],
        )
        verified = self.operator.get("/v1/audit:verify")
        self._say(
            f"Each hash covers the one before. All {verified['checkedCount']} were computed anew and held against what was noted "
            f"outside the database: {'nothing was rewritten' if verified['ok'] else verified['mistakes']}."
        )
        self.results["audit_ok"] = verified["ok"]

    # Helpers

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

    def _ask_for_verification(self, owner: Gateway, enterprise: str) -> None:
        if owner.get(f"/v1/{enterprise}")["verification"] != "PENDING":
            owner.post(f"/v1/{enterprise}:requestVerification", {"note": "Business licence 650100-2026"})

    def _verify(self, owner: Gateway, enterprise: str) -> None:
        if self.operator.get(f"/v1/{enterprise}")["verification"] != "VERIFIED":
            self._ask_for_verification(owner, enterprise)
            self.operator.post(f"/v1/{enterprise}:verify", {"note": "papers seen"})

    def _admitted(self, who: Gateway) -> Json | None:
        edition = who.get("/v1/edition")
        return edition if edition.get("admitted") else None

    def _waits(self, who: Gateway, reason: str) -> Json | None:
        edition = who.get("/v1/edition")
        return edition if edition.get("reason") == reason else None

    def _let_in(self, who: Gateway) -> bool | None:
        return None if self._refused(who) else True

    def _refused(self, who: Gateway, reason: str = "") -> Problem | None:
        try:
            who.get(f"/v1/{self.enterprise}/accounts", pageSize=1)
        except Problem as problem:
            if problem.status == 403 and reason in (
                problem.body.get("metadata", {}).get("reason", problem.reason),
                "",
            ):
                return problem
            if problem.status not in (403, 404):
                raise
        return None

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
                        "eventTime": _stamp(timedelta(days=10)),
                    },
                },
            )
        except Problem as problem:
            if problem.reason != "AUDIENCE_NOT_READY":
                raise
            return None

    def _accounts(self) -> list[Json]:
        return list(self.owner.list(f"/v1/{self.enterprise}/accounts", "accounts"))

    def _query(self, metrics: list[str], **more: Any) -> list[Json]:
        rows: list[Json] = self.owner.post(
            f"/v1/{self.enterprise}/analytics:query", {"metrics": metrics, **more}
        ).get("rows", [])
        return rows

    def _show_rollout(self) -> None:
        rollout = self.operator.get(f"/v1/rollouts/{ROLLOUT}")
        row = [
            rollout["stage"],
            rollout["state"],
            rollout.get("admittedCount", 0),
            rollout.get("waitingCount", 0),
        ]
        self._table("Where the rollout stands", ["stage", "state", "admitted", "waiting"], [row])

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


def _int(answer: Json, key: str) -> int:
    """A 64-bit number: proto-JSON writes it as a string, and leaves zero out."""
    return int(answer.get(key, 0))


def _stamp(offset: timedelta) -> str:
    return (datetime.now(UTC) + offset).isoformat().replace("+00:00", "Z")


def _plain(html: str) -> str:
    """The text of a post: the network gives HTML."""
    import html as entities
    import re

    return entities.unescape(re.sub(r"<[^>]+>", "", html))
