"""Lines of a file, and the registry of numbers."""

from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.analytics.model import DIMENSIONS, METRICS, Fact, Kind, Question, fact_of_line
from services.analytics.tests.world import NOON, post, repost
from services.chassis.errors import ServiceError
from services.chassis.json_lines import BadLineError


def test_line__of_each_type() -> None:
    """A post is about itself; what people do with it has an id of its own, apart from those of posts."""
    assert fact_of_line(post("p1")) == Fact("post:p1", Kind.POST, NOON, post="p1", person="author")
    assert fact_of_line(repost("r1", "p1", 0, parent="r0")) == Fact(
        "event:r1", Kind.REPOST, NOON, post="p1", parent="r0", person="u"
    )
    assert fact_of_line(repost("post:p1")).id != fact_of_line(post("p1")).id


@pytest.mark.parametrize(
    "time",
    [
        1768478400, 1768478400.0, "2026-01-15T12:00:00Z", "2026-01-15T20:00:00+08:00", "2026-01-15T12:00:00.000000+00:00"
    ],
)  # fmt: skip
def test_line__time_in_its_forms(time: object) -> None:
    """Unix seconds and RFC 3339 with any offset mean the same moment."""
    assert fact_of_line(post() | {"time": time}).time == NOON


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "mention"), ("type", "Post"), ("type", 1), ("type", ""),
        ("id", ""), ("id", 7), ("id", "x" * 201), ("id", "a\nb"), ("id", "a\0"), ("id", ["x"]),
        ("post", ""), ("post", {}), ("parent", ""), ("parent", 3), ("user", ""), ("user", False),
        ("time", ""), ("time", "2026-01-15"), ("time", "2026-01-15T12:00:00"), ("time", "yesterday"), ("time", True),
        ("time", -1), ("time", 4102444800), ("time", 10**30), ("time", -1e300), ("time", "9999-12-31T23:59:59-14:00"),
        ("time", "0001-01-01T00:00:00+14:00"), ("time", "03月23日 19:24"), ("time", []),
    ],
)  # fmt: skip
def test_line__bad_value__names_the_field(field: str, value: object) -> None:
    """What a field cannot have is refused, and the text says which field it was."""
    with pytest.raises(BadLineError) as refused:
        fact_of_line(repost("r") | {field: value})

    assert refused.value.reason == "BAD_VALUE"
    assert refused.value.description.startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["type", "id", "post", "user", "time"])
@pytest.mark.parametrize("as_null", [True, False])
def test_line__missing_field__is_named(field: str, *, as_null: bool) -> None:
    """Absent and null are the same; only a parent may be either."""
    line = repost("r", parent=None)
    line[field] = None
    if not as_null:
        del line[field]

    with pytest.raises(BadLineError) as refused:
        fact_of_line(line)

    assert (refused.value.reason, refused.value.description) == ("MISSING_FIELD", f"{field}: is missing")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["type", "id", "post", "parent", "user", "time", "other"])


@given(st.dictionaries(FIELDS, ANYTHING | st.sampled_from(["post", "repost", "2026-01-15T12:00:00Z", "x"])))
def test_line__any_object__is_a_fact_or_a_problem(line: dict[str, Any]) -> None:
    """Nothing else comes of it; a fact has printable texts, and a time of this century or the last."""
    try:
        fact = fact_of_line(line)
    except BadLineError:
        return
    assert fact.post.isprintable()
    assert fact.person.isprintable()
    assert fact.time.tzinfo is UTC
    assert 1970 <= fact.time.year < 2100


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"metrics": ("reach", "luck")}, ("metrics[1]", "UNKNOWN_METRIC")),
        ({"dimensions": ("weather",)}, ("dimensions[0]", "UNKNOWN_DIMENSION")),
        ({"dimensions": ("day", "day")}, ("dimensions", "DIMENSION_REPEATED")),
        ({"filters": (("post", ("p",)), ("id", ("x",)))}, ("filters[1].dimension", "UNKNOWN_DIMENSION")),
        ({"start": NOON, "end": NOON}, ("end_time", "TIME_RANGE_EMPTY")),
    ],
)
def test_question__refused__names_the_field(fields: dict[str, Any], reason: tuple[str, str]) -> None:
    """What does not exist is said by its place."""
    with pytest.raises(ServiceError) as refused:
        Question(**{"metrics": ("reach",), **fields})

    assert [(each.field, each.reason) for each in refused.value.violations] == [reason]


def test_registry__names_agree() -> None:
    """A number is listed under its own name, and says what it is and in which unit."""
    assert all(name == metric.name and metric.description and metric.unit for name, metric in METRICS.items())
    assert not METRICS.keys() & DIMENSIONS.keys()
