"""Ordinary flags, as people write them: flagd's format in JSON or YAML, and `percent` for a share of all enterprises. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package that we do not have

from services.chassis.buckets import BUCKETS
from services.chassis.errors import FieldViolation, Kind, ServiceError
from services.rollout.predicates import check_rule

MOST_FLAGS = 5000
_KEY = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")
_STATES = frozenset({"ENABLED", "DISABLED"})
_FIELDS = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata", "percent"})
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,2})?)%")
_KINDS: tuple[type | tuple[type, ...], ...] = (bool, str, (int, float), dict, list)


def parse(text: str) -> dict[str, dict[str, Any]]:
    """
    The definitions in a document, by key, as they are served.

    Raises INVALID_ARGUMENT naming each mistake by its place, as `flags.new-panel.variants`.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _wrong(
            [FieldViolation("document", f"line {mark.line + 1 if mark else 1}: is neither JSON nor YAML")]
        ) from None
    except (ValueError, RecursionError):
        raise _wrong(
            [FieldViolation("document", "holds a value that is none, or nests too deeply")]
        ) from None
    flags = tree.get("flags") if isinstance(tree, dict) else None
    if not isinstance(flags, dict) or not flags:
        raise _wrong([FieldViolation("document", "must be a mapping with `flags: {key: {...}}`")])
    if len(flags) > MOST_FLAGS:
        raise _wrong([FieldViolation("document", f"must have at most {MOST_FLAGS} flags")])
    mistakes = [mistake for key, flag in flags.items() for mistake in _mistakes(key, flag)]
    if mistakes:
        raise _wrong(mistakes)
    return {key: _definition(key, flag) for key, flag in flags.items()}


def _definition(key: str, flag: Mapping[str, Any]) -> dict[str, Any]:
    written = {name: value for name, value in flag.items() if name != "percent"}
    boolean = {"variants": {"on": True, "off": False}, "defaultVariant": "off"}
    definition = {"state": "ENABLED", **({} if "variants" in flag else boolean), **written}
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
    if unknown := sorted(map(str, flag.keys() - _FIELDS)):
        yield FieldViolation(
            f"{field}.{unknown[0]}", f"is not known; a flag has {', '.join(sorted(_FIELDS))}"
        )
    if flag.get("state", "ENABLED") not in _STATES:
        yield FieldViolation(f"{field}.state", "must be ENABLED or DISABLED")
    yield from _variant_mistakes(field, flag)
    if "percent" in flag:
        share = flag["percent"]
        if not isinstance(share, str) or not 0 <= _basis_points(share) <= BUCKETS:
            yield FieldViolation(f"{field}.percent", "must be a share as 25% or 0.5%")
        if "targeting" in flag or "variants" in flag:
            yield FieldViolation(f"{field}.percent", "stands for variants and targeting: leave them out")
    rule = flag.get("targeting") or {}
    yield from check_rule(rule, f"{field}.targeting") if rule != {} else ()
    metadata = flag.get("metadata", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(each, str | int | float | bool) for each in metadata.values()
    ):
        yield FieldViolation(f"{field}.metadata", "must be a mapping of texts, numbers and booleans")


def _variant_mistakes(field: str, flag: Mapping[str, Any]) -> Iterator[FieldViolation]:
    if "variants" not in flag:
        return
    variants = flag["variants"]
    if not isinstance(variants, dict) or not variants or not all(isinstance(name, str) for name in variants):
        yield FieldViolation(f"{field}.variants", "must name at least one variant")
        return
    if not any(all(_is(value, kind) for value in variants.values()) for kind in _KINDS):
        yield FieldViolation(f"{field}.variants", "must all be of one type")
    if flag.get("defaultVariant") not in variants:
        yield FieldViolation(f"{field}.defaultVariant", f"must be one of {', '.join(variants)}")


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _wrong(violations: list[FieldViolation]) -> ServiceError:
    return ServiceError(
        Kind.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        f"{len(violations)} mistakes in the flags",
        violations=violations[:100],
    )
