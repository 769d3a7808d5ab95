"""
The flagd document: our flags for engines that know nothing of an enterprise but its name, with admissions compiled in.

A gateway evaluates rules over what the rollout service knows of an enterprise: its admissions, buckets, attributes. A flagd
provider has only what its own program gives it. So each part of a rule that asks for something only we know becomes a list of
the enterprises for which it holds, and everything else stays a rule. An enterprise that is on no list is what an unknown one
is at a gateway: not verified, without attributes and admissions. But its buckets are unknown here, and within no share, at
whichever end of the scale.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from json_logic import jsonLogic
from openfeature.contrib.tools.flagd.core.targeting.targeting import OPERATORS

from services.chassis.buckets import bucket_of

SCHEMA = "https://flagd.dev/schema/v0/flags.json"

_OVER_ITEMS = frozenset({"all", "filter", "map", "none", "reduce", "some"})
"""These run their second operand on each item of a list, where variables are the item's."""
_FAILURES = (ArithmeticError, AttributeError, LookupError, ReferenceError, TypeError, ValueError)
"""What the engine, which checks nothing, stumbles with."""


class AdmissionRecord(Protocol):
    """Where an enterprise stands for a flag, as gateways are told."""

    @property
    def flag(self) -> str: ...
    @property
    def enterprise(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def stage(self) -> str: ...


class EnterpriseRecord(Protocol):
    """What rules may ask of an enterprise, as gateways are told."""

    @property
    def enterprise(self) -> str: ...
    @property
    def verified(self) -> bool: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


def flagd_document(
    document: Mapping[str, Any],
    records: Iterable[AdmissionRecord],
    enterprises: Iterable[EnterpriseRecord],
) -> str:
    """
    The flagd document (JSON) by which any flagd engine decides as a gateway does, given the enterprise as targeting key.

    The same input gives the same text. A flag whose rule cannot be told to such an engine, because it computes the names of
    what it asks for, is left out: for whoever asks, it is not there.

    Args:
        document: the snapshot that gateways serve from; docs/rollouts.md describes it.
        records: all admission records.
        enterprises: all enterprises; one that has a record and is not among them is treated as not verified.
    """
    compiler = _Compiler(document, records, enterprises)
    flags = {}
    for key, flag in sorted(document["flags"]["flags"].items()):
        told = {name: value for name, value in flag.items() if name != "targeting"}
        rule = flag.get("targeting")
        # A flag that is off for everybody needs no rule, and the lists in it are the longest part of the document.
        if rule and flag["state"] != "DISABLED":
            try:
                compiled = compiler.compile(rule)
            except _CannotTellError:
                continue
            told["targeting"] = compiled if isinstance(compiled, dict) else {"if": [True, compiled]}
        flags[key] = told
    tree = {
        "$schema": SCHEMA,
        "metadata": {"version": document["version"]},
        "flags": flags,
        "$evaluators": compiler.evaluators,
    }
    return json.dumps(tree, separators=(",", ":"))


class _CannotTellError(Exception):
    """The rule cannot be said in terms of lists."""


class _Compiler:
    """
    Compiles rules, and gathers the lists that they refer to: each once, however many flags need it.

    Attributes:
        evaluators: the lists as rules by name, for `$ref`.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        records: Iterable[AdmissionRecord],
        enterprises: Iterable[EnterpriseRecord],
    ) -> None:
        rollouts = {flag: entry["rollout"] for flag, entry in document["rollouts"].items()}
        outside = {rollout: {"state": "NONE", "stage": ""} for rollout in rollouts.values()}
        # No number is less than NaN, nor greater.
        unknown = dict.fromkeys(document["buckets"], math.nan)
        nobody: dict[str, Any] = {"verified": False, "bucket": unknown, "admissions": outside}
        contexts: dict[str, dict[str, Any]] = {}
        attributes: set[str] = set()
        for each in enterprises:
            attributes.update(each.attributes)
            contexts[each.enterprise] = {**each.attributes, **nobody, "verified": each.verified}
        for record in records:
            if record.flag in rollouts:
                context = contexts.setdefault(record.enterprise, dict(nobody))
                admission = {"state": record.state, "stage": record.stage}
                context["admissions"] = {**context["admissions"], rollouts[record.flag]: admission}
        for enterprise, context in contexts.items():
            context["bucket"] = {
                name: bucket_of(salt, enterprise) for name, salt in document["buckets"].items()
            }
        self._nobody = nobody
        self._contexts = sorted(contexts.items())
        self._ours = {"verified", "bucket", "admissions", *attributes} - {"enterprise", "targetingKey"}
        self._lists: dict[tuple[str, ...], dict[str, str]] = {}
        self.evaluators: dict[str, Any] = {}

    def compile(self, rule: Any) -> Any:
        """The same rule over the targeting key and what clients themselves know. Raises _CannotTellError."""
        if isinstance(rule, list):
            return [self.compile(each) for each in rule]
        if not isinstance(rule, dict) or len(rule) != 1:
            return rule  # a literal, for the engine too
        paths = sorted(set(_paths(rule)))
        ours = [path.partition(".")[0] in self._ours for path in paths]
        if any(ours) and all(ours):
            try:
                return self._table(rule, paths)
            except _FAILURES:
                pass  # for some enterprise the engine fails here: it is to fail for that one at the client too
        operator, value = next(iter(rule.items()))
        operands = value if isinstance(value, list) else [value]
        if operator == "var" and not any(ours):
            return {"var": ["targetingKey" if operands[0] == "enterprise" else operands[0], *operands[1:]]}
        if operator in {"var", "missing", "missing_some"}:
            if any(ours):
                raise _CannotTellError
            return rule
        if operator in _OVER_ITEMS:
            return {operator: [*self.compile(operands[:1]), *operands[1:]]}
        return {operator: [self.compile(operand) for operand in operands]}

    def _table(self, rule: Any, paths: Sequence[str]) -> Any:
        """
        The rule's value as a table: a list of enterprises for each value that differs from an unknown enterprise's.

        Raises one of _FAILURES when the engine fails for some enterprise, or the value is no plain one.
        """
        otherwise = jsonLogic(rule, self._nobody, OPERATORS)
        answers: dict[tuple[Any, ...], Any] = {}
        groups: dict[tuple[type, Any], list[str]] = {}
        for enterprise, context in self._contexts:
            asked = tuple(OPERATORS["var"](context, path) for path in paths)
            if asked not in answers:
                answers[asked] = jsonLogic(rule, context, OPERATORS)
            answer = answers[asked]
            groups.setdefault((type(answer), answer), []).append(enterprise)
        groups.pop((type(otherwise), otherwise), None)
        cases = [part for (_, answer), who in groups.items() for part in (self._among(who), answer)]
        return {"if": [*cases, otherwise]} if cases else otherwise

    def _among(self, enterprises: Iterable[str]) -> dict[str, str]:
        """The rule that asks whether the targeting key is one of these."""
        names = tuple(enterprises)
        if names not in self._lists:
            name = f"list-{len(self._lists) + 1}"
            self._lists[names] = {"$ref": name}
            self.evaluators[name] = {"in": [{"var": ["targetingKey", ""]}, list(names)]}
        return self._lists[names]


def _paths(rule: Any) -> Iterator[str]:
    """The names that a rule asks for, as dotted paths. Raises _CannotTellError when it computes one."""
    if isinstance(rule, list):
        for each in rule:
            yield from _paths(each)
    if not isinstance(rule, dict) or len(rule) != 1:
        return
    operator, value = next(iter(rule.items()))
    operands = value if isinstance(value, list) else [value]
    match operator:
        case "var":
            yield from _names(operands[:1] or [""])
            yield from _paths(operands[1:])
        case "missing":
            yield from _names(operands)
        case "missing_some":
            yield from _names(operands[1] if len(operands) > 1 else [])
        case _:
            yield from _paths(operands[:1] + operands[2:] if operator in _OVER_ITEMS else operands)


def _names(operands: Any) -> Iterator[str]:
    if not isinstance(operands, list):
        raise _CannotTellError
    for name in operands:
        if not isinstance(name, str) or not name:
            raise _CannotTellError
        yield name
