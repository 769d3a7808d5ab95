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
from services.chassis.rules import BadRuleError, guarded

SCHEMA = "https://flagd.dev/schema/v0/flags.json"

_OVER_ITEMS = frozenset({"all", "none", "some"})
"""These run their second operand on each item of a list, where variables are the item's."""
_NOBODY = "enterprises/-"
"""A name that nobody can have."""
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

    The same input gives the same text. A flag whose rule cannot be told to such an engine, because it takes all admissions
    at once, say, is left out: for whoever asks, it is not there.

    Args:
        document: the snapshot that gateways serve from; docs/rollouts.md describes it.
        records: all admission records.
        enterprises: all enterprises; one that has a record and is not among them is treated as not verified.
    """
    compiler = _Compiler(document, records, enterprises)
    flags = {}
    for key, flag in sorted(document["flags"]["flags"].items()):
        told = {name: value for name, value in flag.items() if name != "targeting"}
        # A flag that is off for everybody needs no rule, and the lists in it are the longest part of the document.
        if flag.get("targeting") and flag["state"] != "DISABLED":
            try:
                rule = _guarded(flag)
                # Who is in is asked without what a client says of itself.
                compiled = compiler.settle(rule) if key in document["rollouts"] else compiler.compile(rule)
            except (BadRuleError, _CannotTellError):
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


def _guarded(flag: Mapping[str, Any]) -> Any:
    """
    The flag's rule as a gateway has it, but that it names the default variant where it means it.

    The reason is another then, and the document much shorter: whoever lacks something and whoever is off are one.
    """
    default = flag.get("defaultVariant")
    rule = guarded(flag["targeting"], flag["variants"], default)
    missing, off, asked = rule["if"]
    return {"if": [missing, default if off is None and isinstance(default, str) else off, asked]}


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
            context["enterprise"] = context["targetingKey"] = enterprise
        self._nobody = {**nobody, "enterprise": _NOBODY, "targetingKey": _NOBODY}
        self._contexts = sorted(contexts.items())
        self._ours = {"verified", "bucket", "admissions", *attributes} - {"enterprise", "targetingKey"}
        self._lists: dict[tuple[str, ...], dict[str, str]] = {}
        self.evaluators: dict[str, Any] = {}

    def settle(self, rule: Any) -> Any:
        """A table for the whole rule: clients' own knowledge counts for nothing. Raises _CannotTellError."""
        try:
            return self._table(rule, sorted(set(_paths(rule))))
        except _FAILURES:
            raise _CannotTellError from None

    def compile(self, rule: Any) -> Any:
        """The same rule over the targeting key and what clients themselves know. Raises _CannotTellError."""
        if isinstance(rule, list):
            return [self.compile(each) for each in rule]
        if not isinstance(rule, dict) or len(rule) != 1:
            return rule  # a literal, for the engine too
        paths = sorted(set(_paths(rule)))
        ours = [path for path in paths if path.partition(".")[0] in self._ours]
        if paths and ours == paths:
            try:
                return self._table(rule, paths)
            except _FAILURES:
                pass  # for some enterprise the engine fails here: it is to fail for that one at the client too
        operator, operands = _split(rule)
        match operator:
            case "var" if ours:
                raise _CannotTellError
            case "var":
                return {"var": [_at_client(operands[0]), *operands[1:]]}
            case "missing":
                # Made by `guarded`, which asks whether anything is.
                theirs = {"missing": [_at_client(path) for path in paths if path not in ours]}
                return {"or": [self.settle({"!!": {"missing": ours}}), theirs]} if ours else theirs
            case _ if operator in _OVER_ITEMS:
                return {operator: [*self.compile(operands[:1]), *operands[1:]]}
            case _:
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
    """The names that a rule of ours asks for, as dotted paths; in the predicates over items they are the items'."""
    if isinstance(rule, list):
        for each in rule:
            yield from _paths(each)
    if not isinstance(rule, dict) or len(rule) != 1:
        return
    operator, operands = _split(rule)
    match operator:
        case "var":
            yield operands[0]
        case "missing":
            yield from operands
        case _:
            yield from _paths(operands[:1] if operator in _OVER_ITEMS else operands)


def _split(rule: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Operator and operands; the engine takes a single operand without its list."""
    operator, value = next(iter(rule.items()))
    return operator, value if isinstance(value, list) else [value]


def _at_client(path: str) -> str:
    """The name under which a client has what is at `path`: it knows the enterprise as its targeting key."""
    return "targetingKey" if path == "enterprise" else path
