"""Who gets the edition, and when: registration, the staged rollout, its guardrail and its audit trail."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from deploy.demo.client import Gateway, Json, Problem, eventually
from deploy.demo.telling import PASSWORD, ROLLOUT, Telling, integer

PLAN = Path(__file__).parents[1] / "plan.yaml"


class Admission(Telling):
    """Three companies before the door, and ops behind it."""

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
        self.network.settle("kunlun-tours", self.places.network_password)
        self._bind(self.kunlun_owner, self.kunlun, "kunlun-tours", "brand")
        status = eventually(self._converged, what="the same at all gateways")
        served = status["convergence"]
        self._show_rollout()
        self._say(
            f"{served['convergedCount']} of {len(served['replicas'])} gateways serve it, the slowest after "
            f"{integer(served, 'slowestMs')} ms. Kunlun Tours has bound @kunlun-tours. What comes next: it {status['nextStep']}."
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
        return self.await_deliveries(self._publish(self.owner, text, list(self.accounts.values())))

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

    def _show_rollout(self) -> None:
        rollout = self.operator.get(f"/v1/rollouts/{ROLLOUT}")
        row = [
            rollout["stage"],
            rollout["state"],
            rollout.get("admittedCount", 0),
            rollout.get("waitingCount", 0),
        ]
        self._table("Where the rollout stands", ["stage", "state", "admitted", "waiting"], [row])
