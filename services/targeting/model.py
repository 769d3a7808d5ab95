"""People, and rules that describe them; pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.chassis.errors import Kind, ServiceError
from services.chassis.json_lines import BadLineError
from services.chassis.names import NamePattern

ENTERPRISE_NAME = NamePattern("enterprises/{enterprise}")
AUDIENCE_NAME = NamePattern("enterprises/{enterprise}/audiences/{audience}")

AGE_BANDS = ((0, 12), (13, 18), (19, 22), (23, 25), (26, 29), (30, 39), (40, 59), (60, 130))
"""In years, inclusive; the network's own bands."""


@dataclass(frozen=True, slots=True)
class Post:
    """A person's own public post."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Person:
    """What a person tells of themselves; all but the city and the posts in lower case. None and "" are unknown."""

    name: str
    gender: str = ""
    age: int | None = None
    city: str = ""
    topics: frozenset[str] = frozenset()
    communities: frozenset[str] = frozenset()
    brands: frozenset[str] = frozenset()
    posts: tuple[Post, ...] = ()


# A rule is one of these. Values are in lower case.


@dataclass(frozen=True, slots=True)
class All:
    """All of these rules hold."""

    rules: tuple["Rule", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these rules holds."""

    rules: tuple["Rule", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The rule does not hold."""

    rule: "Rule"


@dataclass(frozen=True, slots=True)
class Demographics:
    """Age within the years, inclusive, one of the genders, one of the cities; what is empty or 0 does not matter."""

    min_age: int = 0
    max_age: int = 0
    genders: frozenset[str] = frozenset()
    cities: frozenset[str] = frozenset()

    @property
    def ages(self) -> range | None:
        """The years; None when age does not matter."""
        if not self.min_age and not self.max_age:
            return None
        return range(self.min_age, (self.max_age or 130) + 1)


class Trait(StrEnum):
    """What a person follows, has joined, or has named or bought."""

    TOPIC = "topic"
    COMMUNITY = "community"
    BRAND = "brand"


@dataclass(frozen=True, slots=True)
class HasTrait:
    """The person has one of these values of a trait."""

    trait: Trait
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class Keywords:
    """At least so many of the person's posts show one of these words."""

    words: tuple[str, ...]
    min_posts: int = 1


@dataclass(frozen=True, slots=True)
class InAudience:
    """The person is in another audience of the enterprise, as it is built now."""

    name: str


Rule = All | AnyOf | Not | Demographics | HasTrait | Keywords | InAudience

WEIGHTS: Mapping[type | Trait, float] = {
    Keywords: 3.0,
    Trait.TOPIC: 2.0,
    Trait.COMMUNITY: 2.0,
    Trait.BRAND: 1.5,
    InAudience: 1.0,
    Demographics: 0.5,
}
"""
How much a rule that holds says of a person's interest: one's own words more than what one follows, and both more than
what one is. Relevance is the weight of the rules that hold over the weight of all that could, without those under a Not.
"""


def positive_rules(rule: Rule) -> Iterator[Demographics | HasTrait | Keywords | InAudience]:
    """The leaves that speak for a person."""
    match rule:
        case All(rules) | AnyOf(rules):
            for each in rules:
                yield from positive_rules(each)
        case Not():
            return
        case _:
            yield rule


def weight_of(rule: Rule) -> float:
    """The weight of a leaf."""
    return WEIGHTS[rule.trait] if isinstance(rule, HasTrait) else WEIGHTS[type(rule)]


class AudienceState(StrEnum):
    """Where an audience stands."""

    DRAFT = "DRAFT"
    READY = "READY"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class Audience:
    """A description of people: `definition` is a serialized proto. `version` 0: never built. `size` is exact."""

    name: str
    display_name: str
    definition: bytes
    create_time: datetime
    state: AudienceState = AudienceState.DRAFT
    size: int = 0
    version: int = 0
    build_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A person of an audience: how well they fit, and what led to them, strongest first."""

    person: str
    relevance: float
    evidence: tuple[str, ...]


ROUNDING = 10


def rounded(size: int) -> int:
    """A size as it is told: in tens, so that two answers cannot be subtracted to find one person."""
    return round(size / ROUNDING) * ROUNDING


def archived(name: str) -> ServiceError:
    """The audience must not be used any more."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "AUDIENCE_ARCHIVED",
        f"{name} is archived: create a new one",
        metadata={"name": name},
    )


def not_built(name: str) -> ServiceError:
    """The audience has no people yet."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "AUDIENCE_NOT_BUILT",
        f"{name} is not built: build it first",
        metadata={"name": name},
    )


def too_small(name: str, minimum: int) -> ServiceError:
    """The audience is so small that it would point at people. How small is not told."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "AUDIENCE_TOO_SMALL",
        f"{name} would have fewer than {minimum} people: describe them more widely",
        metadata={"name": name, "minimum": str(minimum)},
    )


# A line of a file of profiles (docs/profiles.md).

_LONGEST_ID, _LONGEST_VALUE, _LONGEST_POST, _MOST_VALUES = 64, 100, 10_000, 200
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def person_of_line(line: Mapping[str, Any]) -> Person:
    """A line's person. Raises BadLineError, naming the field."""
    name = line.get("user")
    if name is None:
        raise BadLineError("MISSING_FIELD", "user: is missing")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_ID or not set(name) <= _ID_CHARACTERS:
        raise BadLineError("BAD_VALUE", f"user: must be 1 to {_LONGEST_ID} letters, digits, '_', '-' or '.'")
    age = line.get("age")
    if age is not None and (not isinstance(age, int) or isinstance(age, bool) or not 0 <= age <= 130):  # noqa: PLR2004 -- years
        raise BadLineError("BAD_VALUE", "age: must be a whole number from 0 to 130")
    return Person(
        name,
        gender=_text(line, "gender").casefold(),
        age=age,
        city=_text(line, "city"),
        topics=_texts(line, "topics"),
        communities=_texts(line, "communities"),
        brands=_texts(line, "brands"),
        posts=_posts(line),
    )


def _text(line: Mapping[str, Any], field: str) -> str:
    value = line.get(field)
    return "" if value is None or value == "" else _checked(field, value)


def _texts(line: Mapping[str, Any], field: str) -> frozenset[str]:
    return frozenset(
        _checked(f"{field}[{n}]", value).casefold() for n, value in enumerate(_list(line, field))
    )


def _checked(field: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_VALUE or not value.isprintable():
        raise BadLineError(
            "BAD_VALUE", f"{field}: must be a text of 1 to {_LONGEST_VALUE} printable characters"
        )
    return value


def _posts(line: Mapping[str, Any]) -> tuple[Post, ...]:
    posts = []
    for number, post in enumerate(_list(line, "posts")):
        if not isinstance(post, dict):
            raise BadLineError("BAD_VALUE", f"posts[{number}]: must be an object with id and text")
        identifier, text = post.get("id"), post.get("text")
        if not isinstance(text, str) or len(text) > _LONGEST_POST or not _can_be_stored(text):
            raise BadLineError(
                "BAD_VALUE", f"posts[{number}].text: must be a text of at most {_LONGEST_POST:,} characters"
            )
        posts.append(Post(_checked(f"posts[{number}].id", identifier), text))
    return tuple(posts)


def _list(line: Mapping[str, Any], field: str) -> list[Any]:
    values = line.get(field)
    if values is None:
        return []
    if not isinstance(values, list) or len(values) > _MOST_VALUES:
        raise BadLineError("BAD_VALUE", f"{field}: must be a list of at most {_MOST_VALUES}")
    return values


def _can_be_stored(text: str) -> bool:
    """Whether PostgreSQL takes the text: not NUL, nor half of a character, both of which JSON can write."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text))
