"""OFREP over HTTP: what OpenFeature clients are told, whom they may ask for, and how they hear of changes."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest
import pytest_asyncio

from gateway.keys import Keys
from gateway.ofrep_events import EventTokens
from gateway.serving import NO_ADMISSIONS
from gateway.tests.conftest import PRIVATE_PEM
from gateway.tests.snapshots_made import (
    FLAG,
    ROLLOUT,
    Told,
    document,
    enterprise,
    envelope,
    flag,
    record,
    rollout,
)
from services.chassis.clock import FixedClock
from services.chassis.principal import Principal

pytestmark = pytest.mark.asyncio(loop_scope="session")

FLAGS = "/ofrep/v1/evaluate/flags"
EVENTS = "/ofrep/v1/events"
X = "enterprises/x"


def typed(rule=None, *, default, **variants):
    return {
        "state": "ENABLED",
        "variants": variants,
        "defaultVariant": default,
        **({"targeting": rule} if rule else {}),
    }


ORDINARY = {
    "price": typed(default="low", low=1, high=2.5),
    "limit": typed(default="few", few=3, many=5),
    "colour": typed({"if": [{"==": [{"var": "plan"}, "pro"]}, "red", None]}, default="blue", red="r", blue="b"),
    "layout": typed(default="plain", plain={"columns": 2, "ratio": 1.0}),
    "mobile": flag({"if": [{"==": [{"var": "device"}, "mobile"]}, "on", "off"]}),
    "panel": flag({"if": [{"<": [{"var": ["bucket.panel", 10_000]}, 10_000]}, "on", "off"]}),
    "gone": typed(default="blue", blue="b") | {"state": "DISABLED"},
    "bare": {"state": "ENABLED", "variants": {"on": True, "off": False}},
    "broken": flag({"if": [{"==": [{"var": "device"}, "odd"]}, "none-such", "off"]}),
}  # fmt: skip


def world(version=1, **more):
    """A document with all kinds of flags."""
    return document(
        version, flags={**ORDINARY, **more.pop("flags", {})}, buckets={"panel": "flags/panel"}, **more
    )


@pytest.fixture
def rollouts(services):
    """The rollout service, with every kind of flag; enterprises/x is in the edition."""
    fake = services.rollouts
    fake.snapshot = envelope(world())
    fake.told = Told(
        record("ACTIVE", X), enterprises=[enterprise(X, plan="pro"), enterprise("enterprises/y", tier="1")]
    )
    return fake


@pytest_asyncio.fixture(loop_scope="session")
async def operator(gateway):
    answer = await gateway.http.post(
        "/oauth2/token", data={"grant_type": "client_credentials"}, auth=("ops", "secret")
    )
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


async def ask(http, headers, key="", **context):
    path = f"{FLAGS}/{key}" if key else FLAGS
    return await http.post(path, headers=headers, json={"context": context} if context else {})


async def serve(running, rollouts, *, snapshot=None, changes=()):
    """Have the gateway take what the rollout service tells next."""
    if snapshot:
        rollouts.snapshot = envelope(snapshot)
    if changes:
        rollouts.told.change(*changes)
    await running.gateway._pull.once()


# --- one flag


async def test_one__a_rollouts_flag(rollouts, http, member):
    """Value, variant, reason; and by which rollout, in which stage, at which version."""
    answer = await ask(http, member, FLAG)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "key": FLAG,
        "value": True,
        "variant": "on",
        "reason": "TARGETING_MATCH",
        "metadata": {
            "rollout": ROLLOUT,
            "stage": "private-beta",
            "decision": "ADMITTED",
            "version": 1,
            "stale": False,
        },
    }


async def test_one__why_an_enterprise_is_not_in(rollouts, gateway, member):
    """The value is off, and the metadata has the decision's reason."""
    await serve(gateway, rollouts, changes=[record("WAITLISTED", X, reason="QUOTA_FULL")])

    told = (await ask(gateway.http, member, FLAG)).json()

    assert (told["value"], told["variant"], told["metadata"]["decision"]) == (False, "off", "QUOTA_FULL")


@pytest.mark.parametrize(
    ("key", "value", "variant", "reason"),
    [
        ("price", "1.0", "low", "STATIC"),
        ("limit", "3", "few", "STATIC"),
        ("colour", '"r"', "red", "TARGETING_MATCH"),
        ("layout", '{"columns":2,"ratio":1.0}', "plain", "STATIC"),
        ("panel", "true", "on", "TARGETING_MATCH"),
        ("gone", '"b"', "blue", "DISABLED"),
        ("bare", "false", "", "UNKNOWN"),
    ],
)
async def test_one__every_type(rollouts, http, member, *, key, value, variant, reason):
    """A float is a float in JSON too; a reason that the specification does not list is UNKNOWN; nothing is left out."""
    answer = await ask(http, member, key)

    assert f'"value":{value},' in answer.text
    told = answer.json()
    assert told.keys() == {"key", "value", "variant", "reason", "metadata"}
    assert (told["variant"], told["reason"]) == (variant, reason)


async def test_one__what_the_engine_calls_default_is_unknown(rollouts, gateway, operator):
    """An enterprise that the rule says nothing of gets the default variant, whose reason the specification has no word for."""
    told = (await ask(gateway.http, operator, "colour", targetingKey="enterprises/y")).json()

    assert (told["value"], told["variant"], told["reason"]) == ("b", "blue", "UNKNOWN")


async def test_one__a_killed_rollout_is_off_though_its_default_is_on(rollouts, gateway, member):
    """DISABLED, and never true."""
    killed = {**flag(state="DISABLED"), "defaultVariant": "on"}
    await serve(gateway, rollouts, snapshot=world(2, rule=killed, rollouts={FLAG: rollout(killed=True)}))

    told = (await ask(gateway.http, member, FLAG)).json()

    assert (told["value"], told["reason"], told["metadata"]["decision"]) == (
        False,
        "DISABLED",
        "EDITION_KILLED",
    )


async def test_one__clients_context_is_for_ordinary_flags(rollouts, gateway, member):
    """A client tells its device, but neither its plan nor its admission."""
    http = gateway.http
    await serve(gateway, rollouts, changes=[record("WAITLISTED", X)])
    pretended = {
        "admissions": {ROLLOUT: {"state": "ACTIVE"}},
        "verified": True,
        "plan": "pro",
        "bucket": {"panel": 0},
    }

    assert (await ask(http, member, "mobile", device="mobile")).json()["value"] is True
    assert (await ask(http, member, "mobile")).json()["value"] is False
    assert (await ask(http, member, FLAG, **pretended)).json()["value"] is False


async def test_one__an_attribute_that_others_have_cannot_be_claimed(rollouts, gateway, operator, member):
    """What is an attribute of any enterprise is ours, also of those that are without it."""
    pro = flag({"if": [{"==": [{"var": "tier"}, "1"]}, "on", "off"]})
    await serve(gateway, rollouts, snapshot=world(2, flags={"tiered": pro}))

    assert (await ask(gateway.http, operator, "tiered", targetingKey="enterprises/y")).json()["value"] is True
    assert (await ask(gateway.http, member, "tiered", tier="1")).json()["value"] is False


# --- who asks for whom


async def test_who__members_ask_for_their_own_enterprise(rollouts, gateway, member, operator):
    """The key may be left out or be one's own; operators name any."""
    http = gateway.http

    assert (await ask(http, member, FLAG, targetingKey=X)).json()["value"] is True
    foreign = await ask(http, member, FLAG, targetingKey="enterprises/y")
    assert foreign.status_code == 403
    assert foreign.json().items() >= {
        "key": FLAG, "errorCode": "INVALID_CONTEXT", "reason": "TARGETING_KEY_FOREIGN",
    }.items()  # fmt: skip
    assert (await ask(http, operator, FLAG, targetingKey=X)).json()["value"] is True
    assert (await ask(http, operator, FLAG, targetingKey="enterprises/y")).json()["value"] is False


async def test_who__an_operator_has_to_name_an_enterprise(rollouts, gateway, operator):
    """There is none to fill in."""
    for key in (FLAG, ""):
        answer = await ask(gateway.http, operator, key)
        assert answer.status_code == 400
        assert answer.json()["errorCode"] == "TARGETING_KEY_MISSING"
        assert answer.json()["errorDetails"]


async def test_who__nobody_asks_without_a_token(rollouts, http):
    """401, as everywhere, with a body that OFREP's clients can read."""
    for headers in ({}, {"authorization": "Bearer nonsense"}):
        answer = await ask(http, headers, FLAG)
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["www-authenticate"]
        assert answer.json()["errorCode"] == "GENERAL"
        assert answer.json()["errorDetails"]


# --- what goes wrong


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "PARSE_ERROR"),
        (b"\xff", "PARSE_ERROR"),
        (b"[" * 5000, "PARSE_ERROR"),
        (b"[]", "INVALID_CONTEXT"),
        (b'{"context": []}', "INVALID_CONTEXT"),
        (b'{"context": "x"}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": 7}}', "INVALID_CONTEXT"),
    ],
)
async def test_errors__a_request_that_is_none(rollouts, http, member, body, code):
    """400 with code and details; for a single flag with its key."""
    for path, keys in ((f"{FLAGS}/{FLAG}", {"key"}), (FLAGS, set())):
        answer = await http.post(path, headers=member, content=body)

        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/json"
        assert answer.json().keys() == {"errorCode", "errorDetails", "reason"} | keys
        assert answer.json()["errorCode"] == code


async def test_errors__an_empty_body_asks_for_oneself(rollouts, http, member):
    """The specification does not require a body."""
    assert (await http.post(f"{FLAGS}/{FLAG}", headers=member)).json()["value"] is True


async def test_errors__no_such_flag(rollouts, http, member):
    """404, for odd names too."""
    for key in ("none", "a/b", "%E2%98%83"):
        answer = await ask(http, member, key)
        assert answer.status_code == 404
        assert answer.json()["errorCode"] == "FLAG_NOT_FOUND"
        assert answer.json()["errorDetails"]


async def test_errors__a_rule_that_fails(rollouts, http, member):
    """The engine's failure is 400 GENERAL: in the context, most likely, and no reason to take a rollout back."""
    answer = await ask(http, member, "broken", device="odd")

    assert answer.status_code == 400
    assert answer.json()["errorCode"] == "GENERAL"


async def test_errors__too_much_and_too_often(rollouts, make_gateway):
    """413 beyond 64 KiB; 429 says when to come back."""
    async with make_gateway(credential_rate=1) as running:
        answer = await running.http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword"})
        headers = {"authorization": f"Bearer {answer.json()['access_token']}"}

        large = await running.http.post(FLAGS, headers=headers, content=b" " * 70_000)
        await ask(running.http, headers, FLAG)
        often = await ask(running.http, headers, FLAG)

    assert (large.status_code, large.json()["reason"]) == (413, "BODY_TOO_LARGE")
    assert (often.status_code, often.json()["errorCode"]) == (429, "GENERAL")
    assert int(often.headers["retry-after"]) >= 1


async def test_errors__nothing_is_known_yet(gateway, member, monkeypatch):
    """503 with Retry-After, never a value."""
    monkeypatch.setattr(gateway.gateway.knowledge, "serving", None)

    answer = await ask(gateway.http, member, FLAG)

    assert (answer.status_code, answer.json()["reason"]) == (503, "ADMISSIONS_UNKNOWN")
    assert answer.headers["retry-after"]


async def test_errors__other_methods(rollouts, http, member):
    """405 with Allow; OPTIONS tells the same."""
    for path, allowed in (
        (FLAGS, "OPTIONS, POST"),
        (f"{FLAGS}/{FLAG}", "OPTIONS, POST"),
        (EVENTS, "GET, OPTIONS"),
    ):
        refused = await http.request("PUT", path, headers=member)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
        told = await http.options(path)
        assert (told.status_code, told.headers["allow"]) == (204, allowed)


async def test_stale__is_told_and_closes_what_is_to_close(rollouts, gateway, member, monkeypatch):
    """Old knowledge says so; a rollout that closes is off then, for a reason that the specification has no word for."""
    closing = {FLAG: rollout(fail_mode="CLOSED")}
    await serve(gateway, rollouts, snapshot=world(2, rollouts=closing))
    monkeypatch.setattr(gateway.gateway.knowledge.serving, "stale", True)

    closed = (await ask(gateway.http, member, FLAG)).json()
    ordinary = (await ask(gateway.http, member, "limit")).json()

    assert (closed["value"], closed["variant"], closed["reason"]) == (False, "off", "UNKNOWN")
    assert closed["metadata"]["stale"] is True
    assert (ordinary["value"], ordinary["metadata"]["stale"]) == (3, True)


# --- all flags


async def test_all__flags_with_a_tag(rollouts, http, member):
    """Each flag as it would be alone; one that fails has its error in its place."""
    answer = await ask(http, member, device="odd")

    flags = {each["key"]: each for each in answer.json()["flags"]}
    assert flags.keys() == {FLAG, *ORDINARY}
    assert flags[FLAG] == (await ask(http, member, FLAG)).json()
    assert flags["broken"]["errorCode"] == "GENERAL"
    assert answer.json()["metadata"] == {"version": 1, "stale": False}
    assert answer.headers["etag"].startswith('"')


async def test_all__is_not_sent_again_unchanged(rollouts, gateway, member):
    """304 for any way of naming the tag; another context or another state of the world has another tag."""
    http = gateway.http
    first = await ask(http, member)
    etag = first.headers["etag"]

    async def again(tag, **context):
        return await http.post(FLAGS, headers={**member, "if-none-match": tag}, json={"context": context})

    for tag in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        same = await again(tag)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert (await again('"other"')).status_code == 200
    assert (await again(etag, device="mobile")).status_code == 200

    await serve(gateway, rollouts, changes=[record("SUSPENDED", X, reason="VERIFICATION_REVOKED")])
    changed = await again(etag)
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_all__waits_for_what_another_gateway_has_announced(rollouts, gateway, member):
    """A client that heard of a version from a faster gateway is not told "unchanged" by a slower one."""
    etag = (await ask(gateway.http, member)).headers["etag"]
    asking = asyncio.create_task(
        gateway.http.post(f"{FLAGS}?flagConfigEtag=2-1", headers={**member, "if-none-match": etag}, json={})
    )
    await asyncio.wait([asking], timeout=0.2)
    assert not asking.done()

    await serve(gateway, rollouts, snapshot=world(2))

    assert (await asking).json()["metadata"]["version"] == 2


async def test_all__does_not_wait_for_ever(rollouts, gateway, member, monkeypatch):
    """A version that does not come, as after a restore, or a tag that is none, holds nobody up for long."""
    monkeypatch.setattr("gateway.ofrep._CATCH_UP_SECONDS", 0.1)
    for announced in ("999-1", "nonsense", "1-2-3", "%00"):
        answer = await gateway.http.post(f"{FLAGS}?flagConfigEtag={announced}", headers=member, json={})
        assert answer.status_code == 200


# --- changes


class Listener:
    """Reads a stream of events."""

    def __init__(self, lines):
        self._lines = lines

    async def event(self):
        """The next event: its id, its name and its data. Fails when there is none for five seconds."""
        told = {}
        async with asyncio.timeout(5):
            async for line in self._lines:
                field, _, value = line.partition(": ")
                if field in {"id", "event", "data"}:
                    told[field] = value
                elif not line and "data" in told:
                    break
        return told["id"], told["event"], json.loads(told["data"])


@contextlib.asynccontextmanager
async def listening(running, path=EVENTS, **headers):
    # A client of its own: giving up on a line closes the stream below it.
    async with (
        httpx.AsyncClient(base_url=running.url, timeout=10) as http,
        http.stream("GET", path, headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Listener(answer.aiter_lines())


async def address(running, headers, **context):
    """Where a client is told to listen, below this gateway's own address."""
    [stream] = (await ask(running.http, headers, **context)).json()["eventStreams"]
    assert stream["type"] == "sse"
    return stream["url"].removeprefix("http://127.0.0.1:7400")


async def test_events__at_first_and_with_each_change(rollouts, gateway, member):
    """The address of a bulk answer is enough to listen. The form is that of OFREP's ADR 0008."""
    async with listening(gateway, await address(gateway, member)) as events:
        told, kind, data = await events.event()
        assert (told, kind) == ("1-1", "message")
        assert data["type"] == "refetchEvaluation"
        assert data["etag"] == told
        assert abs(data["lastModified"] - datetime.now(UTC).timestamp()) < 60

        await serve(gateway, rollouts, snapshot=world(2))
        assert (await events.event())[0] == "2-1"
        await serve(gateway, rollouts, changes=[record("SUSPENDED", X)])
        assert (await events.event())[0] == "2-2"


async def test_events__others_admissions_are_none_of_mine(rollouts, gateway, member, operator):
    """A member hears of what its flags depend on; an operator, who asks for anybody, of everything."""
    async with (
        listening(gateway, **member) as mine,
        listening(gateway, await address(gateway, operator, targetingKey=X)) as any_ones,
    ):
        await mine.event()
        await any_ones.event()

        await serve(gateway, rollouts, changes=[record("ACTIVE", "enterprises/y")])
        assert (await any_ones.event())[0] == "1-2"
        await serve(gateway, rollouts, changes=[record("SUSPENDED", X)])
        assert (await mine.event())[0] == "1-3"


async def test_events__who_comes_back_hears_what_it_missed(rollouts, gateway, member):
    """With Last-Event-ID: an event at once if something changed meanwhile, none otherwise."""
    async with listening(gateway, **member, **{"last-event-id": "1-0"}) as behind:
        assert (await behind.event())[0] == "1-1"
    async with listening(gateway, **member, **{"last-event-id": "1-1"}) as current:
        await serve(gateway, rollouts, snapshot=world(2))
        assert (await current.event())[0] == "2-1"


async def test_events__a_silent_stream_is_alive_and_ends_with_the_gateway(rollouts, make_gateway):
    """Comments keep proxies from closing it; a stop ends it cleanly."""
    async with make_gateway(heartbeat_seconds=0.05) as running:
        session = await running.http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword"})
        headers = {"authorization": f"Bearer {session.json()['access_token']}"}
        async with running.http.stream("GET", EVENTS, headers=headers) as answer:
            lines = answer.aiter_lines()
            async for line in lines:
                if line == ": alive":
                    break
            running.gateway.stopping.set()
            assert [line async for line in lines if line.startswith("data")] == []


async def test_events__an_address_is_good_for_an_hour_and_for_nothing_else(rollouts, gateway, member, http):
    """Neither kind of token passes for the other, and an address stays the same so long that clients need not reconnect."""
    listen = await address(gateway, member)
    assert listen == await address(gateway, member)
    token = listen.rpartition("=")[2]

    assert (await ask(http, {"authorization": f"Bearer {token}"}, FLAG)).status_code == 401
    access = member["authorization"].removeprefix("Bearer ")
    for wrong in (
        access,
        token[:-4],
        "x",
        jwt.encode({"sub": "x"}, "k" * 32, headers={"typ": "ofrep-events+jwt"}),
    ):
        answer = await http.get(f"{EVENTS}?token={wrong}")
        assert (answer.status_code, answer.json()["reason"]) == (401, "CREDENTIALS_INVALID")
    assert (await http.get(EVENTS)).json()["reason"] == "CREDENTIALS_MISSING"


async def test_event_tokens__end():
    """A token lives for one to two hours."""
    clock = FixedClock(datetime(2026, 1, 15, 12, 59, tzinfo=UTC))
    tokens = EventTokens(Keys(PRIVATE_PEM), "http://gateway")
    token = tokens.issue(Principal("MEMBER", f"{X}/members/m", enterprise=X), clock.now())

    clock.advance(timedelta(hours=1))
    assert tokens.verify(token, clock.now()) == Principal("MEMBER", f"{X}/members/m", enterprise=X)
    clock.advance(timedelta(minutes=1))
    with pytest.raises(Exception, match="expired") as raised:
        tokens.verify(token, clock.now())
    assert raised.value.reason == "TOKEN_EXPIRED"
    with pytest.raises(Exception, match="not ours"):
        EventTokens(Keys(PRIVATE_PEM), "http://another").verify(token, clock.now())


async def test_attribute_names__are_those_of_anybody():
    """What one enterprise has is nobody's to claim."""
    table = NO_ADMISSIONS.changed(
        1, "t", [], [enterprise("enterprises/a", plan="x"), enterprise("enterprises/b", tier="1")]
    )

    assert table.attribute_names == {"plan", "tier"}
    assert NO_ADMISSIONS.attribute_names == frozenset()
