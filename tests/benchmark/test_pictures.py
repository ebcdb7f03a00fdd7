"""The pictures of a benchmark's report, from plain values: order, classes, places, and nothing that breaks."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from merge_advisor.benchmark.analysis.curves import CostPoint, Sweep, SweepPoint, TaskTable
from merge_advisor.benchmark.analysis.prediction import Agreement, Promise, ReliabilityBin
from merge_advisor.benchmark.analysis.ranks import Ranking
from merge_advisor.benchmark.report.drawing import cost_plot, rank_plot, reliability_plot, sweep_plot
from merge_advisor.benchmark.report.heat_map import heat_class, heat_limit, heat_map
from merge_advisor.report.plots import Whisker, forest_plot
from merge_advisor.report.svg import WIDTH
from tests.support.pages import Page, check, texts


def test_the_band_and_second_lines_of_a_forest() -> None:
    row = Whisker("a", 1.0, 0.5, 1.5, "+1.0", "own-out", side="even")
    page = check(forest_plot("f", "t", [row, replace(row, lower=None)], ends=("worse", "better"), band=2.0))
    bands = [a for tag, a, _ in page.elements if tag == "rect"]
    assert len(bands) == 2 and {a["class"] for a in bands} == {"band"}
    middle = float(bands[0]["x"]) + float(bands[0]["width"]) / 2
    zero = next(a["d"] for _, a, _ in page.elements if a.get("class") == "zero")
    assert middle == pytest.approx(float(zero[1:].split()[0]), abs=0.1) and "own-out" in texts(page)
    assert {a["class"] for _, a, _ in page.elements if "mark" in a.get("class", "")} == {"mark even"}
    assert 'class="band"' not in forest_plot("f", "t", [row], ends=("worse", "better"))


RANKING = Ranking(("b", "a", "c"), (1.2, 2.0, 2.8), ("f", "g"), 0.5, (), (("b", "a"), ("a", "c")), "")


def test_ranks_are_drawn_in_order() -> None:
    page = check(rank_plot("r", "t", RANKING, {"a": "better"}))
    marks = [a for tag, a, _ in page.elements if tag == "circle"]
    places = [float(a["cx"]) for a in marks]
    assert places == sorted(places) and marks[1]["class"] == "mark better"
    assert sum(a.get("class") == "clique" for _, a, _ in page.elements) == 2
    assert rank_plot("r", "t", replace(RANKING, arms=("a",), mean_ranks=(1.0,), cliques=()), {}) == ""


def test_colours_of_a_heat_map() -> None:
    rows: list[list[float | None]] = [[1.0, -2.0, None], [4.0, 0.0, math.nan]]
    limit = heat_limit(rows)
    assert limit == 4.0 and heat_limit([[0.0, None]]) == 0.0
    classes = [heat_class(value, limit) for row in rows for value in row]
    assert classes == ["up1", "down2", "none", "up4", "same", "none"]
    assert heat_class(99.0, limit) == "up4" and heat_class(0.0, 0.0) == "same" and heat_class(0.01, limit) == "up1"
    found = TaskTable(("a", "b", "c"), ("x", "y"), ("f", "f"), ())
    page = check(heat_map("h", "t", found, rows, points=True))
    assert [a["class"] for tag, a, _ in page.elements if tag == "rect"] == [f"heat {name}" for name in classes]
    cells = [text for tag, a, text in page.elements if a.get("class", "").startswith("cell")]
    assert cells == ["+1", "-2", "+4", "0"] and "x, c: no result" in texts(page)
    assert heat_map("h", "t", replace(found, tasks=(), families=()), [], points=True) == ""


def names_of(page: Page) -> list[str]:
    """Texts of a heat map, without the numbers of its cells."""
    return [text for tag, a, text in page.elements if tag == "text" and not a.get("class", "").startswith("cell")]


def test_tasks_are_named_under_their_families() -> None:
    """A family is no heading over a task of its name, and its name is not said again before each of its tasks."""
    tasks = ("navigate", "sums", "sums__two_digits", "tracking_five_objects", "tracking_three_objects")
    found = TaskTable(("a",), tasks, ("navigate", "sums", "sums", "tracking", "tracking"), ())
    page = check(heat_map("h", "t", found, [[1.0]] * 5, points=True))
    assert names_of(page)[1:] == ["navigate", "sums", "sums", "two_digits", "tracking", "five_objects", "three_objects"]
    shared = replace(
        found,
        tasks=("maps__past", "maps__plural", "a__2_b", "a__2_c", "maps__x"),
        families=("words", "words", "a", "a", "tracking"),
    )
    page = check(heat_map("h", "t", shared, [[1.0]] * 5, points=True))
    assert names_of(page)[1:] == ["words", "past", "plural", "a", "2_b", "2_c", "tracking", "maps__x"]
    alone = replace(found, families=tasks)
    page = check(heat_map("h", "t", alone, [[1.0]] * 5, points=True))
    assert not any("family" in a.get("class", "") for _, a, _ in page.elements)


def test_a_heat_map_of_many_arms_has_no_numbers() -> None:
    arms = tuple(f"arm {n}" for n in range(40))
    found = TaskTable(arms, ("x",), ("f",), ())
    page = check(heat_map("h", "t", found, [[float(n) for n in range(40)]], points=False))
    assert not [a for _, a, _ in page.elements if a.get("class", "").startswith("cell")]
    assert len(page.all("rect")) == 40


def a_sweep(arm: str, *means: float, oracle: bool = False) -> Sweep:
    points = tuple(SweepPoint(2**n, m, m - 1, m + 1, 9, 18) for n, m in enumerate(means))
    return Sweep(arm, points, oracle)


def test_a_sweep_names_its_lines_apart() -> None:
    sweeps = [a_sweep(f"arm {n}", 1.0, 1.0 + n / 1000) for n in range(14)] + [a_sweep("oracle", 5, 6, oracle=True)]
    page = check(sweep_plot("s", "t", sweeps, {"arm 3": "better"}))
    names = [a for _, a, text in page.elements if text.startswith(("arm", "oracle")) and a.get("x")]
    heights = sorted(float(a["y"]) for a in names if float(a["x"]) > 250)
    assert len(heights) == 15 and all(b - a > 12 for a, b in pairwise(heights))
    assert max(heights) < 266 and sum("whisker" in a.get("class", "") for _, a, _ in page.elements) == 2
    assert sum("oracle" in a.get("class", "") for _, a, _ in page.elements) == 1
    assert sweep_plot("s", "t", [], {}) == ""


def cost(arm: str, forwards: float, gain: float, *, oracle: bool = False) -> CostPoint:
    return CostPoint(arm, forwards, gain, gain - 1, gain + 1, 9, 18, oracle=oracle)


def test_the_front_of_cost_and_gain() -> None:
    points = [cost("free", 0, 1), cost("expensive", 5000, 2), cost("best", 300, 3), cost("oracle", 10, 9, oracle=True)]
    page = check(cost_plot("c", "t", points, {"best": "better"}))
    best, free, expensive, oracle = (
        float(element.attributes["cx"]) for element in page.all("circle")
    )  # the marked one first
    assert free < oracle < best < expensive
    front = next(a["d"] for _, a, _ in page.elements if a.get("class") == "front")
    assert (
        front.count("L") == 2
    )  # from the free one over to the best one and up to it: the expensive one is on no front
    assert check(cost_plot("c", "t", [cost("a", 0, 0)], {})) and cost_plot("c", "t", [], {}) == ""


def test_promises_far_off_do_not_flatten_the_others() -> None:
    promises = tuple(Promise("a", f"t{n}", "f", n / 100, n / 100) for n in range(50))
    broken = (*promises, Promise("a", "broken", "f", -900.0, -800.0))
    bins = (ReliabilityBin(0.1, 0.1, 0.0, 0.2, 25, ("f",)), ReliabilityBin(0.4, 0.4, 0.2, 0.5, 25, ("f",)))
    found = Agreement(("a",), 1.0, None, None, None, None, None, broken, bins, 1, "")
    page = check(reliability_plot("r", "t", found))
    description = page.all("desc")[0].text
    assert description == "51 promises, 51 drawn, 1 of them at the edge that lie beyond it"
    places = next(a["d"] for _, a, _ in page.elements if a.get("class") == "promises")
    xs = [float(spot.split()[0]) for spot in places.replace("h0", "").split("M")[1:]]
    assert max(xs) - sorted(xs)[1] > WIDTH / 2
    assert reliability_plot("r", "t", replace(found, promises=(), bins=())) == ""
    alone = replace(found, promises=promises[:1], bins=bins[:1])
    assert check(reliability_plot("r", "t", alone))
