"""The document for flagd engines: what a gateway decides, an engine that has only the enterprise's name decides too."""

import json
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import FlagNotFoundError, OpenFeatureError

from services.chassis.buckets import bucket_of
from services.chassis.rules import guarded
from services.rollout.flagd_document import flagd_document

ACTIVE = {"==": [{"var": "admissions.edition.state"}, "ACTIVE"]}
SHARE = {"<": [{"var": ["bucket.panel", 10_000]}, 2_500]}


@dataclass(frozen=True)
class Admission:
    flag: str
    enterprise: str
    state: str = "ACTIVE"
    stage: str = "beta"


@dataclass(frozen=True)
class Enterprise:
    enterprise: str
    verified: bool = True
    attributes: dict = field(default_factory=dict)


def flag(rule, *, state="ENABLED", variants=None, default="off"):
    return {
        "state": state,
        "variants": variants or {"on": True, "off": False},
        "defaultVariant": default,
        **({"targeting": rule} if rule is not None else {}),
    }


def document(flags, *, rollouts=("edition",), version=7):
    return {
        "version": version,
        "flags": {"flags": flags},
        "rollouts": {f"{name}-flag": {"rollout": name} for name in rollouts},
        "buckets": {"panel": "flags/panel", "other": "flags/other"},
    }


def when(rule):
    return flag({"if": [rule, "on", "off"]})


def context_of(tree, records, enterprise):
    """A decision's context as docs/rollouts.md has it; `enterprise` is a record, or a name that nobody knows."""
    name = enterprise if isinstance(enterprise, str) else enterprise.enterprise
    admissions = {each["rollout"]: {"state": "NONE", "stage": ""} for each in tree["rollouts"].values()}
    for record in records:
        if record.enterprise == name and record.flag in tree["rollouts"]:
            admission = {"state": record.state, "stage": record.stage}
            admissions[tree["rollouts"][record.flag]["rollout"]] = admission
    known = not isinstance(enterprise, str)
    return {
        **(enterprise.attributes if known else {}),
        "enterprise": name,
        "verified": enterprise.verified if known else False,
        "bucket": {
            key: bucket_of(salt, name) if known else math.nan for key, salt in tree["buckets"].items()
        },
        "admissions": admissions,
    }


def as_at_a_gateway(tree):
    """The flags for an engine that has the whole context, behind the question whether all is there."""
    flags = {
        key: {**each, "targeting": guarded(each["targeting"], each["variants"], each["defaultVariant"])}
        if "targeting" in each
        else each
        for key, each in tree["flags"]["flags"].items()
    }
    return engine(json.dumps({"flags": flags}))


def engine(text):
    core = FlagdCore()
    core.set_flags(text)
    return core


def decision(core, key, name, attributes=None):
    """Value and variant of a flag; or the kind of error."""
    try:
        details = core.resolve_boolean_value(key, False, EvaluationContext(name, attributes or {}))
    except OpenFeatureError as error:
        return error.error_code
    except TypeError:
        return "TypeError"
    return details.value, details.variant


def check(tree, records, enterprises, *, unknown="enterprises/unknown", client=None):
    """An engine with the whole context and one with the name alone decide the same of all flags, for all enterprises."""
    full = as_at_a_gateway(tree)
    told = engine(flagd_document(tree, records, enterprises))
    differ = [
        (key, enterprise)
        for key in tree["flags"]["flags"]
        for enterprise in [*enterprises, unknown]
        if decision(
            full,
            key,
            getattr(enterprise, "enterprise", enterprise),
            {**({} if key in tree["rollouts"] else client or {}), **context_of(tree, records, enterprise)},
        )
        != decision(told, key, getattr(enterprise, "enterprise", enterprise), client)
    ]
    assert not differ


def test_document__a_rollout_becomes_the_list_of_its_admitted():
    """The rule over admissions is a rule over the targeting key, whose list is there once."""
    tree = document({"edition-flag": when(ACTIVE), "second": when(ACTIVE)})
    records = [
        Admission("edition-flag", "enterprises/a"),
        Admission("edition-flag", "enterprises/b", "WAITLISTED"),
    ]

    told = json.loads(
        flagd_document(tree, records, [Enterprise("enterprises/a"), Enterprise("enterprises/b")])
    )

    assert told["flags"]["edition-flag"]["targeting"] == {"if": [{"$ref": "list-1"}, "on", "off"]}
    assert told["flags"]["second"]["targeting"] == told["flags"]["edition-flag"]["targeting"]
    assert told["$evaluators"] == {"list-1": {"in": [{"var": ["targetingKey", ""]}, ["enterprises/a"]]}}
    assert told["metadata"] == {"version": 7}


def test_document__what_is_killed_is_disabled_without_a_list():
    """A killed flag stays DISABLED, and nobody's name is told for it."""
    tree = document({"edition-flag": flag({"if": [ACTIVE, "on", "off"]}, state="DISABLED")})

    text = flagd_document(tree, [Admission("edition-flag", "enterprises/a")], [Enterprise("enterprises/a")])

    assert "enterprises/" not in text
    assert decision(engine(text), "edition-flag", "enterprises/a") == (False, None)


def test_document__is_the_same_text_for_the_same_input():
    """Order of what comes in does not show: a stream tells only real changes."""
    tree = document({"edition-flag": when(ACTIVE), "panel": when(SHARE)})
    records = [Admission("edition-flag", f"enterprises/{n}") for n in range(50)]
    enterprises = [Enterprise(f"enterprises/{n}") for n in range(50)]

    first = flagd_document(tree, records, enterprises)
    backwards = document(dict(reversed(tree["flags"]["flags"].items())))

    assert flagd_document(backwards, records[::-1], enterprises[::-1]) == first


def test_document__what_clients_know_stays_a_rule():
    """A rule that asks for both is half list, half rule; a client cannot pretend what is ours."""
    mobile = {"==": [{"var": "device"}, "mobile"]}
    tree = document(
        {"a": when({"and": [SHARE, mobile]}), "b": when(mobile), "c": when({"==": [{"var": "plan"}, "pro"]})}
    )
    enterprises = [
        Enterprise(f"enterprises/{n}", attributes={"plan": "pro"} if n % 3 else {}) for n in range(100)
    ]

    for device in ("mobile", "desk"):
        check(tree, [], enterprises, client={"device": device})
    told = engine(flagd_document(tree, [], enterprises))
    assert decision(told, "c", "enterprises/0", {"plan": "pro"}) == (False, "off")


def test_document__who_is_unknown_is_within_no_share():
    """Neither the low end of the buckets nor the high end takes in an enterprise that nobody told of."""
    tree = document({"low": when(SHARE), "high": when({">=": [{"var": ["bucket.panel", 10_000]}, 7_500]})})

    told = engine(flagd_document(tree, [], [Enterprise(f"enterprises/{number}") for number in range(20)]))

    for key in ("low", "high"):
        assert decision(told, key, "enterprises/unknown") == (False, "off")
        assert {decision(told, key, f"enterprises/{number}")[0] for number in range(20)} == {True, False}


def test_document__variants_of_all_kinds():
    """A rule may give the variant itself, none at all, or ask for the length of an attribute."""
    variants = {"small": False, "pro": True, "true": True, "false": False}
    tree = document(
        {
            "name": flag({"var": ["plan", "small"]}, variants=variants, default="small"),
            "bool": flag({"==": [{"var": "plan"}, "pro"]}, variants=variants, default="small"),
            "null": flag({"if": [SHARE, "pro", None]}, variants=variants, default="small"),
            "wrong": flag({"if": [SHARE, "none-such", "small"]}, variants=variants, default="small"),
            "length": flag({"if": [{"==": [{"var": "plan.length"}, 3]}, "pro", "small"]}, variants=variants, default="small"),
            "careful": flag({"var": "plan"}, variants=variants, default="true"),
        }
    )  # fmt: skip
    enterprises = [
        Enterprise(f"enterprises/{n}", attributes={"plan": "pro"} if n % 2 else {}) for n in range(60)
    ]

    check(tree, [], enterprises)


def test_document__a_rule_that_the_engine_fails_on_fails_at_the_client_too():
    """Nobody gets a value where a gateway has none."""
    compares = {"==": [{"var": ["plan", True]}, {"cat": ["p", {"var": ["verified", False]}]}]}
    tree = document(
        {
            "odd": when({"==": [{"var": ["plan", "x"]}, {"some": ["x", {"==": [{"var": ""}, 1]}]}]}),
            "c": when(compares),
        }
    )
    enterprises = [Enterprise("enterprises/a", attributes={"plan": "pro"}), Enterprise("enterprises/b")]

    check(tree, [], enterprises)


@pytest.mark.parametrize(
    "rule",
    [
        {"==": [{"var": {"cat": ["ver", "ified"]}}, True]},
        {"!!": {"var": ""}},
        {"!!": {"var": []}},
        {"!!": {"var": "admissions.edition"}},
        {"and": [{"var": "device"}, {"var": "admissions"}]},
        {"missing": ["plan", "device"]},
    ],
)
def test_document__what_cannot_be_told_is_left_out(rule):
    """A flag whose rule takes our context by more than one name, or that no gateway serves, is not there for flagd's engines."""
    tree = document({"odd": when(rule), "panel": when(SHARE)})

    told = engine(flagd_document(tree, [], [Enterprise("enterprises/a", attributes={"plan": "pro"})]))

    assert decision(told, "odd", "enterprises/a") == FlagNotFoundError().error_code
    assert decision(told, "panel", "enterprises/a")[1] in {"on", "off"}


def test_document__items_of_lists_are_not_ours():
    """Within some, all and none a variable is the item's, whatever its name."""
    tree = document(
        {
            "some": when({"some": [{"var": "parts"}, {"==": [{"var": ["plan", ""]}, "pro"]}]}),
            "ours": when({"some": [[{"var": "plan"}, "x"], {"==": [{"var": ""}, "pro"]}]}),
        }
    )
    enterprises = [Enterprise("enterprises/a", attributes={"plan": "pro"}), Enterprise("enterprises/b")]

    check(tree, [], enterprises, client={"parts": [{"plan": "pro"}]})
    check(tree, [], enterprises, client={"parts": [{"plan": "basic"}]})


def test_document__records_of_rollouts_that_are_gone_say_nothing():
    """An archived rollout's records may still be there when its flag is not."""
    tree = document({"panel": when(SHARE)})

    check(tree, [Admission("gone-flag", "enterprises/a")], [Enterprise("enterprises/a")])


_LEAVES = st.one_of(
    st.sampled_from(
        ["verified", "plan", "region", "device", "enterprise", "targetingKey", "admissions.edition.state"]
    ).flatmap(lambda name: st.sampled_from([{"var": name}, {"var": [name, ""]}, {"var": [name, "pro"]}])),
    st.builds(
        lambda operator, share: {operator: [{"var": ["bucket.panel", 10_000]}, share]},
        st.sampled_from(["<", ">="]),
        st.sampled_from([2_500, 7_500]),
    ),
    st.sampled_from([True, False, "pro", "eu", "ACTIVE", "enterprises/1"]),
)
_RULES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda operator, left, right: {operator: [left, right]},
            st.sampled_from(["==", "!=", "===", "and", "or", "in", "starts_with", "cat"]),
            inner,
            inner,
        ),
        st.builds(lambda operand: {"!": operand}, inner),
        st.builds(lambda *parts: {"if": list(parts)}, inner, inner, inner),
    ),
    max_leaves=8,
).filter(lambda rule: isinstance(rule, dict))


@given(rule=_RULES, plans=st.lists(st.sampled_from(["pro", "basic", None]), min_size=1, max_size=6))
def test_document__any_rule_means_the_same(rule, plans):
    """Whatever a rule mixes, lists and rest together decide as the rule did."""
    tree = document({"any": when(rule), "edition-flag": when({"and": [ACTIVE, rule]})})
    enterprises = [
        Enterprise(
            f"enterprises/{number}", verified=number % 2 == 0, attributes={"plan": plan, "region": "eu"} if plan else {}
        )
        for number, plan in enumerate(plans)
    ]  # fmt: skip
    records = [Admission("edition-flag", each.enterprise) for each in enterprises[::2]]

    check(tree, records, enterprises, client={"device": "pro"})
