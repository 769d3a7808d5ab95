"""Who may do what with which accounts: a colleague with one province, and an agency with another for a while."""

import re
import time
from collections.abc import Callable
from datetime import timedelta

import pyotp

from deploy.demo.client import Gateway, Json, Problem
from deploy.demo.telling import PASSWORD, Telling, stamp

COLLEAGUE = "gulnar@tianshan.example"
AGENT = "owner@silkroad.example"
TOTP_SECONDS = 30


class Team(Telling):
    """Members, roles in groups, and reasons."""

    def share_out(self) -> None:
        """Give a colleague and an agency a role in a province each, ask what that means, and try it."""
        next_code = self._invite_colleague()
        agency = self._register("Silk Road Agency", "advertising", "Gansu", AGENT)
        colleague = self._member(self.owner, self.enterprise, COLLEAGUE)
        agent = self._member(self.public.login(AGENT, PASSWORD), agency, AGENT)
        self._grant(colleague, "Xinjiang")
        self._grant(agent, "Gansu", expireTime=stamp(timedelta(days=30)))
        self.colleague = self.public.login(COLLEAGUE, PASSWORD, totp=next_code)
        at_agency = self.public.login(AGENT, PASSWORD, enterprise=self.enterprise)
        rows = []
        rights: Json = {}
        for who, caller, subject in (
            ("Gulnar", self.colleague, colleague),
            ("the agency", at_agency, agent),
        ):
            for username in ("urumqi-service", "gansu-news"):
                account = self.outlets[username]
                told = self.owner.get(
                    f"/v1/{account}:explainAccess", subject=subject, right="publications.write"
                )
                tried = self._outcome(caller, account)
                rows.append([who, re.sub(r" \(enterprises/[^)]+\)", "", told["explanation"]), tried])
                rights[f"{who} on @{username}"] = [told.get("allowed", False), tried]
        self._table(
            "Who may publish where: what the platform says, and what came of trying",
            ["who", "why", "tried"],
            rows,
        )
        self.results["rights"] = rights

    def _invite_colleague(self) -> str:
        """Have Gulnar come in as a newcomer who may read, and has a second factor; its next code."""
        for member in self._members(self.owner, self.enterprise):
            if member["email"] == COLLEAGUE:
                self.owner.delete(f"/v1/{member['name']}")
        invited = self.owner.post(
            f"/v1/{self.enterprise}/memberInvitations", {"email": COLLEAGUE, "role": "ANALYST"}
        )
        login = {"email": COLLEAGUE, "password": PASSWORD}
        accepted = {"token": invited["token"], "displayName": "Gulnar", "password": PASSWORD}
        self.public.post("/v1/memberInvitations:accept", accepted, once=True)
        enrolled = self.public.post("/v1/members:enrollTotp", login, once=True)
        app = pyotp.TOTP(pyotp.parse_uri(enrolled["otpauthUri"]).secret)
        now = time.time()
        codes = self.public.post("/v1/members:confirmTotp", {**login, "totp": app.at(now)}, once=True)
        refused = refusal(lambda: self.public.login(COLLEAGUE, PASSWORD))
        self._say(
            f"Gulnar was invited as {invited['role']}, who reads. She has an authenticator app and "
            f"{len(codes['recoveryCodes'])} recovery codes; without a code her password gets [bold]{refused}[/bold]."
        )
        self.results["password_alone"] = refused
        return app.at(now + TOTP_SECONDS)  # each code works once: this is the next one

    def _grant(self, member: str, group: str, **until: str) -> None:
        """Make somebody EDITOR in a group and below, from now on."""
        for grant in self.owner.list(f"/v1/{self.enterprise}/grants", "grants", member=member):
            self.owner.delete(f"/v1/{grant['name']}")
        self.owner.post(
            f"/v1/{self.enterprise}/grants",
            {"member": member, "role": "EDITOR", "group": self.groups[group], **until},
        )

    def _member(self, who: Gateway, enterprise: str, email: str) -> str:
        return next(str(each["name"]) for each in self._members(who, enterprise) if each["email"] == email)

    @staticmethod
    def _members(who: Gateway, enterprise: str) -> list[Json]:
        return list(who.list(f"/v1/{enterprise}/members", "members", pageSize=500))


def refusal(call: Callable[[], object]) -> str:
    """Why a call is refused, which it must be."""
    try:
        call()
    except Problem as problem:
        return problem.reason
    raise RuntimeError("it was not refused")
