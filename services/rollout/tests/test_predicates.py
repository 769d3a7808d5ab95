"""Predicates: what is absent admits nobody, whatever a rule says."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.rollout.predicates import MOST_DEPTH, MOST_NODES, OPERATORS, check_rule, holds, variables

_NAMES = ("verified", "plan", "risk", "tags", "account.age", "account.country")
_literals = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "partner", "1.2.0", ">="])
)
_named = st.sampled_from(_NAMES).map(lambda name: {"var": name})
_vars = _named | st.sampled_from(
    [
        {"var": ["bucket", 10_000]},
        {"var": ["risk"]},
        {"var": ["plan", None]},
        {"var": ["verified", False]},
        {"var": ""},
    ]
)


def _operations(children):
    operands = st.lists(children, max_size=3)
    return st.builds(
        lambda name, each: {name: each}, st.sampled_from(sorted(OPERATORS - {"var"})), operands | children
    )


_anything = st.recursive(
    _literals | _vars, lambda each: _operations(each) | st.lists(each, max_size=3), max_leaves=12
)
# Rules that like to say yes: most of what is drawn at random is false of anybody.
_rules = (
    _anything | _anything.map(lambda each: {"!": each}) | _anything.map(lambda each: {"or": [each, True]})
)
_attributes = st.fixed_dictionaries(
    {},
    optional={
        "verified": st.booleans() | st.none(),
        "plan": st.sampled_from(["partner", "enterprise"]),
        "risk": st.integers(-3, 3),
        "tags": st.lists(st.sampled_from(["a", "b", None])),
        "bucket": st.integers(0, 9999),
        "account": st.fixed_dictionaries({}, optional={"age": st.integers(0, 9), "country": st.just("cn")}),
    },
)


@st.composite
def _lacking(draw):
    """A rule that asks for something, and attributes without one of the things that it asks for."""
    rule, attributes = draw(_rules), draw(_attributes)
    if not variables(rule):
        rule = {"or": [rule, draw(_named)]}
    missing = draw(st.sampled_from(sorted(variables(rule))))
    return rule, _without(attributes, missing)


def _without(attributes, path):
    name, _, rest = path.partition(".")
    left = {key: value for key, value in attributes.items() if key != name}
    return left | {name: _without(attributes[name], rest)} if rest and name in attributes else left


@given(_lacking())
def test_holds__never_for_whom_a_needed_attribute_is_absent(lacking):
    """The trap of JsonLogic, where null is less than 5, is shut for every rule there is."""
    rule, attributes = lacking
    assert holds(rule, attributes) is False


@given(st.lists(_named, min_size=1, max_size=3), _anything, st.data())
def test_holds__no_longer_once_any_needed_attribute_is_taken_away(asked, rest, data):
    """Whoever is in by a rule is out as soon as one thing that the rule asks for is not known any more."""
    attributes = {
        "verified": True,
        "plan": "partner",
        "risk": 1,
        "tags": ["a"],
        "account": {"age": 1, "country": "cn"},
    }
    rule = {"!!": [{"or": [{"and": asked}, rest, True]}]}
    needed = sorted(variables(rule))
    assume(holds(rule, attributes))
    name = data.draw(st.sampled_from(needed))
    assert (
        holds(rule, {key: value for key, value in attributes.items() if key != name.split(".")[0]}) is False
    )


@given(
    _rules
    | st.recursive(_literals, lambda each: st.dictionaries(st.text(max_size=3), each) | st.lists(each)),
    _attributes,
)
def test_check__and_holds_never_raise(rule, attributes):
    """Rules come from people and from old databases."""
    assert isinstance(check_rule(rule, "eligible"), list)
    assert holds(rule, attributes) in (True, False)


@pytest.mark.parametrize(
    ("rule", "attributes", "outcome"),
    [
        ({"==": [{"var": "verified"}, True]}, {"verified": True}, True),
        ({"==": [{"var": "verified"}, True]}, {"verified": False}, False),
        ({"==": [{"var": "verified"}, True]}, {"verified": None}, False),
        ({"<": [{"var": "risk"}, 5]}, {"risk": 4}, True),
        ({"<": [{"var": "risk"}, 5]}, {}, False),
        ({"!": {"var": "blocked"}}, {}, False),
        ({"!": {"var": "blocked"}}, {"blocked": False}, True),
        ({"or": [True, {"var": "risk"}]}, {}, False),
        ({"<": [{"var": ["bucket", 10_000]}, 2500]}, {"bucket": 2499}, True),
        ({"<": [{"var": ["bucket", 10_000]}, 2500]}, {}, False),
        ({"<": [{"var": "account.age"}, 5]}, {"account": {"age": 3}}, True),
        ({"<": [{"var": "account.age"}, 5]}, {"account": {}}, False),
        ({"<": [{"var": "account.age"}, 5]}, {"account": 3}, False),
        ({"some": [{"var": "tags"}, {"==": [{"var": ""}, "a"]}]}, {"tags": ["b", "a"]}, True),
        ({"all": [{"var": "tags"}, {"<": [{"var": ""}, 5]}]}, {"tags": [1, None]}, False),
        ({"starts_with": [{"var": "plan"}, "enter"]}, {"plan": "enterprise"}, True),
        ({"sem_ver": [{"var": "app"}, ">=", "2.0.0"]}, {"app": "2.1.0"}, True),
        ({"var": "plan"}, {"plan": "enterprise"}, False),  # a text is no yes
        ({"var": "verified"}, {"verified": 1}, False),
        ({"fractional": [["on", 100]]}, {}, False),
        ({"unheard": [1]}, {}, False),
        ({"==": [[], 1, 2]}, {}, False),
        ({"<": ["a", {"cat": None}]}, {}, True),
        (True, {}, True),
        ([{"==": [1, 1]}], {}, False),
    ],
)
def test_holds__only_for_exactly_true(rule, attributes, outcome):
    """Rules hold as JsonLogic says, and never by an answer that only looks like a yes."""
    assert holds(rule, attributes) is outcome


def test_holds__not_when_the_engine_is_overwhelmed():
    """A rule that nests beyond the engine's stack holds for nobody."""
    rule = True
    for _ in range(100_000):
        rule = {"!!": [rule]}
    assert holds(rule, {}) is False
    assert check_rule(rule, "eligible")


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        ({"==": [1, 1]}, set()),
        ({"and": [{"var": "a"}, {"!": {"var": ["b.c"]}}]}, {"a", "b.c"}),
        ({"var": ["a", 0]}, set()),
        ({"var": ["a", None]}, {"a"}),
        ({"var": ["a", {"var": "b"}]}, {"a", "b"}),  # a default that may be null is none
        ({"var": {"var": "a"}}, {"", "a"}),
        ({"var": []}, {""}),
        ({"var": 1}, {""}),
        ({"none": [{"var": "tags"}, {"==": [{"var": ""}, "x"]}]}, {"tags"}),
        ({"none": [{"var": "tags"}, {"==": [{"var": "kind"}, "x"]}]}, {"tags", "kind"}),
    ],
)
def test_variables__are_those_without_a_default(rule, needed):
    """The attributes without which a rule holds for nobody."""
    assert variables(rule) == needed


def _nested(depth):
    rule = {"var": "a"}
    for _ in range(depth):
        rule = {"!": [rule]}
    return rule


@pytest.mark.parametrize(
    ("rule", "path", "words"),
    [
        (True, "eligible", "must be a predicate"),
        ([], "eligible", "must be a predicate"),
        ({}, "eligible", "exactly one operator"),
        ({"and": [True, {"a": 1, "b": 2}]}, "eligible.and[1]", "exactly one operator"),
        ({"map": [1]}, "eligible.map", "no operator that is allowed"),
        ({"!": {"missing": ["a"]}}, "eligible.!.missing", "no operator that is allowed"),
        ({"!": {"var": 1}}, "eligible.!.var", "the name of an attribute"),
        ({"!": [{"var": [{"var": "a"}]}]}, "eligible.![0].var", "the name of an attribute"),
        ({"!": {"var": ""}}, "eligible.!.var", "the name of an attribute"),
        ({"!": {"var": ["a", 1, 2]}}, "eligible.!.var", "the name of an attribute"),
        ({"!": {"var": ["a", None]}}, "eligible.!.var", "for its default"),
        ({"!": {"var": ["a", {"var": "b"}]}}, "eligible.!.var", "for its default"),
        ({"!": {"var": "bucket"}}, "eligible.!.var", "[bucket, 10000]"),
        ({"!": {"var": ["bucket", 0]}}, "eligible.!.var", "[bucket, 10000]"),
        ({"all": [{"var": "xs"}, {"!": {"var": "risk"}}]}, "eligible.all[1].!.var", "must have a default"),
        (_nested(MOST_DEPTH + 1), "eligible" + ".![0]" * (MOST_DEPTH + 1), "nests deeper"),
        ({"in": [{"var": "a"}, ["x"] * MOST_NODES]}, "eligible", "at most"),
    ],
)
def test_check__tells_where_and_what(rule, path, words):
    """Each mistake is told by its place in the rule."""
    (violation,) = check_rule(rule, "eligible")
    assert violation.field == path
    assert words in violation.description


@given(_rules)
def test_check__passes_only_rules_that_name_what_they_need(rule):
    """In a rule that is fit to be used, every variable has a name, so that its absence is noticed."""
    assume(not check_rule(rule, "eligible"))
    assert "" not in variables(rule)


def test_check__passes_rules_at_the_limit():
    """What is just within the limits is fine."""
    assert check_rule(_nested(MOST_DEPTH), "eligible") == []
    assert check_rule({"some": [{"var": "xs"}, {"<": [{"var": ["risk", 9]}, 5]}]}, "eligible") == []
