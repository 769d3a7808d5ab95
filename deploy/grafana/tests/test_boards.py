"""The boards are what Grafana takes, whole, and ask for what there is."""

import json
from itertools import combinations
from typing import Any

import pytest

from deploy.grafana.boards import BOARDS
from deploy.grafana.promql import DASHBOARDS, OVERVIEW, boards
from deploy.local.programs import SERVICES
from deploy.prometheus.tests.names import unknown

FOUND = boards()
PANELS = [
    pytest.param(panel, id=f"{board['title'].removeprefix('Numerator: ')}: {panel['title']}")
    for board in FOUND.values()
    for panel in board["panels"]
    if panel["type"] != "row"
]


def test_files__are_what_the_code_says() -> None:
    """`python -m deploy.grafana write` was run after the last change, and nothing else lies there."""
    assert {file.name: file.read_text(encoding="utf-8") for file in DASHBOARDS.iterdir()} == {
        f"{board.uid}.json": board.json() for board in BOARDS
    }


def test_boards__have_the_names_that_are_in_bookmarks() -> None:
    """A uid stays for ever; the overview comes first; every service has a board."""
    assert set(FOUND) == {
        f"numerator-{name}" for name in ("overview", "business", "gateway", "broker", *SERVICES)
    }
    assert next(iter(FOUND)) == OVERVIEW


@pytest.mark.parametrize("board", FOUND.values(), ids=FOUND)
def test_boards__are_whole(board: dict[str, Any]) -> None:
    """Panels have ids of their own, lie on the grid and on nobody else, and the data source is for whoever looks to choose."""
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource"]
    assert board["templating"]["list"][0]["query"] == "prometheus"
    assert board["description"]
    places = [
        {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for at in (panel["gridPos"] for panel in panels)
    ]
    assert all(0 <= x < 24 for place in places for x, _ in place)
    assert not any(one & other for one, other in combinations(places, 2))


@pytest.mark.parametrize("panel", PANELS)
def test_panels__say_what_they_show(panel: dict[str, Any]) -> None:
    """Each has a title, a unit, a text that says what to do, and questions to the chosen data source."""
    assert panel["title"]
    assert panel["description"].endswith(".") or panel["description"].endswith(")")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["expr"]
        assert target["legendFormat"]
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("panel", PANELS)
def test_panels__ask_for_what_there_is(panel: dict[str, Any]) -> None:
    """Every metric is documented, recorded by a rule, or another program's."""
    assert not {name for target in panel["targets"] for name in unknown(target["expr"])}


def test_board__json__is_grafanas() -> None:
    """What is generated is an importable model: no id of one installation, and a schema version."""
    for board in BOARDS:
        model = json.loads(board.json())
        assert model.get("id") is None
        assert model["schemaVersion"] >= 39
        assert model["uid"] == board.uid
