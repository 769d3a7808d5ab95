"""Whatever flags rollout takes from operators, gateways serve: one that they refused would hold up every later change."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.flags import Flag
from services.chassis.errors import ServiceError
from services.rollout.flags import parse

_OPERATORS = [
    "and",
    "or",
    "if",
    "==",
    "!=",
    "<",
    ">=",
    "in",
    "!",
    "cat",
    "substr",
    "starts_with",
    "sem_ver",
    "some",
    "none",
]
_LITERALS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "on", "ACTIVE", "plan"])
_NAMES = st.sampled_from(["plan", "verified", "bucket.panel", "admissions.edition.state", ""])
_VARIABLES = _NAMES.map(lambda name: {"var": name}) | st.tuples(_NAMES, _LITERALS).map(
    lambda pair: {"var": list(pair)}
)
_RULES = st.recursive(
    _LITERALS | _VARIABLES,
    lambda inner: (
        st.tuples(st.sampled_from(_OPERATORS), st.lists(inner, max_size=4)).map(
            lambda pair: {pair[0]: pair[1]}
        )
        | st.lists(inner, max_size=2)
    ),
    max_leaves=12,
)
_VARIANTS = st.sampled_from(
    [
        {"on": True, "off": False},
        {"on": "a", "off": "b"},
        {"on": 1, "off": 2.5},
        {"on": {}, "off": {"x": 1}},
        {"on": [], "off": []},
    ]
)


@settings(max_examples=500)
@given(
    rule=_RULES,
    variants=_VARIANTS,
    default=st.sampled_from(["on", "off"]),
    state=st.sampled_from(["ENABLED", "DISABLED"]),
)
def test_flags__that_rollout_takes_are_served(rule, variants, default, state):
    """Random rules, most of them wrong: what passes on one side passes on the other."""
    flag = {
        "state": state,
        "variants": variants,
        "defaultVariant": default,
        "targeting": {"if": [rule, "on", "off"]},
    }
    try:
        taken = parse(json.dumps({"flags": {"panel": flag}}))
    except ServiceError:
        return

    assert Flag("panel", taken["panel"]).kind
