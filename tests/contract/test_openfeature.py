"""
OpenFeature's clients, untouched, on the running platform: OFREP from PyPI, npm and a browser, flagd's engines in their own
processes.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from deploy.demo.client import Gateway
from deploy.demo.story import PASSWORD
from services.chassis.buckets import bucket_of
from tests.contract.openfeature.tools import CLIENTS, Client, running
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PUSH_SECONDS = 5.0
"""How soon a change is seen by clients that are told of it. The safety net of the gateway alone is two seconds."""
WAIT_SECONDS = 30.0

FLAGS = """
flags:
  of-price:
    variants: {low: 1.0, high: 2.5}
    defaultVariant: low
    targeting: {if: [{"==": [{var: ofplan}, pro]}, high, low]}
  of-limit: {variants: {few: 3, many: 50}, defaultVariant: few}
  of-colour:
    variants: {red: 红, blue: 蓝}
    defaultVariant: blue
    targeting: {if: [{"==": [{var: device}, mobile]}, red, blue]}
  of-layout: {variants: {plain: {columns: 2}}, defaultVariant: plain}
  of-panel: {percent: "50%"}
  of-gone: {variants: {"on": true, "off": false}, defaultVariant: "off", state: DISABLED}
"""
TYPES: Mapping[str, tuple[str, Any]] = {
    "of-price": ("float", 0.5),
    "of-limit": ("integer", 0),
    "of-colour": ("string", ""),
    "of-layout": ("object", {}),
    "of-panel": ("boolean", False),
    "of-gone": ("boolean", False),
}
"""The types of ordinary flags, each with a default that none of its variants is."""
FLAGD = [name for name in CLIENTS if name.startswith("flagd")]
SERVERS = [name for name in CLIENTS if name != "ofrep in a browser"]


@dataclass
class Company:
    """A verified enterprise, and its owner."""

    name: str
    owner: Gateway


@dataclass
class Edition:
    """
    A rollout that takes in one company in its first stage, and another in its second.

    Attributes:
        operator: of the platform, with a token of these tests' own: it lives for ten minutes.
        flag: the rollout's.
        change: calls a verb of the rollout.
    """

    operator: Gateway
    flag: str
    inside: Company
    outside: Company
    change: Callable[..., Any]


@pytest.fixture(scope="module")
def edition(world: World) -> Iterator[Edition]:
    """The flags of these tests, and two companies."""
    operator = world.story.public.client("operator", world.story.places.operator_secret)
    inside, outside = (_company(world.story.public, operator) for _ in range(2))
    operator.post(f"/v1/{inside.name}:setRolloutAttributes", {"attributes": {"ofplan": "pro"}})
    operator.post("/v1/flags:apply", {"document": FLAGS})
    rollout = f"openfeature-{uuid4().hex[:8]}"
    plan = f"""
rollout: {rollout}
flag: {rollout}
stages:
  - {{ring: one, audience: {{tenants: [{inside.name}]}}}}
  - {{ring: two, audience: {{tenants: [{outside.name}]}}}}
"""
    operator.post("/v1/rollouts:apply", {"plan": plan})

    def change(verb: str, **body: Any) -> None:
        operator.post(f"/v1/rollouts/{rollout}:{verb}", body)

    change("start")
    yield Edition(operator, rollout, inside, outside, change)
    change("kill", reason="the test is over")


def _company(public: Gateway, operator: Gateway) -> Company:
    email = f"{uuid4().hex}@example.org"
    account = {"displayName": "OpenFeature", "ownerEmail": email, "ownerPassword": PASSWORD}
    name = public.post("/v1/enterprises", account)["name"]
    owner = public.login(email, PASSWORD)
    owner.post(f"/v1/{name}:requestVerification", {"note": "please"})
    operator.post(f"/v1/{name}:verify", {"note": "certainly"})
    return Company(name, owner)


def expected(edition: Edition, company: Company) -> dict[str, Any]:
    """What each flag is for a company that tells nothing of itself, while the rollout is in its first stage."""
    return {
        edition.flag: company is edition.inside,
        "of-price": 2.5 if company is edition.inside else 1.0,
        "of-limit": 3,
        "of-colour": "蓝",
        "of-layout": {"columns": 2},
        "of-panel": bucket_of("flags/of-panel", company.name) < 5_000,
        "of-gone": False,
    }


def client(world: World, name: str, token: str, context: Mapping[str, Any] | None = None) -> Any:
    """One of CLIENTS, ready, as it is given the address of what it talks to."""
    if name in FLAGD:
        return running(name, host="127.0.0.1", port=world.platform.ports.flagd)
    return running(name, url=world.platform.url("gateway"), token=token, context=context or {})


def values(asked: Client, edition: Edition, context: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all flags of these tests."""
    types = {edition.flag: ("boolean", False), **TYPES}
    return {
        key: asked.ask(key, default, context, kind=kind)["value"] for key, (kind, default) in types.items()
    }


def until(see: Callable[[], Any], wanted: Any, seconds: float = WAIT_SECONDS) -> float:
    """Ask until the answer is the wanted one; how long that took. Fails with the last answer."""
    began = time.monotonic()
    while (seen := see()) != wanted:
        assert time.monotonic() - began < seconds, f"still {seen}, not {wanted}"
        time.sleep(0.05)  # between two polls; the assertion above is what ends the wait
    return time.monotonic() - began


@pytest.mark.parametrize("name", SERVERS)
def test_client__decides_as_the_gateway(world: World, edition: Edition, name: str) -> None:
    """Every type of flag, for who is in and who is not; what the client itself knows counts where a rule asks for it."""
    with client(world, name, edition.operator.token) as asked:
        for company in (edition.inside, edition.outside):
            context = {"targetingKey": company.name}
            until(lambda context=context: values(asked, edition, context), expected(edition, company))
            mobile = asked.ask("of-colour", "", {**context, "device": "mobile"}, kind="string")
            pretending = asked.ask("of-price", 0.5, {**context, "ofplan": "pro"}, kind="float")

            assert mobile["value"] == "红"
            assert pretending["value"] == expected(edition, company)["of-price"]
        answer = asked.ask(edition.flag, False, {"targetingKey": edition.inside.name})
        assert (answer["variant"], answer["reason"], answer["error"]) == ("on", "TARGETING_MATCH", None)
        assert answer["metadata"]["stage"] == "one"
        assert answer["metadata"]["version"] > 0


def test_browser__has_all_flags_of_its_own_company(world: World, edition: Edition) -> None:
    """A member's token is enough: whose flags they are need not be said."""
    for company in (edition.inside, edition.outside):
        with client(world, "ofrep in a browser", company.owner.token, {"device": "mobile"}) as asked:
            wanted = {**expected(edition, company), "of-colour": "红"}
            until(lambda asked=asked: values(asked, edition, {}), wanted)


def test_change__reaches_every_client(world: World, edition: Edition) -> None:
    """Widened, killed and taken back: clients with all flags at hand hear of it, the others see it when they ask."""
    context = {"targetingKey": edition.outside.name}
    with ExitStack() as stack:
        clients = {name: stack.enter_context(client(world, name, edition.operator.token)) for name in SERVERS}
        clients["ofrep in a browser"] = stack.enter_context(
            client(world, "ofrep in a browser", edition.outside.owner.token)
        )

        def seen() -> dict[str, bool]:
            return {name: each.ask(edition.flag, False, context)["value"] for name, each in clients.items()}

        until(seen, dict.fromkeys(clients, False))
        for verb, wanted in (("advance", True), ("kill", False), ("unkill", True), ("rollback", False)):
            edition.change(verb, **({} if verb in {"advance", "unkill"} else {"reason": "a test"}))
            seconds = until(seen, dict.fromkeys(clients, wanted), PUSH_SECONDS)
            print(f"{verb}: seen by all {len(clients)} clients after {seconds:.2f} s")
    edition.change("restart")


@pytest.mark.parametrize("name", [name for name in SERVERS if name not in FLAGD])
def test_errors__are_understood(world: World, edition: Edition, name: str) -> None:
    """A flag that is not there, one of another type, another's flags, no credentials: the client's default, and why."""
    foreign = {"targetingKey": edition.outside.name}
    with client(world, name, edition.inside.owner.token) as asked:
        assert asked.ask(edition.flag, False, {})["value"] is True
        missing = asked.ask("of-none", True, {})
        mismatch = asked.ask("of-limit", "three", {}, kind="string")
        refused = asked.ask(edition.flag, True, foreign)
    with client(world, name, "") as nobody:
        unknown = nobody.ask(edition.flag, True, foreign)

    assert (missing["value"], missing["error"]) == (True, "FLAG_NOT_FOUND")
    assert (mismatch["value"], mismatch["error"]) == ("three", "TYPE_MISMATCH")
    assert (refused["value"], refused["error"]) == (True, "GENERAL")
    assert (unknown["value"], unknown["error"]) == (True, "GENERAL")


@pytest.mark.parametrize("name", FLAGD)
def test_flagd__outlives_the_service(world: World, edition: Edition, name: str) -> None:
    """While the rollout service is away a client goes on with what it knew; when it is back, it hears of changes again."""
    inside = {"targetingKey": edition.inside.name}
    with client(world, name, "") as asked:

        def admitted() -> bool:
            return asked.ask(edition.flag, False, inside)["value"]

        until(admitted, True)
        world.platform.kill("rollout-api")
        assert admitted() is True
        world.platform.wait_ready(["rollout-api"])
        assert admitted() is True
        edition.change("kill", reason="a test")
        until(admitted, False)
        edition.change("unkill")
        until(admitted, True)
