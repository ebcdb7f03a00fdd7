"""The plots of a run's report: every value drawn, whatever it is, and nothing that breaks."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from merge_advisor.report.maps import HEIGHT, TOOLTIPS, similarity_map
from merge_advisor.report.plots import Bar, Whisker, bar_plot, forest_plot
from merge_advisor.report.svg import EM, WIDTH, breadth
from merge_advisor.report.tuning_plots import history_plot, parallel_coordinate_plot, pareto_plot
from merge_advisor.report.values import SimilarityMap, best_so_far
from merge_advisor.types import SHOTS_LORA, Selection
from tests.support.pages import check
from tests.support.report_world import MEMBERS, a_map, tuning

VALUES: dict[str, list[float | None]] = {
    "none": [],
    "one": [0.5],
    "two": [0.5, 0.25],
    "equal": [0.5] * 7,
    "zero": [0.0] * 3,
    "no numbers": [None, math.nan, math.inf, -math.inf],
    "some numbers": [None, 0.3, math.nan, -0.2, math.inf],
    "far apart": [1e300, -1e300, 1e-300, 1e-9],
    "tiny": [1e-320, 2e-320],
    "close": [1.0, 1.0 + 1e-15],
    "outliers": [0.5, 0.4, 0.6, 0.55, 1e9, 0.3, 0.5],
    "many": [math.sin(n) for n in range(150)],
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_plots_of_any_values(values: Sequence[float | None]) -> None:
    usable = [v for v in values if v is not None and math.isfinite(v)]
    rows = [Bar(f"bar {n}", v, f"{v}", other=1.0 if n % 2 else None, strong=n == 0) for n, v in enumerate(values)]
    for percent in (True, False):
        page = check(bar_plot("k", "Bars", rows, percent=percent))
        assert len(page.all("rect")) == len(usable) + len(values) // 2
    ends = [(v, None if v is None else v - 1, None if v is None else v + 1) for v in values]
    whiskers = [Whisker(f"row {n}", v, low, high, f"{v}") for n, (v, low, high) in enumerate(ends)]
    page = check(forest_plot("k", "Forest", whiskers, ends=("worse", "better")))
    assert sum("mark" in element.attributes.get("class", "") for element in page.all("path")) == len(usable)
    searched = tuning(values)
    page = check(history_plot("k", searched))
    kinds = [element.attributes["class"].split()[0] for element in page.all("path") + page.all("circle")]
    assert sum(kind in ("trial", "off", "lost") for kind in kinds) == len(searched.trials)
    lines = check(parallel_coordinate_plot("k", searched)).all("path")
    along = [element for element in lines if element.attributes["class"].startswith("along")]
    assert len(along) == sum(trial.value is not None for trial in searched.trials)
    check(pareto_plot("k", tuning([(v, 1.0) for v in values] + [(1.0, v) for v in values])))


@pytest.mark.parametrize("number", [0, 1, 2, 5, TOOLTIPS + 30])
@pytest.mark.parametrize("members", [0, 1, 20])
def test_maps_of_any_size(number: int, members: int) -> None:
    placed = a_map(number)
    names = list(placed.candidates)[:members]
    chosen = tuple(replace(MEMBERS[min(n, 1)], id=name) for n, name in enumerate(names))
    page = check(similarity_map("k", placed, Selection("s", chosen, 1.0, "", 0)))
    marks = page.all("path") + page.all("circle")
    assert sum(element.attributes["class"] == "member" for element in marks) == len(chosen)
    assert len(page.all("circle")) <= TOOLTIPS + 20
    for _, attributes, _ in page.all("circle"):
        assert 0 <= float(attributes["cx"]) <= WIDTH and 0 <= float(attributes["cy"]) <= HEIGHT
    shown = [text for _, _, text in page.all("text")]
    assert shown[0] == "task" and all(name in shown for name in names[:8] if members <= 8)


def test_a_map_where_all_lie_in_one_place_or_the_shots_joined() -> None:
    same = SimilarityMap((0.0, 0.0), dict.fromkeys(("a", "b", "c" * 300), (0.0, 0.0)), (0.0, 0.0))
    chosen = (replace(MEMBERS[0], id=SHOTS_LORA), replace(MEMBERS[1], id="c" * 300))
    page = check(similarity_map("k", same, Selection("s", chosen, 1.0, "", 0), {"a": 0.5, "b": None}))
    assert "task (shots_lora, a member)" in [text for _, _, text in page.all("title")]


def test_labels_of_a_map_do_not_cover_one_another() -> None:
    placed = a_map(30, seed=3)
    chosen = tuple(replace(MEMBERS[1], id=f"model-{n}") for n in range(6))
    page = check(similarity_map("k", placed, Selection("s", chosen, 1.0, "", 0)))
    boxes = []
    for _, attributes, text in page.all("text"):
        wide = breadth(text) * EM
        x = float(attributes["x"]) - wide * {"middle": 0.5, "end": 1.0}.get(attributes.get("text-anchor", ""), 0.0)
        boxes.append((x, float(attributes["y"]) - 10, x + wide, float(attributes["y"])))
    for n, one in enumerate(boxes):
        for other in boxes[:n]:
            assert not (one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])


def test_the_winner_is_bold_and_outliers_leave_the_axis() -> None:
    searched = tuning([0.9, 0.5, None, 0.7, 1e6, 0.6, 0.8], winner=2)
    page = check(history_plot("k", searched))
    classes = [element.attributes["class"] for element in page.all("path") + page.all("circle")]
    assert classes.count("winner") == classes.count("off") == classes.count("lost") == classes.count("best") == 1
    assert "1 above the axis" in page.all("desc")[0].text and "1 of them without a number" in page.all("desc")[0].text
    lines = check(parallel_coordinate_plot("k", searched)).all("path")
    assert sum("winning" in element.attributes["class"] for element in lines) == 1
    assert best_so_far(searched.trials) == [1.0, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
