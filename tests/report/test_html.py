"""report.html: one page, well formed, asking for nothing, with every value as text and every coordinate a number."""

import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from merge_advisor.advisor.planning.pool_map import FITTED, pool_map
from merge_advisor.report.html import to_html
from merge_advisor.report.maps import HEIGHT, TOOLTIPS, similarity_map
from merge_advisor.report.markdown import to_markdown
from merge_advisor.report.plots import Bar, Whisker, bar_plot, forest_plot
from merge_advisor.report.run_document import SET_ASIDE, ReportInput, run_document
from merge_advisor.report.svg import EM, WIDTH, breadth, brief, coordinate, fitted, scale_over
from merge_advisor.report.tuning_plots import history_plot, parallel_coordinate_plot, pareto_plot
from merge_advisor.report.tuning_section import WEIGHT_BARS
from merge_advisor.report.values import Side, SimilarityMap, TrialReport, TuningReport, best_so_far
from merge_advisor.types import SHOTS_LORA, Deltas, RefusedModel, Row, Selection, Space, from_json, to_json
from merge_advisor.verdict import judge
from tests.report import test_report as world

HOSTILE = (
    "</style></title></svg><script>alert('1')</script>\"'&amp; "
    "\u202eabc\x1b[31m\x00\n<img src=x onerror=y> {{ 7*7 }} 😀"
)


def html_report(report: ReportInput) -> str:
    return to_html(run_document(report))


def markdown_report(report: ReportInput) -> str:
    return to_markdown(run_document(report))


VOID = {"meta", "link", "br", "path", "circle", "rect"}


class Page(HTMLParser):
    """The page's elements as (name, attributes, text); an element closed wrongly is an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.ids = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        found = [tag, dict(attributes), ""]
        self.elements.append(found)
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID or (tag in ("path", "circle", "rect")):
            self.open.append(found)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] is self.elements[-1]:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {[found[0] for found in self.open]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag):
        return [found for found in self.elements if found[0] == tag]


def check(text):
    """What holds for every page and every plot; returns it parsed."""
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert not page.all("script") and not page.all("img") and not page.all("iframe") and not page.all("form")
    for tag, attributes, _ in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                assert value == "data:," or (value[0] == "#" and value[1:] in page.ids), (tag, value)
            if name in ("x", "y", "cx", "cy", "r", "width", "height", "d", "viewbox") and tag != "meta":
                assert re.fullmatch(r"[-0-9. MLhZ]+", value), (tag, name, value)
        assert "url(" not in attributes.get("style", "")
    assert all(c.isprintable() or c in "\n\u3000\xa0" for c in text), "a character a browser acts on unseen"
    for svg in page.all("svg"):
        if "aria-hidden" not in svg[1]:
            assert svg[1]["role"] == "img"
            assert all(name in page.ids for name in svg[1]["aria-labelledby"].split())
    return page


def trial(number, value, weights=(0.5, 0.5), *, label="tpe", whole=True, forwards=10):
    values = value if isinstance(value, tuple) else (value,)
    return TrialReport(number, label, values, tuple(weights), "exact", whole, forwards)


def tuning(values, *, members=("a", "b"), seed=0, **changes):
    draw = random.Random(seed)
    trials = [trial(0, 1.0, [1.0] * len(members), label="plan")] if len(values) else []
    trials += [
        trial(n, value, [draw.uniform(-1.5, 1.5) for _ in members], whole=n % 3 > 0)
        for n, value in enumerate(values, len(trials))
    ]
    sides = (
        Side("first", "tuning", "loss", 20, 0.5, 0.4, 0.02, 0.18),
        Side("first", "held-out", "loss", 40, 0.6, 0.58),
        Side("first", "held-out", "accuracy", 40, 0.75, None),
    )
    given = TuningReport("tpe", "mean loss", tuple(members), (1.0,) * len(members), tuple(trials), 0, "plan", sides)
    return replace(given, **changes)


def a_map(number, seed=0):
    draw = random.Random(seed)
    places = {f"model-{n}": (draw.uniform(-1, 1), draw.uniform(-1, 1)) for n in range(number)}
    return SimilarityMap((0.1, 0.2), places, (0.4, 0.2))


def full(**changes):
    whole = world.report(tuning=tuning([0.9, 0.5, None, 0.7, 40.0]), map=a_map(5), similarity={"model-1": 0.5})
    return replace(whole, **changes)


def texts(page):
    return " ".join(text for _, _, text in page.elements)


def test_the_page_tells_all_of_a_run():
    page = check(html_report(full()))
    found = texts(page)
    words = """Merge plan for|owner/base at c0ffee|anchor_diverse|Use the merge.|the merge reaches 90.0%|question 1
        |Rows won against anchor: 22|and 2 more|apache-2.0|not stated|disjoint by hash|conflict|2 rows were equal
        |merge-advisor merge run|Models set aside: 1|415"""
    for word in map(str.strip, words.split("|")):
        assert word in found, word
    assert len(page.all("html")) == len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("html")[0][1]["lang"] == "en"
    policy = next(m[1]["content"] for m in page.all("meta") if "http-equiv" in m[1])
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    plots = {svg[1]["aria-labelledby"].split("-")[0] for svg in page.all("svg") if "aria-hidden" not in svg[1]}
    assert plots == {"bars0", "forest0", "history", "tuned", "parallel", "map"}


def test_the_style_sheet_asks_for_nothing():
    style = check(html_report(full())).all("style")[0][2]
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert style.count("{") == style.count("}") and "prefers-color-scheme: dark" in style


def test_every_class_of_a_plot_has_a_colour():
    """An SVG element without a rule of its own would be black in the dark."""
    text = html_report(full(tuning=tuning([(0.9, 0.2), (0.5, 0.6), (0.7, 0.1)] * 9)))
    page = check(text)
    style = page.all("style")[0][2]
    for tag, attributes, _ in page.elements:
        if tag in ("path", "circle", "rect"):
            assert any(f".{name}" in style for name in attributes["class"].split()), attributes


def test_hostile_text_is_text():
    rows = tuple(Row(f"{HOSTILE}{'x' * 10_000}{n}", HOSTILE, (HOSTILE, "no")) for n in range(40))
    digests = tuple(row.digest for row in rows)
    models = tuple(replace(m, outputs=(HOSTILE,) * 40) for m in world.MODELS)
    _, _, comparisons = judge(models, "accuracy", digests)
    score = replace(
        world.score_of("first"), task=HOSTILE, evaluator=HOSTILE, row_digests=digests, models=models,
        comparisons=comparisons, reason=HOSTILE,
    )  # fmt: skip
    members = tuple(
        replace(m, id=f"{HOSTILE}{n}", licence=HOSTILE) for n, m in enumerate((*world.MEMBERS, *world.MEMBERS))
    )
    names = tuple(member.id for member in members)
    text = html_report(
        full(
            tasks=(replace(world.task_of(HOSTILE), heldout=rows),), scores=(score, replace(score, task="other")),
            reason=HOSTILE, selection=Selection(HOSTILE, members, 1.0, HOSTILE, 3), conflicts=(HOSTILE,),
            refused=(RefusedModel(HOSTILE, HOSTILE),), notes=(HOSTILE,), forwards={HOSTILE: 3},
            files=((HOSTILE, HOSTILE),),
            commands=(HOSTILE,), map=SimilarityMap((0.0, 0.0), dict.fromkeys(names, (0.1, 0.2)), (0.5, 0.5)),
            similarity=dict.fromkeys(names, 0.25),
            tuning=tuning([0.5, 0.25], members=names, goal=HOSTILE, sampler=HOSTILE, notes=(HOSTILE,),
                          reference=HOSTILE, sides=(Side(HOSTILE, "tuning", HOSTILE, 3, 0.1, 0.2),)),
        )
    )  # fmt: skip
    page = check(text)
    assert "alert('1')" in texts(page) and "{{ 7*7 }}" in texts(page)
    assert "\\u202eabc\\x1b[31m\\x00" in texts(page)
    assert len(page.all("style")) == 1 and "x" * 400 not in text
    assert len(text.encode()) < 200_000


def test_lines_of_a_row_stay_lines_and_rows_are_cut():
    rows = (
        Row("one\r\n\ttwo\x07\nthree", "no", ("no", "yes")),
        Row("y" * 10_000, "yes", ("no", "yes")),
        *world.ROWS[2:],
    )
    score = world.score_of("first")
    score = replace(score, row_digests=tuple(row.digest for row in rows))
    _, _, comparisons = judge(world.MODELS, "accuracy", score.row_digests)
    task = replace(world.task_of("first"), heldout=rows)
    page = check(html_report(full(tasks=(task,), scores=(replace(score, comparisons=comparisons),))))
    shown = [text for _, attributes, text in page.elements if attributes.get("class") == "text"]
    assert "y" * 299 + "…" in shown and not any("y" * 300 in text for text in shown)


def test_equal_values_give_equal_bytes():
    assert html_report(full()) == html_report(full())


def test_a_plan_that_was_not_scored_nor_tuned():
    text = html_report(
        world.report(scores=(), verdict=None, reason="", refused=(), notes=(), forwards={}, conflicts=())
    )
    page = check(text)
    assert "Not scored yet" in texts(page) and "No conflict found" in texts(page)
    for absent in ("Scores", "Tuning", "Similarity map", "Models set aside", "Notes", "Cost"):
        assert absent not in re.sub(r"(?s)<style>.*</style>", "", text), absent
    assert "weights" in {svg[1]["aria-labelledby"].split("-")[0] for svg in page.all("svg")}


def test_several_tasks():
    tasks = tuple(world.task_of(name) for name in ("first", "second"))
    scores = tuple(world.score_of(task.name) for task in tasks)
    page = check(html_report(full(tasks=tasks, scores=scores)))
    assert "One merge for all tasks" in texts(page) and "least gain over the base" in texts(page)
    assert {"scores-1", "scores-2", "bars0-t", "bars1-t"} <= set(page.ids)


def test_a_hub_of_a_thousand_and_three_hundred_trials_stays_small():
    draw = random.Random(0)
    ids = [f"owner-of-many/flan_t5_large-some-task-{n:04d}" for n in range(1000)]
    members = tuple(replace(world.MEMBERS[1], id=name) for name in ids[:20])
    places = {name: (draw.gauss(0, 1), draw.gauss(0, 1)) for name in ids}
    text = html_report(
        full(
            pool_size=1000,
            selection=Selection("additive", members, 1.0, "k reached", 3),
            map=SimilarityMap((0.0, 0.0), places, (0.3, 0.1)),
            similarity={name: draw.random() for name in ids},
            tuning=tuning([(draw.random(), draw.random()) for _ in range(300)], members=ids[:20]),
            refused=tuple(RefusedModel(f"model {n}", "is a pickle") for n in range(1000)),
        )
    )
    page = check(text)
    assert len(text.encode()) < 300_000
    assert f"and {1000 - SET_ASIDE} more" in texts(page)


# plots ----------------------------------------------------------------------------------------------------------------

VALUES = {
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
def test_plots_of_any_values(values):
    usable = [v for v in values if v is not None and math.isfinite(v)]
    rows = [Bar(f"bar {n}", v, f"{v}", other=1.0 if n % 2 else None, strong=n == 0) for n, v in enumerate(values)]
    for percent in (True, False):
        page = check(bar_plot("k", "Bars", rows, percent=percent))
        assert len(page.all("rect")) == len(usable) + len(values) // 2
    ends = [(v, None if v is None else v - 1, None if v is None else v + 1) for v in values]
    whiskers = [Whisker(f"row {n}", v, low, high, f"{v}") for n, (v, low, high) in enumerate(ends)]
    page = check(forest_plot("k", "Forest", whiskers, ends=("worse", "better")))
    assert sum("mark" in found[1].get("class", "") for found in page.all("path")) == len(usable)
    told = tuning(values)
    page = check(history_plot("k", told))
    kinds = [found[1]["class"].split()[0] for found in page.all("path") + page.all("circle")]
    assert sum(kind in ("trial", "off", "lost") for kind in kinds) == len(told.trials)
    assert len(
        [p for p in check(parallel_coordinate_plot("k", told)).all("path") if p[1]["class"].startswith("along")]
    ) == sum(trial.value is not None for trial in told.trials)
    check(pareto_plot("k", tuning([(v, 1.0) for v in values] + [(1.0, v) for v in values])))


@pytest.mark.parametrize("number", [0, 1, 2, 5, TOOLTIPS + 30])
@pytest.mark.parametrize("members", [0, 1, 20])
def test_maps_of_any_size(number, members):
    found = a_map(number)
    names = list(found.candidates)[:members]
    chosen = tuple(replace(world.MEMBERS[min(n, 1)], id=name) for n, name in enumerate(names))
    page = check(similarity_map("k", found, Selection("s", chosen, 1.0, "", 0)))
    assert sum(found[1]["class"] == "member" for found in page.all("path") + page.all("circle")) == len(chosen)
    assert len(page.all("circle")) <= TOOLTIPS + 20
    for _, attributes, _ in page.all("circle"):
        assert 0 <= float(attributes["cx"]) <= WIDTH and 0 <= float(attributes["cy"]) <= HEIGHT
    shown = [text for _, _, text in page.all("text")]
    assert shown[0] == "task" and all(name in shown for name in names[:8] if members <= 8)


def test_a_map_where_all_lie_in_one_place_or_the_shots_joined():
    same = SimilarityMap((0.0, 0.0), dict.fromkeys(("a", "b", "c" * 300), (0.0, 0.0)), (0.0, 0.0))
    chosen = (replace(world.MEMBERS[0], id=SHOTS_LORA), replace(world.MEMBERS[1], id="c" * 300))
    page = check(similarity_map("k", same, Selection("s", chosen, 1.0, "", 0), {"a": 0.5, "b": None}))
    assert "task (shots_lora, a member)" in [text for _, _, text in page.all("title")]


def test_labels_of_a_map_do_not_cover_one_another():
    found = a_map(30, seed=3)
    chosen = tuple(replace(world.MEMBERS[1], id=f"model-{n}") for n in range(6))
    page = check(similarity_map("k", found, Selection("s", chosen, 1.0, "", 0)))
    boxes = []
    for _, attributes, text in page.all("text"):
        wide = breadth(text) * EM
        x = float(attributes["x"]) - wide * {"middle": 0.5, "end": 1.0}.get(attributes.get("text-anchor"), 0.0)
        boxes.append((x, float(attributes["y"]) - 10, x + wide, float(attributes["y"])))
    for n, one in enumerate(boxes):
        for other in boxes[:n]:
            assert not (one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])


def test_the_winner_is_bold_and_outliers_leave_the_axis():
    told = tuning([0.9, 0.5, None, 0.7, 1e6, 0.6, 0.8], winner=2)
    page = check(history_plot("k", told))
    classes = [found[1]["class"] for found in page.all("path") + page.all("circle")]
    assert classes.count("winner") == classes.count("off") == classes.count("lost") == classes.count("best") == 1
    assert "1 above the axis" in page.all("desc")[0][2] and "1 of them without a number" in page.all("desc")[0][2]
    assert sum("winning" in found[1]["class"] for found in check(parallel_coordinate_plot("k", told)).all("path")) == 1
    assert best_so_far(told.trials) == [1.0, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_many_members_are_numbered_and_the_heaviest_drawn():
    members = tuple(f"member-{n}" for n in range(40))
    told = tuning([0.5] * 4, members=members)
    page = check(html_report(full(tuning=told)))
    listed = [item for item in page.all("li") if "value" in item[1]]
    assert len(listed) == 16 and listed[0][2] == members[int(listed[0][1]["value"]) - 1]
    assert len(page.all("rect")) >= 2 * WEIGHT_BARS


def test_a_report_of_tuning_in_words():
    text = markdown_report(full())
    found = world.section(text, "Tuning")
    assert "6 trials by tpe, 1 of them stopped early, 60 forward passes." in found
    assert "Winner: trial 0 (plan, exact), value 1; it is compared with plan." in found
    assert "| first | loss | tuning | 20 | 0.500 | 0.400 | +0.100 | +0.020 to +0.180 |" in found
    assert "| first | accuracy | held-out | 40 | 75.0% |  |  |  |" in found
    assert "## Tuning" not in markdown_report(world.report())


def test_values_go_through_json():
    told, found = tuning([(0.5, None), (0.25, 0.75)]), a_map(3)
    assert from_json(TuningReport, to_json(told), "tuning.json") == told
    assert from_json(SimilarityMap, to_json(found), "map.json") == found
    assert json.loads(to_json(found))["task"] == [0.1, 0.2]


# parts ----------------------------------------------------------------------------------------------------------------


def test_coordinates_are_finite():
    assert [coordinate(v) for v in (1.0, -0.04, 2.25, 1e3)] == ["1", "0", "2.2", "1000"]
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="no coordinate"):
            coordinate(value)


@pytest.mark.parametrize(
    "text", ["short", "w" * 10_000, "漢" * 500, "😀" * 300, "i" * 400, "a\u0301" * 200, HOSTILE * 20]
)
def test_text_is_cut_to_the_room_there_is(text):
    for room in (400, 120, 60):
        shown = fitted(text, room)
        assert breadth(shown) * EM <= room and shown.isprintable()
        assert ("…" in shown) == (len(text) > 10) or shown == text


def test_ids_that_begin_alike_lose_their_beginning_where_room_is_scarce():
    names = ("owner/flan_t5_large-anli_r1", "owner/flan_t5_large-wiki_qa")
    assert list(brief(names, 60).values()) == ["anli_r1", "wiki_qa"]
    assert brief(names, 1000)[names[0]] == names[0] and brief(names[:1], 10) == {names[0]: names[0]}
    assert brief((), 10) == {} and brief(("a-" * 9, "a-" * 9 + "b"), 10)["a-" * 9 + "b"] == "b"


@pytest.mark.parametrize("ends", [(0, 1), (0.2, 1.35), (-3, 12345), (1e-7, 3e-7), (-1e90, 1e95), (5, 5)])
def test_axes_have_round_ticks_that_differ(ends):
    scale = scale_over(ends, 0, 100)
    assert 3 <= len(scale.ticks) <= 7 and len({scale.tick_text(tick) for tick in scale.ticks}) == len(scale.ticks)
    assert all(scale.low - scale.step * 1e-6 <= tick <= scale.high + scale.step * 1e-6 for tick in scale.ticks)
    assert scale(scale.low) == 0 and scale(scale.high) == 100 and scale(scale.high * 2 + 1) == 100


def test_the_map_of_a_pool():
    draw = np.random.default_rng(0)
    array = draw.normal(size=(9, 16)).astype(np.float32)
    space = Space("b", "e", "p", "l", "pool", "float32", 16)
    ids = tuple(f"m{n}" for n in range(9))
    found = pool_map(Deltas(space, ids, array), array[3] * 2)
    assert found.task == found.candidates["m3"]  # length does not matter
    assert found == pool_map(Deltas(space, ids, array.copy()), array[3] * 2)
    assert 0 < found.shares[1] <= found.shares[0] < 1
    order = (4, 2, 0, 1, 8, 7, 5, 6, 3)
    turned = pool_map(Deltas(space, tuple(ids[n] for n in order), array[list(order)]), array[3])
    for name, place in found.candidates.items():
        assert np.allclose(place, turned.candidates[name], atol=2e-4)
    distance = np.linalg.norm(np.subtract(found.candidates["m0"], found.candidates["m1"]))
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    assert distance <= np.linalg.norm(unit[0] - unit[1]) + 1e-3  # a projection brings nothing farther apart


@pytest.mark.parametrize("number", [1, 2, FITTED * 2 + 5])
def test_the_map_of_pools_that_span_nothing(number):
    space = Space("b", "e", "p", "l", "pool", "float32", 4)
    for row in (np.zeros(4), np.ones(4)):
        array = np.tile(row.astype(np.float32), (number, 1))
        found = pool_map(Deltas(space, tuple(map(str, range(number))), array), row.astype(np.float32))
        assert found.shares == (0.0, 0.0) and set(found.candidates.values()) == {(0.0, 0.0)}
        check(similarity_map("k", found, Selection("s", (), 1.0, "", 0)))
