"""How a broker differs from what it should be."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deploy.rabbitmq.definitions import Definitions
from gateway.snapshots import QUEUE_PREFIX

_NAMED_BY = {
    "vhosts": ("name",),
    "users": ("name",),
    "permissions": ("vhost", "user"),
    "topic_permissions": ("vhost", "user", "exchange"),
    "exchanges": ("vhost", "name"),
    "queues": ("vhost", "name"),
    "bindings": ("vhost", "source", "destination_type", "destination", "routing_key"),
    "policies": ("vhost", "name"),
    "parameters": ("vhost", "component", "name"),  # among them operator policies, which override ours
}
_PASSING = (QUEUE_PREFIX, "amq.gen-")
"""The names of queues that live as long as somebody's connection begin so."""


class Drift(Enum):
    """What is wrong with a thing."""

    MISSING = "missing"
    DIFFERENT = "different"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One thing that is not as it should be.

    Attributes:
        drift: what is wrong with it.
        kind: the section of the definitions, as `queues`.
        name: in which order its parts come depends on the kind.
        detail: for what is different: each field with what should be and what is; never a password's hash.

    """

    drift: Drift
    kind: str
    name: str
    detail: str = ""


def differences(wanted: Definitions, found: Mapping[str, Any]) -> list[Difference]:
    """
    What a broker's definitions lack, have besides, and have otherwise, by kind and name.

    Fields that we say nothing of are the broker's own affair; of queues that live as long as a connection nothing is
    said either.
    """
    return [each for kind, key in _NAMED_BY.items() for each in _compare(kind, key, wanted, found)]


def _compare(
    kind: str, key: tuple[str, ...], wanted: Definitions, found: Mapping[str, Any]
) -> Iterator[Difference]:
    ours = {_name(each, key): each for each in wanted.get(kind, [])}
    theirs = {_name(each, key): each for each in found.get(kind, []) if not _passes(kind, each)}
    for name in sorted(ours | theirs):
        if name not in theirs:
            yield Difference(Drift.MISSING, kind, name)
        elif name not in ours:
            yield Difference(Drift.UNEXPECTED, kind, name)
        elif detail := _detail(ours[name], theirs[name]):
            yield Difference(Drift.DIFFERENT, kind, name, detail)


def _name(thing: Mapping[str, Any], key: tuple[str, ...]) -> str:
    return " ".join(str(thing[part]) for part in key if part != "vhost" or thing[part] != "/")


def _passes(kind: str, thing: Mapping[str, Any]) -> bool:
    name = {"queues": thing.get("name"), "bindings": thing.get("destination")}.get(kind)
    return bool(name) and str(name).startswith(_PASSING)


def _detail(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    parts = []
    for field, value in ours.items():
        if value == theirs.get(field):
            continue
        if field == "password_hash":
            parts.append("password")
        else:
            parts.append(f"{field}: {theirs.get(field)!r}, should be {value!r}")
    return "; ".join(parts)
