"""The dashboard: what its program makes, complete, and laid out without overlap."""

import json
import re
from itertools import pairwise

import pytest

from deploy.grafana.dashboard import PATH, render
from tests.deploy.support import Parsed
from tests.deploy.test_prometheus import rules

DASHBOARD: Parsed = json.loads(PATH.read_text())
PANELS: list[Parsed] = DASHBOARD["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]

charts = pytest.mark.parametrize("panel", CHARTS, ids=lambda panel: panel["title"])


def cells(panel: Parsed) -> set[tuple[int, int]]:
    """The places of the grid that it takes."""
    at = panel["gridPos"]
    columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
    return {(x, y) for x in columns for y in rows}


def test_the_file_is_what_the_program_makes() -> None:
    assert PATH.read_text() == render(), "run: python -m deploy.grafana.dashboard"


def test_panels_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)


def test_panels_fill_the_grid_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = cells(panel)
        assert not place & taken, panel["title"]
        taken |= place
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (1 + max(y for _, y in taken)), "a hole"


def test_rows_and_panels_come_from_top_to_bottom() -> None:
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in PANELS]
    assert all(first < second for first, second in pairwise(places))


@charts
def test_panel_explains_itself(panel: Parsed) -> None:
    assert len(panel["description"].split()) > 3
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(target["legendFormat"] for target in panel["targets"])
    if panel["type"] == "stat":
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]


@charts
def test_panel_asks_the_chosen_source(panel: Parsed) -> None:
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


@charts
def test_panel_keeps_to_the_chosen_fleet(panel: Parsed) -> None:
    asked = " ".join(target["expr"] for target in panel["targets"])
    series = re.findall(r"makespan[_:][a-z0-9_:]+(?:\{[^}]*\})?", asked)
    fleets = [each for each in series if each != "makespan:error_budget:ratio"]  # for all the same
    assert fleets
    assert all('namespace=~"$namespace"' in each for each in fleets)


def test_stacked_shares_are_shares() -> None:
    """Stacking to a hundred per cent would leave the legend with what is stacked."""
    for panel in CHARTS:
        stacking = panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {})
        assert stacking.get("mode") != "percent"


def test_one_can_choose_the_source_the_fleet_the_jobs_the_models_and_the_workers() -> None:
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "job", "agents", "model", "worker"]
    text = json.dumps(PANELS)
    assert all(f"${name}" in text or f"${{{name}}}" in text for name in names)


def test_what_is_recorded_is_used() -> None:
    """By another rule or by a panel."""
    asked = [target["expr"] for panel in CHARTS for target in panel["targets"]]
    asked += [rule["expr"] for rule in rules("expr")]
    for rule in rules("record"):
        assert any(rule["record"] in expression for expression in asked)
