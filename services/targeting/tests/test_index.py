"""The index against a plain reference: same people for any rule, whatever was changed before."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from services.targeting.index import Index
from services.targeting.model import (
    All,
    AnyOf,
    Demographics,
    HasTrait,
    InAudience,
    Keywords,
    Not,
    Person,
    Post,
    Rule,
    Trait,
)
from services.targeting.words import Text, normal

AUDIENCE = "enterprises/e/audiences/a"
TEXTS = ["周末自驾游去露营", "产品和服务", "Planning a road  trip", "a trip on the road", "新SUV到了", ""]
WORDS = ["自驾", "露营", "和服", "road trip", "suv", "服务", "road"]

people = st.builds(
    Person,
    st.just(""),
    gender=st.sampled_from(["", "f", "m"]),
    age=st.one_of(st.none(), st.integers(10, 15)),
    city=st.sampled_from(["", "Chengdu", "chengdu", "Wuhan"]),
    topics=st.frozensets(st.sampled_from(["a", "b", "c"])),
    communities=st.frozensets(st.sampled_from(["a", "b"])),
    brands=st.frozensets(st.sampled_from(["x", "y"])),
    posts=st.lists(st.sampled_from(TEXTS), max_size=3).map(
        lambda ts: tuple(Post(f"p{n}", t) for n, t in enumerate(ts))
    ),
)
leaves = st.one_of(
    st.builds(
        Demographics,
        st.integers(0, 14),
        st.one_of(st.just(0), st.integers(14, 20)),
        st.frozensets(st.sampled_from(["f", "m"])),
        st.frozensets(st.sampled_from(["chengdu", "wuhan"])),
    ),
    st.builds(HasTrait, st.sampled_from(Trait), st.frozensets(st.sampled_from(["a", "b", "x"]), min_size=1)),
    st.builds(
        Keywords, st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple), st.integers(1, 2)
    ),
    st.just(InAudience(AUDIENCE)),
)
rules = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda each: All(tuple(each))),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: AnyOf(tuple(each))),
        inner.map(Not),
    ),
    max_leaves=6,
)


def holds(rule: Rule, person: Person, number: int, audience: BitMap) -> bool:
    """The meaning of a rule, written as plainly as it can be."""
    match rule:
        case All(rules):
            return all(holds(each, person, number, audience) for each in rules)
        case AnyOf(rules):
            return any(holds(each, person, number, audience) for each in rules)
        case Not(inner):
            return not holds(inner, person, number, audience)
        case Demographics(min_age, max_age, genders, cities):
            age_fits = not (min_age or max_age) or (
                person.age is not None and min_age <= person.age <= (max_age or 130)
            )
            return (
                age_fits
                and (not genders or person.gender in genders)
                and (not cities or person.city.lower() in cities)
            )
        case HasTrait(trait, values):
            has = {
                Trait.TOPIC: person.topics,
                Trait.COMMUNITY: person.communities,
                Trait.BRAND: person.brands,
            }[trait]
            return bool(has & values)
        case Keywords(words, min_posts):
            return sum(any(Text.of(p.text).shows(w) for w in words) for p in person.posts) >= min_posts
        case InAudience():
            return number in audience


@given(
    st.lists(st.tuples(st.integers(0, 9), people), max_size=25),
    st.sets(st.integers(0, 9)),
    st.sets(st.integers(0, 9)),
    rules,
)
def test_find__equals_reference(
    puts: list[tuple[int, Person]], withdrawn: set[int], audience: set[int], rule: Rule
) -> None:
    """After any updates and withdrawals, the index finds exactly those for whom the rule holds."""
    index, members = Index(), BitMap(audience)
    known: dict[int, Person] = {}
    middle = len(puts) // 2
    for number, person in puts[:middle]:
        known[number] = replace(person, name=f"u{number}")
        index.put([(number, known[number])])
    index.withdraw(f"u{number}" for number in withdrawn)
    for number, person in puts[middle:]:
        known[number] = replace(person, name=f"u{number}")
        index.put([(number, known[number])])

    found = index.find(rule, {AUDIENCE: members})

    expected = {n for n, person in known.items() if n not in withdrawn and holds(rule, person, n, members)}
    assert set(found) == expected
    assert index.population == len(known.keys() - withdrawn)
    search = index.search(rule, {AUDIENCE: members})
    assert list(search.entries) == sorted(expected)
    for member in search.explain():
        assert 0 <= member.relevance <= 1


@pytest.mark.parametrize(
    ("text", "word", "shown"),
    [
        ("周末自驾游去露营", "自驾", True),
        ("我们的产品和服务", "和服", False),
        ("她穿了一件和服", "和服", True),
        ("Planning a ROAD\n trip!", "road trip", True),
        ("a roadtrip", "road", False),
        ("家用SUV", "suv", True),
    ],
)
def test_text__words_between_borders(text: str, word: str, shown: bool) -> None:
    """A word is found between borders of words, in Chinese as in English."""
    assert Text.of(text).shows(normal(word)) is shown


def test_explain__strongest_first() -> None:
    """Own words come before what one follows, and both before plain facts; relevance is the share of what speaks."""
    index = Index()
    rule = All(
        (
            Demographics(min_age=20),
            AnyOf((HasTrait(Trait.TOPIC, frozenset({"camping"})), Keywords(("露营",)))),
        )
    )
    index.put([(7, Person("u7", age=30, topics=frozenset({"camping"}), posts=(Post("p1", "去露营"),)))])
    index.put([(8, Person("u8", age=30, topics=frozenset({"camping"})))])

    first, second = index.search(rule, {}).explain()

    assert first.evidence == ("word:露营", "topic:camping", "demographics")
    assert first.relevance == 1.0
    assert second.relevance == pytest.approx(2.5 / 5.5)
