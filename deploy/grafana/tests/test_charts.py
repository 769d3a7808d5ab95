"""Values become numbers and drawings that people read right."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploy.grafana.charts import Frame, amount, chart, color, legend, scale, spark
from deploy.grafana.promql import Series

FRAME = Frame(start=1_000_000, end=1_000_600, step=60)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"), (0.000012, "s", "12 µs"), (0.0125, "s", "12.5 ms"), (1.5, "s", "1.5 s"), (90, "s", "90 s"),
        (600, "s", "10 min"), (7200, "s", "2 h"), (-7200, "s", "-2 h"), (259200, "s", "3 d"),
        (0.0015, "percentunit", "0.15 %"), (20, "percent", "20 %"), (1234, "ops", "1.23 k/s"), (0, "reqps", "0/s"),
        (2048, "bytes", "2 KiB"), (1.5e6, "short", "1.5 M"), (123456, "none", "123456"), (999, "short", "999"),
        (5e15, "short", "5000 T"),
    ],
)  # fmt: skip
def test_amount__is_short_and_has_its_unit(value: float, unit: str, text: str) -> None:
    """Three digits and the unit that fits."""
    assert amount(value, unit) == text


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
@example(0.0, 5e-324)
def test_scale__has_room_for_all_values(one: float, other: float) -> None:
    """The axis holds zero and both values, and has a few marks only."""
    low, high, step = scale(min(one, other), max(one, other))

    slack = 1e-6 * (high - low)
    assert low <= min(0, one, other) + slack
    assert high >= max(one, other) - slack
    assert 1 <= (high - low) / step <= 7
    assert math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-6)


def test_chart__breaks_lines_where_there_was_nothing() -> None:
    """A gap is no straight line, and a line that has ended has no value now."""
    at = FRAME.start
    ended = Series({}, [(at, 1.0), (at + 60, 2.0), (at + 300, 1.0)])
    going = Series({}, [(at + 540, 0.5), (at + 600, 1.0)])

    drawn = chart([("ended", ended), ("going", going), ("empty", Series({}, []))], FRAME, "short")

    assert [(line.name, line.last, line.most) for line in drawn.lines] == [
        ("ended", "–", "2"),
        ("going", "1", "1"),
    ]
    assert drawn.lines[0].path.count("M") == 2
    assert [tick.text for tick in drawn.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert [tick.text for tick in drawn.x_ticks] == ["13:48", "13:50", "13:52", "13:54", "13:56"]


def test_chart__shows_the_largest_lines_and_says_how_many_it_hides() -> None:
    """Ten lines can be told apart; a zero that stands for nothing is hidden beside them."""
    series = [(str(n), Series({}, [(FRAME.end, float(n))])) for n in range(13)]

    drawn = chart([*series, ("none", Series({}, [(FRAME.end, 99.0)]))], FRAME, "short")

    assert [line.name for line in drawn.lines] == [str(n) for n in range(12, 2, -1)]
    assert drawn.hidden == 3
    assert [
        line.name for line in chart([("none", Series({}, [(FRAME.end, 0.0)]))], FRAME, "short").lines
    ] == ["none"]


def test_chart__shows_exemplars_that_fit() -> None:
    """Those outside of the frame, or far above the lines, are left out."""
    lines = [("a", Series({}, [(FRAME.start, 0.9), (FRAME.end, 1.0)]))]
    exemplars = [(FRAME.start + 300, 0.5, "t1"), (FRAME.start - 1, 0.5, "t2"), (FRAME.start + 300, 7.0, "t3")]

    (dot,) = chart(lines, FRAME, "s", exemplars).dots

    assert (dot.trace, dot.text) == ("t1", "500 ms")
    assert (dot.x, dot.y) == (344.0, 93.0)


def test_spark__needs_two_points() -> None:
    """One point is no line."""
    assert spark([(FRAME.start, 1.0)], FRAME) == ""
    assert spark([(FRAME.start, 1.0), (FRAME.end, 2.0)], FRAME) == "M0.0 12.0L100.0 1.0"
    assert spark([(FRAME.start, 0.0), (FRAME.end, 0.0)], FRAME) == "M0.0 23.0L100.0 23.0"


@pytest.mark.parametrize(("value", "name"), [(0, "green"), (1, "yellow"), (2.9, "yellow"), (3, "red")])
def test_color__is_of_the_highest_step_that_is_reached(value: float, name: str) -> None:
    """As Grafana does it."""
    steps = [{"value": None, "color": "green"}, {"value": 1, "color": "yellow"}, {"value": 3, "color": "red"}]

    assert color(value, steps) == name


@pytest.mark.parametrize(
    ("template", "labels", "name"),
    [
        ("{{ a }} of {{b}}", {"a": "x", "b": "y"}, "x of y"),
        ("{{a}} {{b}}", {"b": "y"}, "y"),
        ("{{a}}", {}, "none"),
        ("{{a}}", {"c": "z"}, "z"),
    ],
)
def test_legend__has_labels_put_in(template: str, labels: dict[str, str], name: str) -> None:
    """Labels that are missing leave no hole."""
    assert legend(template, labels) == name
