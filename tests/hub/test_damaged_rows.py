"""A row of the catalogue that was damaged is never used: reading it is one line, `check --repair` drops it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from merge_advisor.errors import RunError
from merge_advisor.hub import Hub
from merge_advisor.hub.values import HubJudged, HubRun, HubScore
from merge_advisor.scores import RunCost
from tests.hub.hub_world import TIME, filled

READS: dict[str, tuple[str, str, Callable[[Hub], object]]] = {
    "space that is no JSON": ("spaces", "fields = substr(fields, 2)", lambda hub: hub.catalogue.spaces()),
    "space of another kind": ("spaces", "fields = replace(fields, 'f', 'g')", lambda hub: hub.catalogue.spaces()),
    "base": ("bases", "id = id || 'x'", lambda hub: hub.catalogue.bases()),
    "run that is no JSON": ("runs", "tasks = '['", lambda hub: hub.runs()),
    "verdict": ("runs", "verdict = 'other'", lambda hub: hub.runs()),
    "cost": ("costs", "cost = replace(cost, '1', '2')", lambda hub: hub.runs()),
    "gate": ("judged", "outcome = 'failed'", lambda hub: hub.judged()),
    "score": ("scores", "value = 0.75", lambda hub: hub.results.scored()),
}  # fmt: skip


@pytest.mark.parametrize("damage", READS)
def test_a_damaged_row_is_one_line_and_dropped_by_a_repair(damage: str, tmp_path: Path) -> None:
    table, change, read = READS[damage]
    with filled(tmp_path, 2) as hub:
        hub.add_score("m1", HubScore("sums", "accuracy", 0.5, 0.3, 0.7, 40, "fast 1"))
        hub.results.keep_run(HubRun("runs/a", TIME, ("sums",), "merge", RunCost(10, 1.0)))
        hub.results.keep_judged("g", HubJudged("gate", "new", "old", ("sums",), "passed", TIME))
        before = read(hub)
        assert before == read(hub)
        hub.catalogue.file.run(f"UPDATE {table} SET {change}")
        with pytest.raises(
            RunError, match=rf"a row of its {table} was damaged; `merge-advisor hub check --repair` drops it"
        ):
            read(hub)
        assert not hub.check().whole
        hub.check(repair=True)
        assert read(hub) != before


def test_modules_that_are_no_list_are_one_line(tmp_path: Path) -> None:
    with filled(tmp_path, 2) as hub:
        hub.catalogue.file.run("UPDATE entries SET modules = '[1' WHERE number = 1")
        with pytest.raises(RunError, match="modules of a model were damaged; `merge-advisor hub check --repair`"):
            hub.catalogue.modules("base")
