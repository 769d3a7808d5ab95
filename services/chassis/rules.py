"""
Rules of flags, in JsonLogic: which ones may be served, and what they cannot do without.

The engine reads what is absent as null, and null as 0: `bucket < 2500` is true for everybody who has no bucket. So rules
that could admit by such an accident, in any engine, are refused, by whoever writes flags and by whoever serves them; and
`needs` tells what must be there for a rule to be asked at all.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

OPERATORS = frozenset(
    {
        "and", "cat", "ends_with", "if", "in", "none", "or", "sem_ver", "some", "all", "starts_with", "substr", "var",
        "!", "!!", "!=", "!==", "==", "===", "<", "<=", ">", ">=",
    }
)  # fmt: skip
"""
What a rule may use. Not `fractional`, whose buckets have moved twice with the engine's version; and not `missing`, because
what is absent admits nobody.
"""
MOST_DEPTH = 60
MOST_VALUES = 20_000

_ORDERS = frozenset({"<", "<=", ">", ">="})
_OVER_ITEMS = frozenset({"all", "none", "some"})
"""These run their second operand on each item of a list, where variables are the item's."""
_NULL_ON_MISUSE = frozenset({"ends_with", "sem_ver", "starts_with"})


class BadRuleError(ValueError):
    """The rule may not be served: it is not JsonLogic of ours, or could be true by accident."""


def needs(rule: Any) -> frozenset[str]:
    """
    The variables without which a rule must not be asked: each `var` without a default, as a dotted path.

    Raises BadRuleError for operators that are not allowed, an order between values of which one may be null, names that are
    computed, and rules that nest deeper than `MOST_DEPTH` or have more than `MOST_VALUES`.
    """
    if sum(1 for _ in islice(_values(rule), MOST_VALUES + 1)) > MOST_VALUES:
        raise BadRuleError(f"has more than {MOST_VALUES} values")
    return frozenset(_needs(rule, depth=0, of_item=False))


def guarded(rule: Any, variants: Mapping[str, Any], default: object) -> Any:
    """
    The rule of a flag behind the question whether everything is there that it needs.

    If not, the flag is off: its default variant, and never true. Raises BadRuleError as `needs` does.
    """
    return {"if": [{"missing": sorted(needs(rule))}, _off(variants, default), rule]}


def _off(variants: Mapping[str, Any], default: object) -> str | None:
    """The variant for whom something is missing; None, for the engine: the default one."""
    name = str(default).lower() if isinstance(default, bool) else default
    if not isinstance(name, str) or variants.get(name) is not True:
        return None
    # Of one that is never false the engine finds no such variant, and gives the caller's default.
    return next((name for name, value in variants.items() if value is False), "")


def _values(rule: Any) -> Iterator[Any]:
    pending = [rule]
    while pending:
        value = pending.pop()
        yield value
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _needs(rule: Any, *, depth: int, of_item: bool) -> Iterator[str]:
    if depth > MOST_DEPTH:
        raise BadRuleError(f"nests deeper than {MOST_DEPTH}")
    if isinstance(rule, list):
        for each in rule:
            yield from _needs(each, depth=depth + 1, of_item=of_item)
    if not isinstance(rule, dict):
        return
    if len(rule) != 1:
        raise BadRuleError("has not exactly one operator in a place: the engine takes that for true")
    operator, operands = _split(rule)
    if operator not in OPERATORS:
        raise BadRuleError(f"uses {operator!r}, which is not allowed")
    if operator == "var":
        yield from _variable(operands, of_item=of_item)
        return
    if operator in _ORDERS and any(map(_may_be_null, operands)):
        raise BadRuleError("orders what may be null, which counts as 0: give its variables a default")
    for index, operand in enumerate(operands):
        inner = of_item or (operator in _OVER_ITEMS and index == 1)
        yield from _needs(operand, depth=depth + 1, of_item=inner)


def _split(rule: dict[str, Any]) -> tuple[str, list[Any]]:
    """Operator and operands; the engine takes a single operand without its list."""
    operator, value = next(iter(rule.items()))
    return operator, value if isinstance(value, list) else [value]


def _variable(operands: list[Any], *, of_item: bool) -> Iterator[str]:
    name, *default = operands or [None]
    if not isinstance(name, str) or len(default) > 1:
        raise BadRuleError("has a variable that is neither a name nor [name, default]")
    if default and not isinstance(default[0], bool | int | float | str):
        raise BadRuleError(f"has a default of {name} that is no text, number or boolean")
    if of_item:
        if name and not default:
            raise BadRuleError(f"asks items for {name} without a default")
    elif not name:
        raise BadRuleError("asks for the whole context")
    elif not default:
        yield name


def _may_be_null(operand: Any) -> bool:
    """Whether an operand can come out as null, or as a list, which counts as its only item."""
    if operand is None or isinstance(operand, list):
        return True
    if not isinstance(operand, dict) or len(operand) != 1:
        return False
    operator, operands = _split(operand)
    if operator == "var":
        return len(operands) < 2  # noqa: PLR2004 -- name and default
    if operator == "if":
        without_else = len(operands) % 2 == 0
        return without_else or any(map(_may_be_null, [*operands[1::2], operands[-1]]))
    if operator in {"and", "or"}:
        return not operands or any(map(_may_be_null, operands))
    return operator in _NULL_ON_MISUSE
