"""Ordinary flags, as people write them: flagd's format in JSON or YAML, and `percent` for a share of all enterprises. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]  # its stubs are a package that we do not have

from services.chassis.buckets import BUCKETS
from services.chassis.errors import FieldViolation, invalid, invalid_fields
from services.chassis.rules import BadRuleError, needs
from services.rollout.predicates import check_rule

MOST_FLAGS = 5000
MOST_YAML = 256 << 10
"""The most characters of YAML, which takes long to read; JSON may be as long as a request."""

_MOST_MISTAKES = 100
_KEY = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")
_STATES = ("ENABLED", "DISABLED")
_FIELDS = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata", "percent"})
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,2})?)%", re.ASCII)
_KINDS: tuple[type | tuple[type, ...], ...] = (bool, str, (int, float), dict, list)
_BOOLEAN = {"variants": {"on": True, "off": False}, "defaultVariant": "off"}
"""What a flag has that names no variants."""


def parse(text: str) -> dict[str, dict[str, Any]]:
    """
    The definitions in a document, by key, as they are served.

    Raises INVALID_ARGUMENT naming each mistake by its place, as `flags.new-panel.variants`.
    """
    tree = _read(text)
    flags = tree.get("flags") if isinstance(tree, dict) else None
    if not isinstance(flags, dict) or not flags:
        raise invalid("document", "must be a mapping, as flags: {new-panel: {percent: 25%}}")
    if len(flags) > MOST_FLAGS:
        raise invalid("document", f"must have at most {MOST_FLAGS} flags")
    mistakes = [mistake for key, flag in flags.items() for mistake in _mistakes(key, flag)]
    if mistakes:
        raise invalid_fields(mistakes[:_MOST_MISTAKES])
    return {key: _definition(key, flag) for key, flag in flags.items()}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML that says what JSON can: `on` is a text, a key stands there once, and no alias unfolds to gigabytes."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "has an alias (*): write the value out", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 -- PyYAML calls it so
        known = set()
        for key, _ in node.value:
            if key.value in known:
                raise yaml.constructor.ConstructorError(
                    None, None, f"has {key.value} twice: keep one", key.start_mark
                )
            known.add(str(key.value))
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"-?(?:0|[1-9]\d{0,14})", "-0123456789"),
    ("float", r"-?(?:0|[1-9]\d{0,14})\.\d{1,15}", "-0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _read(text: str) -> Any:
    """What a text says, in values of JSON that can be stored. Raises INVALID_ARGUMENT."""
    try:
        try:
            tree = json.loads(text, object_pairs_hook=_once_each)
        except json.JSONDecodeError:
            if len(text) > MOST_YAML:
                raise invalid("document", f"must be JSON, or YAML of at most {MOST_YAML >> 10} KiB") from None
            tree = yaml.load(text, _Loader)  # noqa: S506 -- a SafeLoader
        # What JSON allows and PostgreSQL does not: NUL, halves of characters, and numbers without end.
        stored = json.dumps(tree, allow_nan=False, ensure_ascii=False).encode()
        if b"\\u0000" in stored:
            raise invalid("document", "must not have the character NUL")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise invalid("document", f"line {mark.line + 1}: {error.problem}") from None
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise invalid("document", "must be JSON or YAML with values that JSON has") from None
    return tree


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid("document", f"has {twice} twice: keep one")
    return found


def _definition(key: str, flag: Mapping[str, Any]) -> dict[str, Any]:
    written = {name: value for name, value in flag.items() if name != "percent"}
    definition = {"state": "ENABLED", **({} if "variants" in flag else _BOOLEAN), **written}
    if "percent" in flag:
        # The default is what keeps an enterprise without a bucket out: the engine takes nothing for a small number.
        inside = {"<": [{"var": [f"bucket.{key}", BUCKETS]}, _basis_points(flag["percent"])]}
        definition["targeting"] = {"if": [inside, "on", "off"]}
    return definition


def _basis_points(percent: str) -> int:
    matched = _PERCENT.fullmatch(percent)
    return round(float(matched[1]) * 100) if matched else -1


def _mistakes(key: Any, flag: Any) -> Iterator[FieldViolation]:
    field = f"flags.{key}"
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        yield FieldViolation("flags", f"{key!r} must be a key of letters, digits, dots and hyphens")
        return
    if not isinstance(flag, dict):
        yield FieldViolation(field, "must be a mapping")
        return
    for unknown in sorted(map(str, flag.keys() - _FIELDS)):
        yield FieldViolation(f"{field}.{unknown}", f"is not known; a flag has {', '.join(sorted(_FIELDS))}")
    if flag.get("state", "ENABLED") not in _STATES:
        yield FieldViolation(f"{field}.state", "must be ENABLED or DISABLED")
    yield from _variant_mistakes(field, flag)
    if "percent" in flag:
        share = flag["percent"]
        if not isinstance(share, str) or not 0 <= _basis_points(share) <= BUCKETS:
            yield FieldViolation(f"{field}.percent", "must be a share as 25% or 0.5%")
        if "targeting" in flag or "variants" in flag:
            yield FieldViolation(f"{field}.percent", "stands for variants and targeting: leave them out")
        if "." in key:
            yield FieldViolation(
                f"{field}.percent", "needs a key without dots, which name the parts of a path"
            )
    rule = flag.get("targeting", {})
    if rule != {}:
        yield from check_rule(rule, f"{field}.targeting") or _accidents(rule, f"{field}.targeting")
    metadata = flag.get("metadata", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(each, str | int | float | bool) for each in metadata.values()
    ):
        yield FieldViolation(f"{field}.metadata", "must be a mapping of texts, numbers and booleans")


def _accidents(rule: Any, field: str) -> Iterator[FieldViolation]:
    """What gateways would refuse, and with it the whole snapshot: a rule that could be true by accident."""
    try:
        needs(rule)
    except BadRuleError as error:
        yield FieldViolation(field, str(error))


def _variant_mistakes(field: str, flag: Mapping[str, Any]) -> Iterator[FieldViolation]:
    variants = flag.get("variants", _BOOLEAN["variants"])
    if not isinstance(variants, dict) or not variants or not all(isinstance(name, str) for name in variants):
        yield FieldViolation(f"{field}.variants", "must name at least one variant, as {on: true, off: false}")
        return
    if not any(all(_is(value, kind) for value in variants.values()) for kind in _KINDS):
        yield FieldViolation(f"{field}.variants", "must all be of one type")
    default = flag.get("defaultVariant", None if "variants" in flag else "off")
    if not isinstance(default, str) or default not in variants:
        yield FieldViolation(f"{field}.defaultVariant", f"must be one of {', '.join(variants)}")


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
