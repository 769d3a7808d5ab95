"""What an engine of flagd's decides by the document that rollout makes for it is what a gateway decides."""

import random
from collections.abc import Iterator
from typing import Any

from numerator.rollout.v1 import serving_pb2 as pb
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from gateway.tests.snapshots_made import document, flag, knowing, rollout
from services.rollout.flagd_document import flagd_document

ENTERPRISES = 10_000
EDITION = {"==": [{"var": "admissions.edition.state"}, "ACTIVE"]}
BINDING = {"==": [{"var": "admissions.binding.state"}, "ACTIVE"]}
SHARE = {"<": [{"var": ["bucket.panel", 10_000]}, 150]}
FRIENDS = {"in": [{"var": "enterprise"}, ["enterprises/e-00003", "enterprises/unheard-of"]]}


def when(rule: Any) -> Any:
    return flag({"if": [rule, "on", "off"]})


FLAGS = {
    "edition-flag": when({"and": [EDITION, BINDING]}),
    "binding-flag": when(BINDING),
    "killed-flag": flag({"if": [BINDING, "on", "off"]}, state="DISABLED"),
    "panel": when({"and": [{"==": [{"var": "verified"}, True]}, SHARE]}),
    "early": when({"==": [{"var": "admissions.edition.stage"}, "early"]}),
    "friends": when({"or": [FRIENDS, SHARE]}),
    "plan": when({"and": [{"==": [{"var": "plan"}, "enterprise"]}, SHARE]}),
    "mobile": when({"and": [{"==": [{"var": "device"}, "mobile"]}, SHARE]}),
    "rest": when({"and": [{"!": {"var": "verified"}}, {">=": [{"var": ["bucket.other", 10_000]}, 9_900]}]}),
    "static": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"},
}
DOCUMENT = document(
    flags=FLAGS,
    rollouts={
        "edition-flag": rollout("edition"),
        "binding-flag": rollout("binding"),
        "killed-flag": rollout("killed", killed=True),
    },
    buckets={"panel": "flags/panel", "other": "flags/other"},
)


def _enterprises(chance: random.Random) -> Iterator[pb.EnterpriseRecord]:
    for number in range(ENTERPRISES):
        plan = {"plan": chance.choice(["basic", "enterprise"])} if chance.random() < 0.8 else {}
        yield pb.EnterpriseRecord(
            enterprise=f"enterprises/e-{number:05}", verified=chance.random() < 0.7, attributes=plan
        )


def _records(chance: random.Random, enterprises: list[pb.EnterpriseRecord]) -> Iterator[pb.AdmissionRecord]:
    for key, share in (("edition-flag", 0.02), ("binding-flag", 0.03), ("killed-flag", 0.5)):
        for each in enterprises:
            active = chance.random() < share
            yield pb.AdmissionRecord(
                flag=key,
                enterprise=each.enterprise,
                state="ACTIVE" if active else chance.choice(["WAITLISTED", "SUSPENDED"]),
                stage=chance.choice(["early", "late"]) if active else "",
            )


def test_flagd__decides_as_a_gateway_for_ten_thousand() -> None:
    """Rollouts, prerequisites, shares, attributes, lists, kills, what clients know: no decision differs for 10,000 enterprises."""
    chance = random.Random(7)
    enterprises = list(_enterprises(chance))
    records = list(_records(chance, enterprises))
    serving = knowing(DOCUMENT, *records, enterprises=enterprises).serving
    assert serving
    engine = FlagdCore()
    engine.set_flags(flagd_document(DOCUMENT, records, enterprises))
    told = {"device": "mobile"}

    admitted = dict.fromkeys(FLAGS, 0)
    for each in enterprises:
        name = each.enterprise
        known = serving.context_of(name)
        with_theirs = EvaluationContext(name, {**told, **known.attributes})
        for key in FLAGS:
            context = known if key in DOCUMENT["rollouts"] else with_theirs
            decided = serving.resolve("boolean", key, False, context)
            by_engine = engine.resolve_boolean_value(key, False, EvaluationContext(name, told))
            assert (by_engine.value, by_engine.variant) == (decided.value, decided.variant), (key, each)
            admitted[key] += decided.value

    assert admitted.pop("killed-flag") == 0
    assert admitted.pop("static") == ENTERPRISES
    assert all(0 < count < 1_000 for count in admitted.values()), admitted
