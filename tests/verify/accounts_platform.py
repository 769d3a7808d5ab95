"""What is measured on a running platform: rows 1 and 2 of `make verify-accounts`."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from deploy.demo.client import Gateway, eventually
from deploy.demo.story import PASSWORD
from deploy.local.platform import Platform
from deploy.local.stubs import ROOT
from deploy.otel.receiver import receiving
from services.chassis.testing.canaries import search
from tests.verify.bulk_binding import bind_all
from tests.verify.table import Row
from tests.world import fresh_world

ACCOUNTS = 150
CANARIES = 1_000
SECONDS = 60
PORT_BASE = 8700
_HOME = "verify-accounts"
_PLAN = "rollout: enterprise-edition\nflag: enterprise-beta\nstages: [{ring: all}]\n"
_BATCH = 425
"""What is bound besides the two batches of ACCOUNTS, in two more."""
_ROOM = {
    # One machine is all holders at once.
    "GATEWAY_CREDENTIAL_RATE": "1000000",
    "GATEWAY_TENANT_CONCURRENCY": "1000",
    "GATEWAY_LOGIN_RATE": "1000",
    "GATEWAY_LOGIN_ADDRESS_RATE": "1000",
}
_KEPT_ON_PURPOSE = ("secrets", "sandbox")
"""Folders: our own keys, which are never tokens of networks; and the network's own memory of what it gave."""


def platform() -> Iterator[Row]:
    """Rows 1 and 2: many accounts bound, then the story; everything at DEBUG, and searched for the tokens when it is over."""
    with receiving() as receiver:
        environment = {**_ROOM, **receiver.environment, "LOG_LEVEL": "DEBUG"}
        with fresh_world(_HOME, PORT_BASE, **environment) as world:
            yield from _bound(world.platform)
        # On data of its own: the story has a plan of its own, whose stages have less room.
        with fresh_world(f"{_HOME}-story", PORT_BASE, **environment) as world:
            world.story.play()
        told = [*receiver.store.spans(), *receiver.store.logs()]
    homes = [ROOT / ".local" / name for name in (_HOME, f"{_HOME}-story")]
    traces = homes[0] / "traces.txt"
    traces.write_text("\n".join(map(repr, told)))
    tokens = [token for home in homes for token in _tokens(home)]
    # The search itself is tried: one that is planted is found.
    planted = homes[0] / "logs" / "planted.log"
    planted.write_text(f"token={tokens[0]}")
    found = search(homes, tokens, leave_out=_KEPT_ON_PURPOSE)
    planted.unlink()
    hits = [hit for hit in found if not hit.startswith(f"{planted}: ")]
    size = sum(file.stat().st_size for home in homes for file in home.rglob("*") if file.is_file())
    yield Row(
        f"{CANARIES:,} tokens of the network, at DEBUG, searched raw, base64, hex, URL-encoded in all bytes that are kept",
        "0 hits",
        f"{len(tokens):,} tokens, {len(told):,} spans and lines of logs, {size / 1e6:.0f} MB of database, broker, logs and "
        f"traces: {len(hits)} hits" + "".join(f"; {hit}" for hit in hits[:3]),
        len(tokens) >= CANARIES and len(told) > 0 and len(found) > len(hits) and not hits,
    )
    for home in homes:
        shutil.rmtree(home)


def _bound(platform: Platform) -> Iterator[Row]:
    """Row 1: bound through invitations, undisturbed and with accounts' api process killed half-way; then some more."""
    public = Gateway(platform.url("gateway"))
    operator = public.client("operator", platform.keys.operator_secret.read_text())
    operator.post("/v1/rollouts:apply", {"plan": _PLAN})
    operator.post("/v1/rollouts/enterprise-edition:start")
    enterprise, owner = _company(public, operator)
    network = platform.url("sandbox")
    calm = bind_all(owner, enterprise, network, count=ACCOUNTS)
    yield Row(
        f"{ACCOUNTS} accounts bound by links of invitations",
        f"all, within {SECONDS} s",
        f"{calm.bound} in {calm.seconds:.1f} s by {calm.requests} requests, {calm.page_ms:.0f} ms each (median); "
        f"{calm.streamed} streamed",
        calm.bound == calm.streamed == ACCOUNTS and calm.seconds < SECONDS,
    )
    killed = bind_all(
        owner, enterprise, network, count=ACCOUNTS,
        disturb=lambda: [platform.kill(name, signal.SIGKILL) for name in ("accounts-api", "gateway")],
    )  # fmt: skip
    yield Row(
        f"the same, with accounts and the gateway killed (kill -9) after {killed.disturbed_at}",
        "all, by the same links",
        f"{killed.bound} in {killed.seconds:.1f} s; {killed.opened_again} links opened again, the stream of progress "
        f"taken up {killed.resumed} times and complete with {killed.streamed}",
        killed.bound == killed.streamed == ACCOUNTS and killed.disturbed_at is not None,
    )
    for _ in range(2):
        bind_all(owner, enterprise, network, count=_BATCH)
    _use(owner, enterprise)


def _company(public: Gateway, operator: Gateway) -> tuple[str, Gateway]:
    email = f"{uuid4().hex}@example.org"
    account = {"displayName": "Measured", "ownerEmail": email, "ownerPassword": PASSWORD}
    enterprise = str(public.post("/v1/enterprises", account)["name"])
    owner = public.login(email, PASSWORD)
    owner.post(f"/v1/{enterprise}:requestVerification", {"note": "please"})
    operator.post(f"/v1/{enterprise}:verify", {"note": "certainly"})
    eventually(lambda: owner.get("/v1/edition")["admitted"] or None, what="the company's admission")
    return enterprise, owner


def _use(owner: Gateway, enterprise: str) -> None:
    """What opens tokens: a post on every account, which the sender sends; and accounts unbound."""
    accounts = [each["name"] for each in owner.list(f"/v1/{enterprise}/accounts", "accounts", pageSize=500)]
    publication = owner.post(
        f"/v1/{enterprise}/publications", {"text": "On all accounts.", "accounts": accounts[:500]}
    )
    owner.post(f"/v1/{publication['name']}:schedule")

    eventually(
        lambda: owner.get(f"/v1/{publication['name']}")["state"] == "DONE" or None,
        what="the posts", seconds=120,
    )  # fmt: skip
    for account in accounts[:20]:
        owner.delete(f"/v1/{account}")


def _tokens(home: Path) -> list[str]:
    """All access and refresh tokens that the sandbox network has ever given, by its own journal."""
    entries = map(json.loads, (home / "sandbox" / "state.jsonl").read_text().splitlines())
    return [
        value
        for entry in entries
        if entry["kind"] == "token"
        for value in (entry["value"], entry.get("refresh"))
        if value
    ]
