"""A partner's app: what it may do, what it is told, and its end."""

import time
from collections import Counter

from deploy.demo.client import Problem, eventually
from deploy.demo.receiver import Receiver
from deploy.demo.telling import Telling

APP = "Oasis CRM"
TOLD = ["publishing.delivery.published", "accounts.account.reauth_required"]
DEEDS = {
    "account.bound", "account.reauth_required", "account.unbound", "binding.refused", "client.created", "client.deleted",
    "grant.created", "invitation.refused", "member_invitation.accepted", "webhook_endpoint.secret_rotated",
}  # fmt: skip
"""What is worth a line when the trail is told."""
IN_A_ROW = 8
"""So many refusals in a row count as refused everywhere: there may be several gateways, each asked in its turn."""


class Apps(Telling):
    """A client with a scope in one group, its webhook endpoint, and the audit trail that it leaves."""

    def connect_app(self) -> None:
        """Register the app, let it publish and listen, and change the secret that signs."""
        self._forget_app()
        self.client = self.owner.post(
            f"/v1/{self.enterprise}/clients",
            {
                "displayName": APP,
                "scopes": ["webhooks.read", "webhooks.write"],
                "grants": [{"scope": "publications.write", "groups": [self.groups["Xinjiang"]]}],
            },
        )
        self.app = self.public.client(self.client["name"].rsplit("/")[-1], self.client["secret"])
        self.receiver = Receiver(self.places.listen)
        endpoint = self.app.post(
            f"/v1/{self.enterprise}/webhookEndpoints",
            {"url": self.receiver.url, "eventTypes": TOLD, "description": APP},
        )
        self.receiver.secrets.append(endpoint["secret"])
        inside, outside = self.outlets["urumqi-airport"], self.outlets["gansu-news"]
        tried = {
            "@urumqi-airport": self._outcome(self.app, inside),
            "@gansu-news": self._outcome(self.app, outside),
        }
        self._say(
            f"{APP} may publish in Xinjiang only: on @urumqi-airport that is {tried['@urumqi-airport']}, "
            f"on @gansu-news [bold]{tried['@gansu-news']}[/bold]. Its system listens at {self.receiver.url}, and was told:"
        )
        published = eventually(
            lambda: self.receiver.first(TOLD[0], account=inside), what="the webhook about the app's own post"
        )
        self.receiver.secrets.append(self.app.post(f"/v1/{endpoint['name']}:rotateSecret")["secret"])
        self.app.post(f"/v1/{endpoint['name']}:test")
        ping = eventually(
            lambda: self.receiver.first("test.ping"), what="the webhook after the change of secrets"
        )
        old, new = self.receiver.secrets
        self._table(
            "Webhooks",
            ["event", "signatures", "by the first secret", "by the second"],
            [
                [
                    each.event["type"],
                    len(each.signatures),
                    *("yes" if each.signed_by(secret) else "no" for secret in self.receiver.secrets),
                ]
                for each in (published, ping)
            ],
        )
        self._say(
            "While the secret changes there are two signatures, so that the partner can change over in peace."
        )
        self.results["app"] = tried
        self.results["webhooks"] = [
            [each.event["type"], each.signed_by(old), each.signed_by(new)] for each in (published, ping)
        ]

    def part(self) -> None:
        """End the app, and see how soon it is refused; let go of an account; read the trail of it all."""
        self.owner.delete(f"/v1/{self.client['name']}")
        began = time.monotonic()
        reason = eventually(self._refused_everywhere, what="the refusal of the app's access token")
        seconds = time.monotonic() - began
        self._say(
            f"The company ends {APP}. The access token that the app holds had some minutes to live; "
            f"after [bold]{seconds:.1f} s[/bold] every gateway says {reason}."
        )
        self._forget_app()
        self.receiver.close()
        self.owner.delete(f"/v1/{self.outlets['lanzhou-east']}")
        self._say("It also lets go of @lanzhou-east, whose token is taken back at the network.")
        self.results["parted"] = {"reason": reason, "seconds": seconds}
        self._show_trail()

    def _refused_everywhere(self) -> str | None:
        """Why the app's token is refused, once it is however often one asks."""
        reason = ""
        for _ in range(IN_A_ROW):
            try:
                self.app.get(f"/v1/{self.enterprise}/webhookEndpoints")
            except Problem as problem:
                reason = problem.reason
            else:
                return None
        return reason

    def _forget_app(self) -> None:
        """Delete what an earlier telling has left of it."""
        for endpoint in self.owner.list(f"/v1/{self.enterprise}/webhookEndpoints", "webhookEndpoints"):
            if endpoint["description"] == APP:
                self.owner.delete(f"/v1/{endpoint['name']}")
        for client in self.owner.list(f"/v1/{self.enterprise}/clients", "clients"):
            if client["displayName"] == APP:
                self.owner.delete(f"/v1/{client['name']}")

    def _show_trail(self) -> None:
        """Who did what in this telling, and which tokens of the network were opened or handed over, and for what."""
        members = self.owner.list(f"/v1/{self.enterprise}/members", "members", pageSize=500)
        self._people = {each["name"]: str(each.get("displayName") or each["email"]) for each in members}
        path, field = f"/v1/{self.enterprise}/auditLogEntries", "auditLogEntries"
        trail = list(self.owner.list(path, field, startTime=self.began, pageSize=500))
        newest = {each["action"]: each for each in reversed(trail) if each["action"] in DEEDS}
        self._table(
            "Who did what: the newest of each kind",
            ["when", "who", "did what", "how often"],
            [
                [newest[deed]["time"][11:19], self._name(newest[deed]["actor"]), deed, count]
                for deed, count in Counter(each["action"] for each in trail).items()
                if deed in newest
            ],
        )
        tokens = Counter(
            (
                self._name(each["actor"]),
                each["action"],
                each["detail"].get("purpose") or each["detail"]["receiver"],
            )
            for each in trail
            if each["action"] in ("token.read", "token.handed_over")
        )
        self._table(
            "Whose doing opened or handed over tokens of the network, and for what",
            ["who", "did what", "for", "how often"],
            [[*told, count] for told, count in tokens.items()],
        )
        self.results["trail"] = sorted({each["action"] for each in trail})
        self.results["tokens"] = [list(told) for told in tokens]

    def _name(self, actor: str) -> str:
        """What people call whoever did something."""
        if "/bindingBatches/" in actor:
            return "holder by link"
        if "/clients/" in actor:
            return APP
        return str(self._people.get(actor, actor))
