"""
The few kinds of panels that our boards are made of, and how a board is put together.

Built with Grafana's own SDK, so that what comes out is what Grafana's schema says. Positions, ids and colours follow
from the order; a board says only what is shown.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models

TAG = "numerator"
_DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_TILE_HEIGHT, _LINES_HEIGHT = 4, 8
_Builder = TypeVar("_Builder", stat.Panel, timeseries.Panel)


class Unit(StrEnum):
    """Grafana's names of the units that we use."""

    COUNT = "short"
    PER_SECOND = "ops"
    REQUESTS = "reqps"
    SECONDS = "s"
    SHARE = "percentunit"
    PERCENT = "percent"
    BYTES = "bytes"
    VERSION = "none"


@dataclass(frozen=True, slots=True)
class Query:
    """
    Lines of a panel.

    Attributes:
        expr: PromQL.
        legend: what a line is called; `{{label}}` stands for a label's value.
        exemplars: whether single measurements with their traces are shown beside the lines.
    """

    expr: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """From which value on something is worth a look (yellow), and bad (red). Reversed, low values are bad."""

    look: float
    bad: float


@dataclass(frozen=True, kw_only=True)
class Panel:
    """
    What all panels have.

    Attributes:
        title: plain words.
        unit: of all its values.
        help: what it shows, and what to do when it is bad.
        queries: what is drawn.
        width: of the board's 24 columns.
    """

    title: str
    unit: Unit
    help: str
    queries: tuple[Query, ...]
    width: int
    limits: Limits | None = None

    def build(self, number: int) -> stat.Panel | timeseries.Panel:
        """The panel as the SDK has it; `number` is its id on the board."""
        raise NotImplementedError

    def _common(self, panel: _Builder, number: int, height: int) -> _Builder:
        panel = panel.id(number).title(self.title).description(self.help).unit(self.unit)
        panel = panel.datasource(_DATASOURCE).span(self.width).height(height)
        panel = panel.thresholds(self._thresholds())
        for letter, query in zip("ABCDEFGH", self.queries, strict=False):
            panel = panel.with_target(
                Dataquery()
                .ref_id(letter)
                .datasource(_DATASOURCE)
                .expr(query.expr)
                .legend_format(query.legend)
                .exemplar(query.exemplars)
            )
        return panel

    def _thresholds(self) -> dashboards.ThresholdsConfig:
        steps = [models.Threshold(value=None, color="green")]
        if self.limits:
            low, high = sorted((self.limits.look, self.limits.bad))
            colors = (
                ("green", "yellow", "red")
                if self.limits.look <= self.limits.bad
                else ("red", "yellow", "green")
            )
            steps = [
                models.Threshold(value=value, color=color)
                for value, color in zip((None, low, high), colors, strict=True)
            ]
        return dashboards.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


class Tile(Panel):
    """One number, now, with its recent past behind it."""

    def build(self, number: int) -> stat.Panel:
        return (
            self._common(stat.Panel(), number, _TILE_HEIGHT)
            .color_mode(shapes.BigValueColorMode.VALUE)
            .graph_mode(shapes.BigValueGraphMode.AREA)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )


class Lines(Panel):
    """Values over time."""

    def build(self, number: int) -> timeseries.Panel:
        return (
            self._common(timeseries.Panel(), number, _LINES_HEIGHT)
            .axis_soft_min(0)
            .fill_opacity(8)
            .line_width(1.5)
            .show_points(shapes.VisibilityMode.AUTO)
            .legend(
                common.VizLegendOptions()
                .show_legend(True)
                .display_mode(shapes.LegendDisplayMode.TABLE)
                .placement(shapes.LegendPlacement.BOTTOM)
                .calcs(["lastNotNull", "max"])
            )
            .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI))
        )


def tile(
    title: str, unit: Unit, expr: str, text: str, *, limits: Limits | None = None, width: int = 4
) -> Panel:
    """One number. See `Panel`."""
    return Tile(title=title, unit=unit, queries=(Query(expr, title),), help=text, limits=limits, width=width)


def lines(title: str, unit: Unit, text: str, *queries: Query, width: int = 8) -> Panel:
    """Values over time. See `Panel`."""
    return Lines(title=title, unit=unit, queries=queries, help=text, width=width)


@dataclass(frozen=True, slots=True)
class Section:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    """
    A dashboard.

    Attributes:
        uid: stays for ever: it is in people's bookmarks.
        title: plain words.
        text: whom it serves.
    """

    uid: str
    title: str
    text: str
    sections: Sequence[Section]

    def json(self) -> str:
        """As Grafana imports it; the same board always gives the same text."""
        return json.dumps(json.loads(self._encoded()), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def _encoded(self) -> str:
        board = (
            dashboards.Dashboard(self.title)
            .uid(self.uid)
            .description(self.text)
            .tags([TAG])
            .readonly()
            .time("now-1h", "now")
            .refresh("10s")
            .timezone("browser")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .with_variable(dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
            .link(
                dashboards.DashboardLink("Numerator")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(True)
                .keep_time(True)
            )
        )
        number = 0
        for section in self.sections:
            number += 1
            board = board.with_row(dashboards.Row(section.title).id(number))
            for panel in section.panels:
                number += 1
                board = board.with_panel(panel.build(number))
        encoded: Any = JSONEncoder().encode(board.build())
        return str(encoded)
