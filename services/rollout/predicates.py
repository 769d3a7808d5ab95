"""
Predicates over enterprises, in JsonLogic: who is eligible, who is in a segment.

The engine reads an absent attribute as null, and null as 0: `risk < 5` would admit every enterprise whose risk nobody
knows. So a predicate here never holds for whom an attribute that it asks for is absent, whatever it says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from json_logic import jsonLogic
from openfeature.contrib.tools.flagd.core.targeting.targeting import OPERATORS as FLAGD_OPERATORS

from services.chassis.buckets import BUCKETS
from services.chassis.errors import FieldViolation

OPERATORS = frozenset(
    {
        "and", "cat", "ends_with", "if", "in", "none", "or", "sem_ver", "some", "all", "starts_with", "substr", "var",
        "!", "!!", "!=", "!==", "==", "===", "<", "<=", ">", ">=",
    }
)  # fmt: skip
"""
What a predicate may use. Not `fractional`, whose buckets have moved twice with the engine's version; and not `missing`,
because what is absent admits nobody.
"""
MOST_DEPTH = 30
MOST_NODES = 1000

_FUNCTIONS = {name: FLAGD_OPERATORS[name] for name in OPERATORS & FLAGD_OPERATORS.keys()}
_OVER_ITEMS = frozenset({"all", "none", "some"})
"""These run their second operand on each item of a list, where variables are the item's."""
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    ReferenceError,
    TypeError,
    ValueError,
)
"""What the engine, which checks nothing, stumbles with."""


def holds(rule: Any, attributes: Mapping[str, Any]) -> bool:
    """
    Whether the predicate holds for an enterprise. Never raises.

    False when an attribute that the rule asks for is absent or null, when the engine fails, and when it answers
    anything but true.
    """
    try:
        if not all(_has(attributes, path) for path in variables(rule)):
            return False
        return jsonLogic(rule, dict(attributes), _FUNCTIONS) is True
    except _FAILURES:
        return False


def variables(rule: Any) -> frozenset[str]:
    """
    The attributes without which the rule does not hold: each `var` that has no default, as a dotted path.

    A name that is computed, and the whole of the attributes, count as "", which nobody has.
    """
    return frozenset(_variables(rule, of_item=False))


def check_rule(rule: Any, field: str) -> list[FieldViolation]:
    """All that is wrong with a predicate, by the path of its place in it; nothing when it is fit to be used."""
    if not isinstance(rule, dict):
        return [FieldViolation(field, 'must be a predicate, as {"==": [{var: verified}, true]}')]
    if sum(1 for _ in _nodes(rule)) > MOST_NODES:
        return [
            FieldViolation(
                field, f"must have at most {MOST_NODES} values: name a segment's enterprises instead"
            )
        ]
    return list(_mistakes(rule, field, depth=0, of_item=False))


def _operands(value: Any) -> list[Any]:
    """The engine takes a single operand without its list."""
    return value if isinstance(value, list) else [value]


def _default(operands: list[Any]) -> Any:
    """The literal that stands in for an absent attribute; None when there is none that is sure not to be null."""
    default = operands[1] if len(operands) > 1 else None
    return default if isinstance(default, bool | int | float | str) else None


def _variables(rule: Any, *, of_item: bool) -> Iterator[str]:
    if isinstance(rule, list):
        for each in rule:
            yield from _variables(each, of_item=of_item)
    if not isinstance(rule, dict):
        return
    for operator, value in rule.items():
        operands = _operands(value)
        if operator == "var":
            name = operands[0] if operands else ""
            if not isinstance(name, str):
                yield ""
            elif _default(operands) is None and not (of_item and name == ""):
                yield name
        for index, operand in enumerate(operands):
            yield from _variables(operand, of_item=of_item or (operator in _OVER_ITEMS and index == 1))


def _has(attributes: Mapping[str, Any], path: str) -> bool:
    """Whether the engine finds something at `path`: not null, and no null within a list."""
    value: Any = dict(attributes)
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value is not None and not (isinstance(value, list) and any(each is None for each in value))


def _nodes(rule: Any) -> Iterator[Any]:
    pending = [rule]
    while pending:
        value = pending.pop()
        yield value
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _mistakes(rule: Any, field: str, *, depth: int, of_item: bool) -> Iterator[FieldViolation]:
    if depth > MOST_DEPTH:
        yield FieldViolation(field, f"nests deeper than {MOST_DEPTH}: name a segment for a part of it")
    elif isinstance(rule, list):
        for index, each in enumerate(rule):
            yield from _mistakes(each, f"{field}[{index}]", depth=depth + 1, of_item=of_item)
    elif isinstance(rule, dict):
        if len(rule) != 1:
            # The engine takes it for a literal, and that for true.
            yield FieldViolation(field, "must have exactly one operator: join several with and, or or")
            return
        operator, value = next(iter(rule.items()))
        operands, place = _operands(value), f"{field}.{operator}"
        if operator not in OPERATORS:
            yield FieldViolation(
                place, f"is no operator that is allowed: use one of {', '.join(sorted(OPERATORS))}"
            )
        elif operator == "var":
            yield from _mistakes_of_variable(operands, place, of_item=of_item)
        else:
            for index, operand in enumerate(operands):
                yield from _mistakes(
                    operand,
                    f"{place}[{index}]" if isinstance(value, list) else place,
                    depth=depth + 1,
                    of_item=of_item or (operator in _OVER_ITEMS and index == 1),
                )


def _mistakes_of_variable(operands: list[Any], place: str, *, of_item: bool) -> Iterator[FieldViolation]:
    name = operands[0] if operands else None
    if not isinstance(name, str) or len(operands) > 2 or (name == "" and not of_item):  # noqa: PLR2004 -- name, default
        yield FieldViolation(place, "must be the name of an attribute, or [name, default]")
    elif len(operands) > 1 and _default(operands) is None:
        yield FieldViolation(place, "must have a text, a number, true or false for its default")
    elif of_item and name and len(operands) == 1:
        yield FieldViolation(place, f'must have a default, as [{name}, ""]: an item may be without it')
    elif name.partition(".")[0] == "bucket" and operands[1:] != [BUCKETS]:
        yield FieldViolation(place, f"must be [{name}, {BUCKETS}]: without a bucket nobody is within a share")
