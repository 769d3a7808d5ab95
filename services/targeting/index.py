"""
Everybody, in memory: an inverted index of Roaring bitmaps from each value to the people who have it.

A question about millions of people is a few operations on bitmaps; only keywords look at posts, and only at those of people
whose posts hold all the keyword's characters. Each person has a number, given by the store and kept for ever.

Roaring bitmaps: Lemire et al., "Roaring Bitmaps: Implementation of an Optimized Software Library", 2018.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pyroaring import BitMap

from services.targeting.model import (
    AGE_BANDS,
    All,
    AnyOf,
    Demographics,
    HasTrait,
    InAudience,
    Keywords,
    Member,
    Not,
    Person,
    Rule,
    Trait,
    positive_rules,
    weight_of,
)
from services.targeting.words import Text, grams

_MOST_EVIDENCE = 5
_Key = tuple[str, object]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A person, with the posts as texts only."""

    person: Person
    texts: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Those for whom a rule held at one moment, whatever became of them since; by number, in order."""

    rule: Rule
    audiences: Mapping[str, BitMap]
    entries: Mapping[int, _Entry]

    def explain(self, numbers: Iterable[int] | None = None) -> Iterator[Member]:
        """What speaks for each of these people (by default for all), and how well they fit."""
        leaves = [(weight_of(leaf), leaf) for leaf in positive_rules(self.rule)]
        leaves.sort(key=lambda each: -each[0])
        whole = sum(weight for weight, _ in leaves) or 1.0
        for number in self.entries if numbers is None else numbers:
            entry = self.entries[number]
            speaking = [
                (weight, found)
                for weight, leaf in leaves
                if (found := _evidence(leaf, number, entry, self.audiences))
            ]
            evidence = dict.fromkeys(item for _, items in speaking for item in items)
            relevance = sum(weight for weight, _ in speaking) / whole
            yield Member(entry.person.name, relevance, tuple(evidence)[:_MOST_EVIDENCE])


@dataclass(frozen=True, slots=True)
class Share:
    """A group within an audience."""

    dimension: str
    value: str
    size: int


class Index:
    """All people. One instance serves all threads: an answer is of one moment, never of half a change."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[int, _Entry] = {}
        self._numbers: dict[str, int] = {}
        self._bitmaps: defaultdict[str, defaultdict[object, BitMap]] = defaultdict(
            lambda: defaultdict(BitMap)
        )
        """By dimension (`topic`, `city`, `gram`, …), then by value."""
        self._everybody = BitMap()
        self._withdrawn: set[str] = set()
        self._cities: dict[str, str] = {}
        """Cities as they were written first, by their lower case."""

    def put(self, people: Iterable[tuple[int, Person]]) -> None:
        """Add people, or replace what was known of them."""
        fresh = [(number, entry, _keys(entry)) for number, entry in map(_entry_of, people)]
        with self._lock:
            for number, entry, keys in fresh:
                old = self._entries.get(number)
                old_keys = _keys(old) if old else set()
                for dimension, value in old_keys - keys:
                    self._bitmaps[dimension][value].discard(number)
                for dimension, value in keys - old_keys:
                    self._bitmaps[dimension][value].add(number)
                self._entries[number] = entry
                self._numbers[entry.person.name] = number
                self._cities.setdefault(entry.person.city.casefold(), entry.person.city)
                if entry.person.name not in self._withdrawn:
                    self._everybody.add(number)

    def withdraw(self, names: Iterable[str]) -> None:
        """Leave these people out of every answer from now on, also when they are put again."""
        with self._lock:
            for name in names:
                self._withdrawn.add(name)
                if name in self._numbers:
                    self._everybody.discard(self._numbers[name])

    @property
    def population(self) -> int:
        """How many people can be found."""
        return len(self._everybody)

    def find(self, rule: Rule, audiences: Mapping[str, BitMap]) -> BitMap:
        """The numbers of those for whom the rule holds. `audiences` has the members of those that the rule names."""
        with self._lock:
            return self._find(rule, audiences) & self._everybody

    def search(self, rule: Rule, audiences: Mapping[str, BitMap]) -> "Found":
        """Those whom `find` finds, with what is known of them at this moment."""
        with self._lock:
            numbers = self.find(rule, audiences)
            return Found(rule, audiences, {number: self._entries[number] for number in numbers})

    def shares(self, numbers: BitMap) -> list[Share]:
        """What these people are like, largest groups first within each dimension."""
        with self._lock:
            groups: dict[str, Counter[str]] = {"age": Counter(), "gender": Counter(), "city": Counter()}
            for dimension, sizes in groups.items():
                for value, bitmap in self._bitmaps[dimension].items():
                    sizes[self._label(dimension, value)] += bitmap.intersection_cardinality(numbers)
        return [
            Share(dimension, value, size)
            for dimension, sizes in groups.items()
            for value, size in sizes.most_common()
        ]

    def _label(self, dimension: str, value: object) -> str:
        match dimension, value:
            case "age", int(age):
                return next(f"{first}-{last}" for first, last in AGE_BANDS if first <= age <= last)
            case "city", str(city):
                return self._cities[city]
            case _:
                return str(value)

    def _find(self, rule: Rule, audiences: Mapping[str, BitMap]) -> BitMap:
        match rule:
            case All(rules):
                found = self._everybody
                for each in rules:
                    found = found & self._find(each, audiences)
                return found
            case AnyOf(rules):
                return BitMap.union(*(self._find(each, audiences) for each in rules))
            case Not(inner):
                return self._everybody - self._find(inner, audiences)
            case Demographics():
                return self._demographics(rule)
            case HasTrait(trait, values):
                return self._with(trait.value, values)
            case Keywords():
                return self._keywords(rule)
            case InAudience(name):
                return audiences[name]

    def _demographics(self, rule: Demographics) -> BitMap:
        found = self._everybody
        for dimension, values in (("age", rule.ages), ("gender", rule.genders), ("city", rule.cities)):
            if values:
                found = found & self._with(dimension, values)
        return found

    def _keywords(self, rule: Keywords) -> BitMap:
        candidates = BitMap.union(BitMap(), *(self._with_grams(word) for word in rule.words))
        return BitMap(number for number in candidates if _shows(rule, self._entries[number]))

    def _with_grams(self, word: str) -> BitMap:
        found = self._everybody
        for gram in grams(word):
            found = found & self._with("gram", [gram])
        return found

    def _with(self, dimension: str, values: Iterable[object]) -> BitMap:
        bitmaps = self._bitmaps[dimension]
        return BitMap.union(BitMap(), *(bitmaps[value] for value in values if value in bitmaps))


def _entry_of(numbered: tuple[int, Person]) -> tuple[int, _Entry]:
    number, person = numbered
    return number, _Entry(replace(person, posts=()), tuple(Text.of(post.text) for post in person.posts))


def _keys(entry: _Entry) -> set[_Key]:
    person = entry.person
    keys: set[_Key] = {("gram", gram) for text in entry.texts for gram in grams(text.text)}
    for trait, values in _traits(person).items():
        keys |= {(trait.value, value) for value in values}
    if person.age is not None:
        keys.add(("age", person.age))
    keys |= {
        (dimension, value)
        for dimension, value in (("gender", person.gender), ("city", person.city.casefold()))
        if value
    }
    return keys


def _traits(person: Person) -> Mapping[Trait, frozenset[str]]:
    return {Trait.TOPIC: person.topics, Trait.COMMUNITY: person.communities, Trait.BRAND: person.brands}


def _shows(rule: Keywords, entry: _Entry) -> bool:
    """Whether enough posts show one of the words."""
    showing = (any(text.shows(word) for word in rule.words) for text in entry.texts)
    return sum(showing) >= rule.min_posts


def _evidence(rule: Rule, number: int, entry: _Entry, audiences: Mapping[str, BitMap]) -> list[str]:
    """What in a person makes a leaf hold; empty when it does not."""
    person = entry.person
    match rule:
        case HasTrait(trait, values):
            return [f"{trait}:{value}" for value in sorted(values & _traits(person)[trait])]
        case Keywords(words):
            # The words, not the posts: a post leads to its author.
            if not _shows(rule, entry):
                return []
            return [f"word:{word}" for word in words if any(text.shows(word) for text in entry.texts)]
        case Demographics():
            fits = (
                (rule.ages is None or person.age in rule.ages)
                and (not rule.genders or person.gender in rule.genders)
                and (not rule.cities or person.city.casefold() in rule.cities)
            )
            return ["demographics"] if fits else []
        case InAudience(name):
            return [f"audience:{name.rsplit('/', 1)[-1]}"] if number in audiences[name] else []
        case _:
            raise AssertionError(f"{rule} is no leaf")
