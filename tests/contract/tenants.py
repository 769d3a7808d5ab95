"""Enterprises with everything that one can have, made through the public API as a partner app would."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Thread
from uuid import uuid4

import httpx

from deploy.demo.client import Gateway, Json, Problem, eventually
from deploy.demo.people import consent
from deploy.demo.story import AUDIENCE, PASSWORD, ROLLOUT
from deploy.sandbox.people import Person
from tests.world import World

CLIENT_SCOPES = (
    "accounts.read", "accounts.write", "analytics.read", "audiences.read", "audiences.write", "campaigns.read",
    "campaigns.write", "engagements.write", "interactions.read", "interactions.write", "pages.read", "pages.write",
    "publications.read", "publications.write", "registrations.read", "webhooks.read", "webhooks.write",
)  # fmt: skip
"""All scopes that an enterprise can give to its apps."""

NETWORK_SCOPES = ("decisions.read", "exposures.write", "profiles.write")
"""The scopes that only the network's own systems have."""


@dataclass
class Tenant:
    """
    An enterprise.

    Attributes:
        mark: stands in every text that it has, and nowhere else.
        enterprise: its name.
        owner: a member who may do everything.
        invitation: the token of one that it has not accepted.
        state: of a binding that the owner has begun.
        names: of all that it has, by shape, as `enterprises/*/accounts/*`; the most usable first.
    """

    mark: str
    enterprise: str
    owner: Gateway
    invitation: str
    state: str = ""
    names: dict[str, list[str]] = field(default_factory=dict)

    def has(self, name: str) -> str:
        """Note a resource; returns its name."""
        self.names.setdefault(shape_of(name), []).append(name)
        return name

    @property
    def words(self) -> set[str]:
        """What nobody else may see: its texts, and the ids of all that it has."""
        ids = {part for names in self.names.values() for name in names for part in name.split("/")[1::2]}
        return {self.mark, self.invitation, self.state, *ids}


def shape_of(name: str) -> str:
    """The name with a star for each id."""
    parts = name.split("/")
    return "/".join("*" if index % 2 else part for index, part in enumerate(parts))


@contextmanager
def everybody_admitted(world: World) -> Iterator[None]:
    """The widest stage for the time of the block; afterwards the rollout is in the stage it was in."""
    world.story.start_rollout()  # guardrails may have stopped it
    operator, rollout = world.story.operator, f"/v1/rollouts/{ROLLOUT}"
    before = operator.get(rollout)
    widest = before["stages"][-1]["id"]
    widens = before["stage"] != widest
    if widens:
        world.story.reviewer.post(f"{rollout}:approve", {"gate": before["stage"]})
        operator.post(f"{rollout}:jump", {"stage": widest, "reason": "a test of many enterprises"})
    try:
        yield
    finally:
        if widens:
            operator.post(f"{rollout}:rollback", {"reason": "the test is over"})
            operator.post(f"{rollout}:restart")


def make_tenant(world: World, touchpoint: str) -> Tenant:
    """An enterprise with a resource of every kind; its campaign is the only one at `touchpoint`."""
    tenant = _register(world)
    _let_people_in(world, tenant)
    _organise(tenant)
    accounts = [_bind(world, tenant, number) for number in range(2)]
    _invite_holders(world, tenant)
    _tell_partners(tenant)
    _connect_provider(tenant)
    _lay_out(tenant)
    _promote(world, tenant, touchpoint)
    _publish(world, tenant, accounts[0])
    tenant.owner.upload(
        f"/v1/{tenant.enterprise}/engagements:ingest",
        [
            json.dumps(
                {"type": "post", "post": tenant.mark, "user": "u1", "time": "2026-11-01T08:00:00Z"}
            ).encode()
        ],
    )
    return tenant


def _register(world: World) -> Tenant:
    mark = f"mark{uuid4().hex}"
    public, email = world.story.public, f"{mark}@example.org"
    created = public.post(
        "/v1/enterprises", {"displayName": f"Company {mark}", "ownerEmail": email, "ownerPassword": PASSWORD}
    )
    owner = public.login(email, PASSWORD)
    invited = world.story.operator.post(
        f"/v1/rollouts/{ROLLOUT}/invitations", {"enterprise": created["name"], "note": mark}
    )
    tenant = Tenant(mark, created["name"], owner, invited["token"])
    tenant.has(created["name"])
    document = owner.upload(
        f"/v1/{tenant.enterprise}/verificationDocuments:upload?kind=OTHER&title={mark}",
        [f"%PDF-1.7 {mark}".encode()],
    )
    tenant.has(document["name"])
    owner.post(f"/v1/{tenant.enterprise}:requestVerification", {"note": mark})
    operator = world.story.operator
    operator.post(f"/v1/{tenant.enterprise}:verify", {"note": mark})
    tenant.has(operator.post(f"/v1/{tenant.enterprise}/reviewNotes", {"text": f"Papers of {mark}"})["name"])
    eventually(lambda: _admitted(tenant), what=f"the admission of {tenant.enterprise}")
    return tenant


def _admitted(tenant: Tenant) -> bool | None:
    try:
        tenant.owner.get(f"/v1/{tenant.enterprise}/accounts")
    except Problem as problem:
        if problem.reason != "NOT_ADMITTED":
            raise
        return None
    return True


def _let_people_in(world: World, tenant: Tenant) -> None:
    """A member, logged in; somebody who is invited; a partner app."""
    email = f"editor-{tenant.mark}@example.org"
    member = tenant.owner.post(
        f"/v1/{tenant.enterprise}/members",
        {
            "email": email,
            "displayName": f"Editor {tenant.mark}",
            "role": "EDITOR",
            "password": PASSWORD,
        },
    )
    client = tenant.owner.post(
        f"/v1/{tenant.enterprise}/clients", {"displayName": f"CRM {tenant.mark}", "scopes": CLIENT_SCOPES}
    )
    invited = tenant.owner.post(
        f"/v1/{tenant.enterprise}/memberInvitations",
        {"email": f"analyst-{tenant.mark}@example.org", "role": "ANALYST"},
    )
    world.story.public.login(email, PASSWORD)
    (session,) = tenant.owner.list(f"/v1/{member['name']}/sessions", "sessions")
    for each in (member, client, invited, session):
        tenant.has(each["name"])


def _organise(tenant: Tenant) -> None:
    """A group of accounts, and a role in it."""
    group = tenant.owner.post(
        f"/v1/{tenant.enterprise}/accountGroups", {"displayName": f"North {tenant.mark}"}
    )
    (member,) = tenant.names["enterprises/*/members/*"]
    grant = tenant.owner.post(
        f"/v1/{tenant.enterprise}/grants",
        {"member": member, "role": "RESPONDER", "group": tenant.has(group["name"])},
    )
    tenant.has(grant["name"])


def _bind(world: World, tenant: Tenant, number: int) -> Json:
    sandbox = world.platform.url("sandbox")
    username = f"{tenant.mark[:20]}_{number}"
    user = {"username": username, "password": PASSWORD, "display_name": f"Account {tenant.mark}"}
    httpx.post(f"{sandbox}/control/users", json=user).raise_for_status()
    started = tenant.owner.post(
        f"/v1/{tenant.enterprise}/accounts:startBinding",
        {"network": "mastodon", "server": sandbox, "labels": [tenant.mark]},
    )
    handed = consent(started["authorizationUrl"], username, PASSWORD)
    account = tenant.owner.post(
        f"/v1/{tenant.enterprise}/accounts:completeBinding",
        {"state": handed["state"], "code": handed["code"]},
        once=True,
    )
    tenant.has(account["name"])
    return account


def _invite_holders(world: World, tenant: Tenant) -> None:
    """A batch of one invitation, and a binding that is begun."""
    sandbox = world.platform.url("sandbox")
    made = tenant.owner.post(
        f"/v1/{tenant.enterprise}/bindingBatches",
        {
            "displayName": f"Batch {tenant.mark}",
            "rows": [{"network": "mastodon", "server": sandbox, "note": tenant.mark}],
        },
    )
    tenant.has(made["batch"]["name"])
    tenant.has(made["rows"][0]["name"])
    tenant.state = tenant.owner.post(
        f"/v1/{tenant.enterprise}/accounts:startBinding", {"network": "mastodon", "server": sandbox}
    )["state"]


def _tell_partners(tenant: Tenant) -> None:
    """A webhook endpoint for what does not happen, and a ping that was delivered."""
    with _partner() as url:
        endpoint = tenant.owner.post(
            f"/v1/{tenant.enterprise}/webhookEndpoints",
            {
                "url": url,
                "eventTypes": ["placement.campaign.ended"],
                "description": f"Partner of {tenant.mark}",
            },
        )
        ping = tenant.owner.post(f"/v1/{endpoint['name']}:test")

        def delivered() -> bool | None:
            return tenant.owner.get(f"/v1/{ping['name']}")["state"] == "DELIVERED" or None

        eventually(delivered, what=f"the delivery of {ping['name']}")
    tenant.has(endpoint["name"])
    tenant.has(ping["name"])


@contextmanager
def _partner() -> Iterator[str]:
    """The URL of a partner's system, which takes whatever it is posted."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response_only(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hooks"
        finally:
            server.shutdown()
            thread.join()


def _connect_provider(tenant: Tenant) -> None:
    """An identity provider, which has said of itself what it must, and is gone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.end_headers()
            self.wfile.write(json.dumps(metadata).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = f"http://127.0.0.1:{server.server_port}"
        endpoints = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        metadata = {"issuer": issuer, **{each: f"{issuer}/{each}" for each in endpoints}}
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            answer = httpx.patch(
                f"{tenant.owner.url}/v1/{tenant.enterprise}/identityProvider",
                json={"issuer": issuer, "clientId": tenant.mark, "clientSecret": tenant.mark},
                headers={"authorization": f"Bearer {tenant.owner.token}"},
                timeout=30,
            )
        finally:
            server.shutdown()
            thread.join()
    tenant.has(answer.raise_for_status().json()["name"])


def _lay_out(tenant: Tenant) -> None:
    module = tenant.owner.post(
        f"/v1/{tenant.enterprise}/modules",
        {"title": f"Module {tenant.mark}", "startTime": _stamp(minutes=-1), "endTime": _stamp(days=7)},
    )
    tenant.has(module["name"])


def _promote(world: World, tenant: Tenant, touchpoint: str) -> None:
    """Audiences, campaigns, a placement, and somebody who signs up."""
    owner, enterprise = tenant.owner, tenant.enterprise
    audiences = [
        owner.post(
            f"/v1/{enterprise}/audiences", {"displayName": f"{kind} {tenant.mark}", "definition": AUDIENCE}
        )
        for kind in ("Built", "Draft")
    ]
    ready, _ = (tenant.has(audience["name"]) for audience in audiences)
    owner.post(f"/v1/{ready}:build")
    flight = {"startTime": _stamp(minutes=-1), "endTime": _stamp(days=7)}
    campaigns = [
        owner.post(f"/v1/{enterprise}/campaigns", {"displayName": f"{kind} {tenant.mark}", **flight})
        for kind in ("Draft", "Live")
    ]
    _, live = (tenant.has(campaign["name"]) for campaign in campaigns)
    offer = {
        "touchpoint": touchpoint,
        "format": "EVENT_CARD",
        "audience": ready,
        "creative": {"title": f"Card {tenant.mark[:20]}"},
    }
    placement = eventually(lambda: _placement(owner, live, offer), what="the audience's arrival at placement")
    tenant.has(placement["name"])
    owner.post(f"/v1/{live}:start")
    network = world.story.public.client("network", world.story.places.network_secret)
    with world.story.places.profiles.open(encoding="utf-8") as file:
        people = [json.loads(line)["user"] for line in islice(file, 500)]
    asked = {"requests": [{"user": f"users/{person}", "touchpoint": touchpoint} for person in people]}

    def decided() -> str | None:
        decisions = network.post("/v1/decisions:decideBatch", asked)["decisions"]
        return next((d["token"] for d in decisions if d.get("placement") == placement["name"]), None)

    token = eventually(decided, what="a decision for the live campaign")
    network.post("/v1/exposures", {"token": token})
    registration = network.post("/v1/registrations", {"token": token, "displayName": f"Li Na {tenant.mark}"})
    tenant.has(registration["name"])


def _placement(owner: Gateway, campaign: str, offer: Json) -> Json | None:
    try:
        return owner.post(f"/v1/{campaign}/placements", offer)
    except Problem as problem:
        if problem.reason != "AUDIENCE_NOT_READY":
            raise
        return None


def _publish(world: World, tenant: Tenant, account: Json) -> None:
    """A draft, a publication on the network, a question about it, and a freeze that is over."""
    owner, enterprise = tenant.owner, tenant.enterprise
    drafts = [
        owner.post(
            f"/v1/{enterprise}/publications", {"text": f"{kind} {tenant.mark}", "accounts": [account["name"]]}
        )
        for kind in ("Draft", "Post")
    ]
    _, publication = (tenant.has(draft["name"]) for draft in drafts)
    owner.post(f"/v1/{publication}:schedule")

    def published() -> Json | None:
        deliveries = owner.get(f"/v1/{publication}/deliveries").get("deliveries", [])
        return next((each for each in deliveries if each["state"] == "PUBLISHED"), None)

    delivery = eventually(published, what=f"the publishing of {publication}")
    tenant.has(delivery["name"])
    with Person(world.platform.url("sandbox"), "li-na") as person:
        person.comment(delivery["networkPostId"], f"Question {tenant.mark}")

    def arrived() -> list[Json] | None:
        return list(owner.list(f"/v1/{enterprise}/interactions", "interactions")) or None

    for interaction in eventually(arrived, what="the question's arrival"):
        tenant.has(interaction["name"])
    freeze = owner.post(
        f"/v1/{enterprise}/freezes", {"account": account["name"], "reason": f"Crisis {tenant.mark}"}
    )
    tenant.has(freeze["name"])
    owner.post(f"/v1/{freeze['name']}:lift")


def _stamp(**offset: float) -> str:
    return (datetime.now(UTC) + timedelta(**offset)).isoformat().replace("+00:00", "Z")
