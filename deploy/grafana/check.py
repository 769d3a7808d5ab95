"""Goes through every panel of every board and asks Prometheus what the panel would ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.grafana.promql import Prometheus, PrometheusError, ready

_WINDOW = "5m"


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What a panel's query shows.

    Attributes:
        values: its values now; none when it is empty.
        problem: what Prometheus says against it; empty when it has nothing to say.
    """

    board: str
    panel: str
    expr: str
    values: Sequence[float]
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether there is anything to see."""
        return bool(self.values)


async def check(prometheus: Prometheus, boards: Sequence[dict[str, Any]]) -> list[Shown]:
    """What each query of each panel shows now. A panel without data is a mistake: the normal absence is a zero."""
    return [
        await _shown(prometheus, board["title"], panel["title"], target["expr"])
        for board in boards
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


async def _shown(prometheus: Prometheus, board: str, panel: str, expr: str) -> Shown:
    try:
        found = await prometheus.now(ready(expr, _WINDOW))
    except PrometheusError as error:
        return Shown(board, panel, expr, (), str(error))
    return Shown(board, panel, expr, [value for series in found for _, value in series.points])
