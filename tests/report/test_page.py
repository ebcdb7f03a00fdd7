"""report.html of a run: one page, well formed, asking for nothing, with every value as text."""

import random
import re
from dataclasses import replace

from merge_advisor.report.run_document import SET_ASIDE
from merge_advisor.report.tuning_section import WEIGHT_BARS
from merge_advisor.report.values import Side, SimilarityMap
from merge_advisor.types import RefusedModel, Row, Selection
from merge_advisor.verdict import judge
from tests.support.pages import HOSTILE, check, plots, texts
from tests.support.report_world import MEMBERS, MODELS, ROWS, full, html_report, score_of, task_of, tuning, unscored


def test_the_page_tells_all_of_a_run() -> None:
    page = check(html_report(full()))
    shown = texts(page)
    words = """Merge plan for|owner/base at c0ffee|anchor_diverse|use the merge: it reaches 90.0%|question 1
        |Rows won against anchor: 22|and 2 more|apache-2.0|not stated|disjoint by input|conflict|2 rows were equal
        |merge-advisor merge run|Models set aside: 1|415"""
    for word in map(str.strip, words.split("|")):
        assert word in shown, word
    assert len(page.all("html")) == len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("html")[0].attributes["lang"] == "en"
    policy = next(m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert plots(page) == {"bars0", "forest0", "history", "tuned", "parallel", "map"}


def test_the_style_sheet_asks_for_nothing() -> None:
    style = check(html_report(full())).all("style")[0].text
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert style.count("{") == style.count("}") and "prefers-color-scheme: dark" in style


def test_every_class_of_a_plot_has_a_colour() -> None:
    """An SVG element without a rule of its own would be black in the dark."""
    text = html_report(full(tuning=tuning([(0.9, 0.2), (0.5, 0.6), (0.7, 0.1)] * 9)))
    page = check(text)
    style = page.all("style")[0].text
    for tag, attributes, _ in page.elements:
        if tag in ("path", "circle", "rect"):
            assert any(f".{name}" in style for name in attributes["class"].split()), attributes


def test_hostile_text_is_text() -> None:
    rows = tuple(Row(f"{HOSTILE}{'x' * 10_000}{n}", HOSTILE, (HOSTILE, "no")) for n in range(40))
    digests = tuple(row.digest for row in rows)
    models = tuple(replace(m, outputs=(HOSTILE,) * 40) for m in MODELS)
    _, _, comparisons = judge(models, "accuracy", digests)
    score = replace(
        score_of("first"), task=HOSTILE, evaluator=HOSTILE, row_digests=digests, models=models,
        comparisons=comparisons, reason=HOSTILE,
    )  # fmt: skip
    members = tuple(replace(m, id=f"{HOSTILE}{n}", licence=HOSTILE) for n, m in enumerate((*MEMBERS, *MEMBERS)))
    names = tuple(member.id for member in members)
    text = html_report(
        full(
            tasks=(replace(task_of(HOSTILE), heldout=rows),), scores=(score, replace(score, task="other")),
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


def test_lines_of_a_row_stay_lines_and_rows_are_cut() -> None:
    rows = (
        Row("one\r\n\ttwo\x07\nthree", "no", ("no", "yes")),
        Row("y" * 10_000, "yes", ("no", "yes")),
        *ROWS[2:],
    )
    score = score_of("first")
    score = replace(score, row_digests=tuple(row.digest for row in rows))
    _, _, comparisons = judge(MODELS, "accuracy", score.row_digests)
    task = replace(task_of("first"), heldout=rows)
    page = check(html_report(full(tasks=(task,), scores=(replace(score, comparisons=comparisons),))))
    shown = [text for _, attributes, text in page.elements if attributes.get("class") == "text"]
    assert "y" * 299 + "…" in shown and not any("y" * 300 in text for text in shown)


def test_equal_values_give_equal_bytes() -> None:
    assert html_report(full()) == html_report(full())


def test_a_plan_that_was_not_scored_nor_tuned() -> None:
    text = html_report(unscored())
    page = check(text)
    assert "Not scored yet" in texts(page) and "No conflict found" in texts(page)
    for absent in ("Scores", "Tuning", "Similarity map", "Models set aside", "Notes", "Cost"):
        assert absent not in re.sub(r"(?s)<style>.*</style>", "", text), absent
    assert "weights" in plots(page)


def test_several_tasks() -> None:
    tasks = tuple(task_of(name) for name in ("first", "second"))
    scores = tuple(score_of(task.name) for task in tasks)
    page = check(html_report(full(tasks=tasks, scores=scores)))
    assert "One merge for all tasks" in texts(page) and "least gain over the base" in texts(page)
    assert {"scores-1", "scores-2", "bars0-t", "bars1-t"} <= set(page.ids)


def test_a_hub_of_a_thousand_and_three_hundred_trials_stays_small() -> None:
    draw = random.Random(0)
    ids = [f"owner-of-many/flan_t5_large-some-task-{n:04d}" for n in range(1000)]
    members = tuple(replace(MEMBERS[1], id=name) for name in ids[:20])
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


def test_many_members_are_numbered_and_the_heaviest_drawn() -> None:
    members = tuple(f"member-{n}" for n in range(40))
    page = check(html_report(full(tuning=tuning([0.5] * 4, members=members))))
    listed = [item for item in page.all("li") if "value" in item.attributes]
    assert len(listed) == 16 and listed[0].text == members[int(listed[0].attributes["value"]) - 1]
    assert len(page.all("rect")) >= 2 * WEIGHT_BARS
