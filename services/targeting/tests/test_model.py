"""Lines of a file of profiles, relevance and sizes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from services.chassis.json_lines import BadLineError
from services.targeting.model import Person, Post, person_of_line, rounded

values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 200), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)
FIELDS = ("gender", "age", "city", "topics", "communities", "brands", "posts")


def test_line__with_everything() -> None:
    """Traits lose their case; city and texts stay as they were written; unknown fields are passed over."""
    line = {
        "user": "u1", "gender": "F", "age": 34, "city": "Xi'an", "topics": ["Camping"], "communities": ["Vans"],
        "brands": ["Volvo"], "shoe_size": 42,
        "posts": [{"id": "p1", "time": "2026-10-03T09:30:00Z", "text": "周末\n露营"}],
    }  # fmt: skip
    assert person_of_line(line) == Person(
        "u1", "f", 34, "Xi'an", frozenset({"camping"}), frozenset({"vans"}), frozenset({"volvo"}),
        (Post("p1", "周末\n露营"),),
    )  # fmt: skip


def test_line__with_nothing_but_a_name() -> None:
    """What is missing, null or empty is unknown."""
    assert person_of_line({"user": "u1", "gender": "", "city": "", "age": None, "topics": None}) == Person(
        "u1"
    )


@pytest.mark.parametrize(
    ("line", "reason", "field"),
    [
        ({}, "MISSING_FIELD", "user"),
        ({"user": ""}, "BAD_VALUE", "user"),
        ({"user": "a b"}, "BAD_VALUE", "user"),
        ({"user": "u" * 65}, "BAD_VALUE", "user"),
        ({"user": 7}, "BAD_VALUE", "user"),
        ({"user": "u", "age": 131}, "BAD_VALUE", "age"),
        ({"user": "u", "age": True}, "BAD_VALUE", "age"),
        ({"user": "u", "age": "34"}, "BAD_VALUE", "age"),
        ({"user": "u", "city": 5}, "BAD_VALUE", "city"),
        ({"user": "u", "city": "a\u0000b"}, "BAD_VALUE", "city"),
        ({"user": "u", "topics": "camping"}, "BAD_VALUE", "topics"),
        ({"user": "u", "topics": ["ok", ""]}, "BAD_VALUE", "topics[1]"),
        ({"user": "u", "brands": ["x"] * 201}, "BAD_VALUE", "brands"),
        ({"user": "u", "posts": ["text"]}, "BAD_VALUE", "posts[0]"),
        ({"user": "u", "posts": [{"text": "t"}]}, "BAD_VALUE", "posts[0].id"),
        ({"user": "u", "posts": [{"id": "p"}]}, "BAD_VALUE", "posts[0].text"),
        ({"user": "u", "posts": [{"id": "p", "text": "\ud83d"}]}, "BAD_VALUE", "posts[0].text"),
        ({"user": "u", "posts": [{"id": "p", "text": "\u0000"}]}, "BAD_VALUE", "posts[0].text"),
    ],
)
def test_line__that_does_not_hold(line: dict[str, Any], reason: str, field: str) -> None:
    """The reason, and a description that begins with the field."""
    with pytest.raises(BadLineError) as refused:
        person_of_line(line)
    assert refused.value.reason == reason
    assert refused.value.description.startswith(f"{field}: ")


@given(st.dictionaries(st.sampled_from(FIELDS), values))
def test_line__of_any_kind_is_a_person_or_a_problem(fields: dict[str, Any]) -> None:
    """Whatever JSON can say, the answer is a person who can be stored, or a problem of this line."""
    line = json.loads(json.dumps({"user": "u1", **fields}))
    try:
        person = person_of_line(line)
    except BadLineError:
        return
    texts = [person.gender, person.city, *person.topics, *(post.text for post in person.posts)]
    assert all("\0" not in text and text.encode() is not None for text in texts)
    assert Jsonb([*texts])


@given(st.integers(0, 10**9))
def test_rounded__is_near_and_whole_tens(size: int) -> None:
    """A told size is a multiple of ten, at most five away."""
    assert rounded(size) % 10 == 0
    assert abs(rounded(size) - size) <= 5
