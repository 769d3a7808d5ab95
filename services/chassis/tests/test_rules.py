"""Rules that may be served, and what they cannot do without."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.rules import MOST_DEPTH, MOST_VALUES, BadRuleError, needs


def nested(levels):
    rule = {"var": "x"}
    for _ in range(levels):
        rule = {"!": rule}
    return rule


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        ({"==": [{"var": "admissions.edition.state"}, "ACTIVE"]}, {"admissions.edition.state"}),
        ({"<": [{"var": ["bucket.panel", 10000]}, 2500]}, set()),
        ({"and": [{"var": "a"}, {"or": [{"!": [{"var": ["b"]}]}, {"!": {"var": "c"}}]}]}, {"a", "b", "c"}),
        ({"in": [{"if": [{"==": [{"var": "a"}, 1]}, "on", "off"]}, ["on"]]}, {"a"}),
        ({"some": [{"var": "list"}, {"==": [{"var": ""}, {"var": ["field", ""]}]}]}, {"list"}),
        ({"<": [{"if": [{"var": "a"}, 1, {"var": ["b", 2]}]}, {"and": [3, 4]}]}, {"a"}),
        (True, set()),
        (nested(MOST_DEPTH), {"x"}),
    ],
)
def test_needs__variables_without_a_default(rule, needed):
    """What has a default is not needed, nor what belongs to the items of a list."""
    assert needs(rule) == needed


@pytest.mark.parametrize(
    "rule",
    [
        # null counts as 0
        {"<": [{"var": "bucket"}, 2500]},
        {"<": [{"var": ["bucket"]}, 2500]},
        {">=": [2500, {"var": "bucket"}]},
        {"<": [0, {"var": "bucket"}, 2500]},
        {"<": [None, 5]},
        {"<": [[{"var": "bucket"}], 5]},
        {"<": [{"if": [{"var": ["a", 1]}, {"var": "bucket"}, 3]}, 5]},
        {"<": [{"if": [{"var": ["a", 1]}, 3]}, 5]},
        {"<": [{"if": []}, 5]},
        {"<": [{"and": [True, {"var": "bucket"}]}, 5]},
        {"<": [{"or": []}, 5]},
        {"<": [{"starts_with": [{"var": ["a", 1]}, "x"]}, 5]},
        {"some": [{"var": "list"}, {"<": [{"var": ""}, 5]}]},
        {"if": [{"and": [True, {"<": [{"var": "bucket"}, 2500]}]}, "on", "off"]},
        # asked of nobody knows whom
        {"var": {"cat": ["a", "b"]}},
        {"var": 1},
        {"var": []},
        {"var": ""},
        {"var": ["a", None]},
        {"var": ["a", {"var": "b"}]},
        {"var": ["a", 1, 2]},
        {"none": [{"var": "list"}, {"==": [{"var": "field"}, 1]}]},
        # other operators, and literals that the engine takes for true
        {"fractional": [["on", 25], ["off", 75]]},
        {"missing": ["a"]},
        {"log": "x"},
        {"if": [{"$ref": "segment"}, "on", "off"]},
        {"if": [{"==": [1, 2], "!=": [1, 2]}, "on", "off"]},
        {"if": [{}, "on", "off"]},
        nested(MOST_DEPTH + 1),
        {"in": [{"var": "enterprise"}, ["x"] * MOST_VALUES]},
    ],
)
def test_needs__refuses_what_could_be_true_by_accident(rule):
    """Each of these would admit somebody of whom nothing is known, in one engine or another, or never end."""
    with pytest.raises(BadRuleError):
        needs(rule)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["var", "<", "if", "and", "some", "x"]), inner, max_size=2)
        ),
        max_leaves=20,
    )
)
def test_needs__any_json(rule):
    """Whatever is written comes out as names or as a BadRuleError."""
    with suppress(BadRuleError):
        assert all(isinstance(name, str) and name for name in needs(rule))
