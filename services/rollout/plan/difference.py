"""Where two plans differ, as a person would tell it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package that we do not have

from services.rollout.plan.shape import Plan

NONE = "none"
"""Stands for what is not there."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place in which two plans differ, spelled as in a plan; "none" where there is nothing."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"


def diff(before: Plan | None, after: Plan) -> list[Difference]:
    """
    What `after` changes, in the order of a plan's keys; everything, where there was no plan before.

    Stages are paired by their ids. A path has the index in `after`, or that in `before` of a stage that is gone.
    """
    return list(_mappings("", before.outline if before else {}, after.outline))


def _mappings(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for key in _merged(list(before), list(after)):
        yield from _values(f"{path}.{key}".lstrip("."), before.get(key), after.get(key))


def _values(path: str, before: Any, after: Any) -> Iterator[Difference]:
    rule = path == "eligible" or path.startswith("segments.")
    some = [each for each in (before, after) if each is not None]
    if before == after:
        return
    if all(isinstance(each, list) for each in some):
        yield from _lists(path, before or [], after or [])
    elif len(some) > 1 and all(isinstance(each, dict) for each in some) and not rule:
        yield from _mappings(path, before, after)
    else:
        yield Difference(path, _text(before), _text(after))


def _lists(path: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Difference]:
    if all(isinstance(each, str) for each in (*before, *after)):
        yield from (Difference(path, each, NONE) for each in before if each not in after)
        yield from (Difference(path, NONE, each) for each in after if each not in before)
        return
    old, new = _by_identity(before), _by_identity(after)
    common_before, common_after = [key for key in old if key in new], [key for key in new if key in old]
    if common_before != common_after:
        yield Difference(path, ", ".join(common_before), ", ".join(common_after))
    for key in _merged(list(old), list(new)):
        index = list(new if key in new else old).index(key)
        yield from _values(f"{path}[{index}]", old.get(key), new.get(key))


def _by_identity(items: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Stages by their ids; checks, which have none, by their places."""
    return {str(item.get("ring", index)): item for index, item in enumerate(items)}


def _merged(before: list[str], after: list[str]) -> list[str]:
    """The keys of `after`, and each that is gone behind the one that it stood behind."""
    merged = list(after)
    for index, key in enumerate(before):
        if key not in after:
            merged.insert(merged.index(before[index - 1]) + 1 if index else 0, key)
    return merged


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, str):
        return value
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
