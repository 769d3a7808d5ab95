"""Flags that nothing missing can turn on."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from json_logic import jsonLogic
from openfeature.contrib.tools.flagd.core.targeting.targeting import OPERATORS
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import Reason

from gateway.flags import BadFlagError, Flag
from gateway.tests.snapshots_made import flag
from services.chassis.rules import MOST_VALUES, BadRuleError, needs


def resolve(definition, attributes, *, default=False, kind="boolean"):
    return Flag("f", definition).resolve(kind, default, EvaluationContext("enterprises/x", attributes))


# --- what is missing is off, whatever the rule says

_PATHS = ["plan", "verified", "bucket.panel", "admissions.edition.state", "risk", "targetingKey"]
_LITERALS = (
    st.sampled_from(["ACTIVE", "enterprise", "on", "", "1.2.3"])
    | st.integers(-3, 3)
    | st.booleans()
    | st.none()
)
_VARIABLES = st.sampled_from(_PATHS).map(lambda path: {"var": path}) | st.tuples(
    st.sampled_from(_PATHS), _LITERALS
).map(lambda pair: {"var": list(pair)})


def _compound(inner):
    operators = ["and", "or", "if", "==", "!=", "===", "!==", "<", "<=", ">", ">=", "in", "!", "!!", "cat"]
    operators += ["substr", "starts_with", "ends_with", "sem_ver", "some", "all", "none"]
    return st.tuples(st.sampled_from(operators), st.lists(inner, min_size=1, max_size=4)).map(
        lambda pair: {pair[0]: pair[1]}
    )


_RULES = st.recursive(_LITERALS | _VARIABLES | st.lists(_LITERALS, max_size=2), _compound, max_leaves=12)
_WHOLE = {
    "plan": "enterprise",
    "verified": True,
    "bucket": {"panel": 100},
    "admissions": {"edition": {"state": "ACTIVE"}},
    "risk": 2,
}


def without(absent):
    """The whole context but for some paths."""
    context = json.loads(json.dumps(_WHOLE))
    for path in absent:
        *parents, name = path.split(".")
        place = context
        for parent in parents:
            place = place.get(parent, {})
        place.pop(name, None)
    return context


def has(context, path):
    value = context
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value not in (None, "")


@given(
    condition=_RULES,
    absent=st.sets(
        st.sampled_from(["plan", "verified", "bucket", "bucket.panel", "admissions", "risk", *_PATHS])
    ),
    targeting_key=st.sampled_from(["enterprises/x", "", None]),
    default_variant=st.sampled_from(["on", "off"]),
)
def test_flag__is_on_only_when_its_rule_is_and_all_is_there(
    condition, absent, targeting_key, default_variant
):
    """
    The trap of null: no random rule admits by the absence of anything that it asks for.

    Either the rule is refused; or what it needs is there, and then the rule itself says on (or nothing, of a flag that is on
    by default); or the flag is off.
    """
    rule = {"if": [condition, "on", "off"]}
    try:
        needed = needs(rule)
    except BadRuleError:
        assume(False)
    context = without(absent)
    definition = {**flag(rule), "defaultVariant": default_variant}

    details = Flag("f", definition).resolve("boolean", False, EvaluationContext(targeting_key, context))

    known = {**context, "targetingKey": targeting_key}
    if all(has(known, path) for path in needed):
        if details.value is True:
            assert jsonLogic(rule, known, OPERATORS) == "on"
    else:
        assert details.value is False


@pytest.mark.parametrize("operator", ["<", "<=", "==", "!=", "!==", "!", "in"])
def test_flag__without_a_bucket(operator):
    """The trap itself: with a default an order is fine, without one each operator but an order is off."""
    literal = [["x"]] if operator == "in" else [2500]
    with_default = flag({"if": [{operator: [{"var": ["bucket.panel", 10000]}, 2500]}, "on", "off"]})
    if operator in {"<", "<="}:
        assert resolve(with_default, {"bucket": {"panel": 100}}).value is True
        assert resolve(with_default, {"bucket": {}}).value is False
        with pytest.raises(BadFlagError):
            Flag("f", flag({"if": [{operator: [{"var": "bucket.panel"}, 2500]}, "on", "off"]}))
    else:
        bare = flag({"if": [{"!": [{operator: [{"var": "bucket.panel"}, *literal]}]}, "on", "off"]})
        negated = flag({"if": [{operator: [{"var": "bucket.panel"}, *literal]}, "on", "off"]})
        assert resolve(bare, {}).value is False
        assert resolve(negated, {}).value is False


def test_flag__what_is_missing_of_one_that_is_on_by_default():
    """Its variant that is false; or, where there is none, the caller's default."""
    rule = {"if": [{"==": [{"var": "region"}, "cn"]}, "off", "on"]}

    two = resolve({**flag(rule), "defaultVariant": "on"}, {}, default=True)
    one = resolve({**flag(rule), "defaultVariant": "on", "variants": {"on": True}}, {}, default=False)

    assert (two.value, two.variant) == (False, "off")
    assert (one.value, one.reason) == (False, Reason.ERROR)
    assert resolve({**flag(rule), "defaultVariant": "on"}, {"region": "us"}).value is True


def test_flag__what_is_missing_of_another_type():
    """Its default variant, with a reason that says so."""
    definition = {
        "state": "ENABLED",
        "variants": {"high": 9, "low": 1},
        "defaultVariant": "low",
        "targeting": {"if": [{"==": [{"var": "plan"}, "enterprise"]}, "high", "low"]},
    }

    assert resolve(definition, {"plan": "enterprise"}, default=0, kind="integer").value == 9
    missing = resolve(definition, {}, default=0, kind="integer")
    assert (missing.value, missing.variant, missing.reason) == (1, "low", Reason.DEFAULT)


# --- what a flag is


@pytest.mark.parametrize(
    ("variants", "kind", "nothing"),
    [
        ({"on": True, "off": False}, "boolean", False),
        ({"a": "x"}, "string", ""),
        ({"a": 1, "b": 2}, "integer", 0),
        ({"a": 1, "b": 2.5}, "float", 0.0),
        ({"a": {"x": 1}, "b": []}, "object", {}),
        ({"a": 1, "b": True}, "object", {}),
    ],
)
def test_flag__kind(variants, kind, nothing):
    """The type of its values, for callers that name none."""
    made = Flag("f", {"state": "ENABLED", "variants": variants, "defaultVariant": "a"})

    assert (made.kind, made.nothing) == (kind, nothing)


def test_flag__asks_for_the_time():
    """Then its value does not last."""
    timed = {"if": [{">": [{"var": ["$flagd.timestamp", 0]}, 1]}, "on", "off"]}

    assert not Flag("f", flag(timed)).lasting
    assert Flag("f", flag()).lasting
    assert resolve(flag(timed), {}).value is True


@pytest.mark.parametrize(
    "definition",
    [
        None,
        [],
        {},
        {"state": "ENABLED"},
        {"state": "ENABLED", "variants": {}},
        {"state": "ENABLED", "variants": []},
        {"state": "MAYBE", "variants": {"on": True}},
        {"variants": {"on": True}},
        {**flag(), "unknown": 1},
        {**flag(), "defaultVariant": 5},
        {**flag(), "metadata": {"x": None}},
        flag(targeting={"fractional": [["on", 25], ["off", 75]]}),
        flag(targeting=[{"if": [True, "on", "off"]}, {"log": 1}]),
        flag(targeting={"in": ["x", [*["y"] * MOST_VALUES]]}),
    ],
)
def test_flag__refused(definition):
    """What flagd's engine refuses, and what we do."""
    with pytest.raises(BadFlagError):
        Flag("f", definition)


def test_resolve__a_rule_that_stumbles():
    """The engine's own failures come out as the default with an error code."""
    odd = flag({"if": [{"==": [{"var": "a"}, {"var": "b"}]}, "on", "off"]})

    details = resolve(odd, {"a": {"x": 1}, "b": object()})
    no_variant = resolve(flag({"cat": ["wh", "at"]}), {})
    wrong_type = resolve(
        flag(), {"admissions": {"enterprise-edition": {"state": "ACTIVE"}}}, default="x", kind="string"
    )

    assert [(each.value, each.reason) for each in (details, no_variant, wrong_type)] == [
        (False, Reason.ERROR),
        (False, Reason.ERROR),
        ("x", Reason.ERROR),
    ]
