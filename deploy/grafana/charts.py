"""From values to the numbers of a drawing. Knows neither HTML nor Prometheus's API; templates/panel.html draws."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from deploy.grafana.promql import Series

COLUMN, HEIGHT = 80, 200
"""The size of a chart, in units of its own: the width of one of the board's columns, and the height."""
NOTHING = "none"
"""The name of a line that has no labels."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 8, 22
_MOST_LINES = 10
_Y_TICKS = 4
_GAP_STEPS = 2.5
_TIME_STEPS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800)
_DAY = 86400


@dataclass(frozen=True, slots=True)
class Line:
    """
    A line of a chart.

    Attributes:
        name: as in the legend.
        path: of SVG.
        last: its value at the end of the frame, as text; a dash when it has ended before.
        most: its highest value, as text.
    """

    name: str
    path: str
    last: str
    most: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A single measurement beside the lines, and its trace."""

    x: float
    y: float
    text: str
    trace: str


@dataclass(frozen=True, slots=True)
class Chart:
    """
    Lines over time, ready to be drawn.

    Attributes:
        width: of the drawing.
        hidden: how many lines were left out because there are too many.
    """

    width: int
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    dots: Sequence[Dot]
    hidden: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chart shows: from when to when, and the distance of points, in seconds."""

    start: float
    end: float
    step: float

    @property
    def recent(self) -> float:
        """From when on a point is of now."""
        return self.end - 2 * self.step


def chart(
    series: Sequence[tuple[str, Series]],
    frame: Frame,
    unit: str,
    exemplars: Iterable[tuple[float, float, str]] = (),
    *,
    columns: int = 8,
) -> Chart:
    """
    A chart of named series.

    Args:
        series: the lines' names and points.
        frame: what it shows.
        unit: Grafana's name of the values' unit.
        exemplars: single measurements as (seconds since 1970, value, trace id); those above the lines are left out.
        columns: how many of the board's columns it takes.
    """
    width = columns * COLUMN
    drawn = sorted((each for each in series if each[1].points), key=lambda each: -each[1].points[-1][1])
    # The zero that stands for nothing is not worth a line beside something.
    drawn = [each for each in drawn if each[0] != NOTHING] or drawn
    hidden = max(0, len(drawn) - _MOST_LINES)
    drawn = drawn[:_MOST_LINES]
    values = [value for _, each in drawn for _, value in each.points]
    low, high, step = scale(min(values, default=0.0), max(values, default=0.0))

    def x(at: float) -> float:
        return round(_LEFT + (at - frame.start) / (frame.end - frame.start) * (width - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
    return Chart(
        width=width,
        lines=[
            Line(
                name,
                _path([(at, x(at), y(value)) for at, value in each.points], frame.step * _GAP_STEPS),
                amount(each.points[-1][1], unit) if each.points[-1][0] >= frame.recent else "–",
                amount(max(value for _, value in each.points), unit),
            )
            for name, each in drawn
        ],
        x_ticks=[Tick(x(at), text) for at, text in _times(frame)],
        y_ticks=[Tick(y(value), amount(value, unit)) for value in ticks],
        dots=[
            Dot(x(at), y(value), amount(value, unit), trace)
            for at, value, trace in exemplars
            if frame.start <= at <= frame.end and value <= high
        ],
        hidden=hidden,
    )


def spark(points: Sequence[tuple[float, float]], frame: Frame) -> str:
    """The path of a small line without axes, 100 wide and 24 high; empty for fewer than two points."""
    if len(points) < 2:
        return ""
    low = min(0.0, *(value for _, value in points))
    high = max(value for _, value in points)
    span = (high - low) or 1.0
    return _path(
        [
            (
                at,
                round((at - frame.start) / (frame.end - frame.start) * 100, 1),
                round(23 - (value - low) / span * 22, 1),
            )
            for at, value in points
        ],
        math.inf,
    )


_LEAST_SPAN = 1e-300
"""Less is nothing: its tenth part is no number any more."""


def scale(low: float, high: float) -> tuple[float, float, float]:
    """The lowest and the highest value of an axis that has room for both, and the distance of its marks."""
    low = min(0.0, low)
    if high - low < _LEAST_SPAN:
        high = low + 1
    rough = (high - low) / _Y_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step, step


def amount(value: float, unit: str) -> str:
    """A value as people read it: `12.5 ms`, `0.3 %`, `1.2 k/s`."""
    match unit:
        case "s":
            return _seconds(value)
        case "percentunit":
            return f"{_short(value * 100)} %"
        case "percent":
            return f"{_short(value)} %"
        case "ops" | "reqps":
            return f"{_thousands(value)}/s"
        case "bytes":
            return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
        case "none":
            return f"{value:.0f}"
        case _:
            return _thousands(value)


def color(value: float, steps: Sequence[dict[str, Any]]) -> str:
    """The colour of Grafana's thresholds that a value has."""
    reached = [step["color"] for step in steps if step.get("value") is None or value >= step["value"]]
    return str(reached[-1]) if reached else "green"


def legend(template: str, labels: dict[str, str]) -> str:
    """A line's name: the template with labels put in."""
    name = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), template)
    return " ".join(name.split()) or ", ".join(labels.values()) or NOTHING


def _path(points: Sequence[tuple[float, float, float]], gap: float) -> str:
    """The path through (time, x, y), with a new beginning after each gap in time."""
    if not points:
        return ""
    commands = [f"M{points[0][1]} {points[0][2]}"]
    commands += [
        f"{'L' if after[0] - before[0] <= gap else 'M'}{after[1]} {after[2]}"
        for before, after in pairwise(points)
    ]
    if len(points) == 1:
        commands.append("h0.1")  # a single point shows as a dot
    return "".join(commands)


def _times(frame: Frame) -> Iterator[tuple[float, str]]:
    length = frame.end - frame.start
    step = next((each for each in _TIME_STEPS if length / each <= 6), _TIME_STEPS[-1])
    at = math.ceil(frame.start / step) * step
    while at <= frame.end:
        moment = datetime.fromtimestamp(at, UTC)
        yield at, moment.strftime("%d %b" if length > 2 * _DAY else "%H:%M")
        at += step


def _seconds(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "0 s"
    if size < 1e-3:
        return f"{_short(value * 1e6)} µs"
    if size < 1:
        return f"{_short(value * 1e3)} ms"
    if size < 120:
        return f"{_short(value)} s"
    if size < 2 * 3600:
        return f"{_short(value / 60)} min"
    if size < 2 * _DAY:
        return f"{_short(value / 3600)} h"
    return f"{_short(value / _DAY)} d"


def _thousands(value: float) -> str:
    return _scaled(value, 1000, ("", "k", "M", "G", "T")).strip()


def _scaled(value: float, base: int, names: Sequence[str]) -> str:
    for name in names[:-1]:
        if abs(value) < base:
            return f"{_short(value)} {name}"
        value /= base
    return f"{_short(value)} {names[-1]}"


def _short(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
