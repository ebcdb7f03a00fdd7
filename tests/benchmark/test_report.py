"""The report of a benchmark: every number behind a picture in a CSV, every name as text, no part that breaks."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
import yaml
from pydantic import TypeAdapter

from merge_advisor.benchmark.analysis.contrasts import contrast, holm_adjusted
from merge_advisor.benchmark.analysis.findings import make_findings
from merge_advisor.benchmark.analysis.means import family_means, mean, values_by_arm
from merge_advisor.benchmark.report.csv_files import CsvTable, safe_cell, write_tables
from merge_advisor.benchmark.report.csv_tables import csv_tables
from merge_advisor.benchmark.report.limits import limits
from merge_advisor.benchmark.report.setup_yaml import setup_text
from merge_advisor.benchmark.report.terminal_summary import bench_blocks
from merge_advisor.benchmark.report.wording import amount, p_phrase
from merge_advisor.benchmark.report.write import write_report
from merge_advisor.benchmark.values import (
    Arm,
    Benchmark,
    BenchResults,
    Contrast,
    Draws,
    Question,
    Result,
    Setup,
    Tasks,
    Tuner,
    View,
)
from merge_advisor.errors import RunError
from merge_advisor.report.svg import WIDTH
from merge_advisor.report.terminal import to_text
from tests.support import bench_world as world
from tests.support.pages import HOSTILE, Page, check, plots, texts

PLOTS = {
    "forest-accuracy", "forest-loss", "ranks", "heat", "sweep0", "sweep1", "cost0", "cost1", "cost2", "cost3",
    "reliability",
}  # fmt: skip
FILES = """arms chosen chosen_members contrasts contrast_families cost_gain failed families k_sweep rank_pairs ranks
    reliability reliability_bins results setup tasks""".split()


def answers(setup: Setup, results: Sequence[Result]) -> list[Contrast]:
    def gain(question: Question) -> float | None:
        return setup.smallest_gain if question.metric == setup.primary.metric else None

    first, *others = [contrast(q, results, gain(q)) for q in (setup.primary, *setup.secondaries)]
    return [first, *holm_adjusted(others)]


def failing(result: Result, reason: str = "RuntimeError: no memory") -> Result:
    return replace(
        result, status="failed", reason=reason, accuracy=math.nan, valid=math.nan, accuracy_valid=None, loss=None,
        predicted=None,
    )  # fmt: skip


def written(folder: Path, setup: Setup, results: Sequence[Result]) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    write_report(folder, setup, results, answers(setup, results))
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Whole(NamedTuple):
    """A benchmark and its report."""

    folder: Path
    setup: Setup
    results: list[Result]
    page: Page
    text: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A benchmark of 18 families, 30 tasks, 8 arms, 6 controls, 3 views and 5 sizes, with some results failed."""
    folder = tmp_path_factory.mktemp("whole")
    setup, results = world.a_setup(), world.some_results()
    results = [failing(result) if place % 997 == 5 else result for place, result in enumerate(results)]
    page, text = written(folder, setup, results)
    return Whole(folder, setup, results, check(page), text)


def test_the_page_has_all_parts(whole: Whole) -> None:
    _, setup, _, page, _ = whole
    assert plots(page) == PLOTS
    titles = [heading.text for heading in page.all("h2")]
    assert titles == [
        "Contrasts", "Arms and controls", "What this cannot show", "Ranks", "Tasks and families",
        "What was chosen, and what came of it", "How many members", "Cost and gain",
        "Does the predicted gain come true?", "Failed results", "Setup",
    ]  # fmt: skip
    found = texts(page)
    assert "default beats random" in found and re.search(r"families: \d+ won, \d+ tied, \d+ lost", found)
    assert "One tuner seed (anchor_diverse)" in found and "merge-advisor bench bench-made-up.yaml --out" in found
    policy = next(m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    for arm in (*(arm.name for arm in setup.arms), *setup.controls):
        assert arm in found, arm


def test_every_class_of_a_picture_has_a_style(whole: Whole) -> None:
    """An SVG element without a rule of its own would be black in the dark."""
    page = whole.page
    style = page.all("style")[0].text
    assert style.count("{") == style.count("}") and "url(" not in style and "http" not in style
    ruled = set(re.findall(r"\.([a-z][a-z0-9]*)", style))
    seen = {name for tag, a, _ in page.elements for name in a.get("class", "").split() if tag != "table"}
    drawn = {name for name in seen if name not in {"even", "better", "worse", "n", "long", "value"}}
    assert drawn <= ruled, drawn - ruled
    fills = {a["class"].split()[0] for tag, a, _ in page.elements if tag in ("rect", "circle")}
    assert fills <= {"band", "heat", "mark"}


def test_marks_lie_within_their_picture(whole: Whole) -> None:
    for tag, attributes, _ in whole.page.elements:
        if tag in ("rect", "circle"):
            x = float(attributes.get("x", attributes.get("cx", 0)))
            assert 0 <= x <= WIDTH and x + float(attributes.get("width", 0)) <= WIDTH


def test_oracles_are_kept_apart(whole: Whole) -> None:
    text = whole.text
    rivals, oracles = (text.split(f"### {name}")[1].split("\n### ")[0] for name in ("All that can", "Oracles, own-out"))
    assert "oracle" not in rivals and "| base | 4 |" in rivals
    assert "majority-oracle" in oracles and "best-single-oracle" in oracles and "compared with nothing" in oracles
    assert text.count("majority-oracle (oracle)") >= 3  # views, families, costs
    assert "oracle" not in text.split("## Ranks")[1].split("\n## ")[0]


def test_every_number_of_the_tables_is_what_the_results_say(whole: Whole) -> None:
    folder, _, results, _, text = whole
    assert sorted(path.stem for path in (folder / "tables").iterdir()) == sorted(FILES)
    rows = table(folder, "arms")
    assert len(rows) == 14 * 7  # arms by (5 sizes in own-out, 1 in the other views)
    for row in rows[::9]:
        view = next(view for view in get_args(View) if view == row["view"])
        values = values_by_arm(results, "accuracy", view, int(row["k"]))[row["arm"]]
        expected = mean(list(family_means(values).values())) / 100
        assert float(row["accuracy"]) == pytest.approx(expected, abs=1e-8)
        assert int(row["done"]) == len(values) and int(row["done"]) + int(row["failed"]) == 60
    main = next(row for row in rows if (row["arm"], row["view"], row["k"]) == ("default", "own-out", "4"))
    assert f"| default | 4 | {100 * float(main['accuracy']):.1f}% |" in text
    assert len(table(folder, "results")) == len(results)
    assert len(table(folder, "failed")) == sum(result.status == "failed" for result in results) == 6
    assert len(table(folder, "tasks")) == 30 * 14 * 3 and len(table(folder, "families")) == 18 * 14 * 3
    zero = [row for row in table(folder, "tasks") if row["arm"] == "random"]
    assert {float(row["difference"]) for row in zero if row["difference"]} == {0.0}


def test_measured_gains_stand_beside_the_predicted(whole: Whole) -> None:
    folder, _, results, _, _ = whole
    base = {(r.unit, r.view, r.k): r.loss for r in results if r.arm == "base"}
    for row, result in list(zip(table(folder, "results"), results, strict=True))[::71]:
        before = base[result.unit, result.view, result.k]
        if result.loss is not None and before is not None:
            assert float(row["measured"]) == pytest.approx(before - result.loss)
        assert row["status"] == result.status and row["arm"] == result.arm


def test_views_stand_side_by_side(whole: Whole) -> None:
    text = whole.text
    header = text.split("### The views side by side")[1].strip().splitlines()[0]
    assert header.count("accuracy, ") == 3 and header.count("loss, ") == 3
    assert [view for view in world.VIEWS if f"Accuracy by family, {view}, k = 4" in text] == list(world.VIEWS)


def test_the_setup_it_shows_is_the_setup(whole: Whole) -> None:
    setup, text = whole.setup, whole.text
    block = text.split("\n    name: ")[1].split("\n\n")[0]
    shown = yaml.safe_load("name: " + block.replace("\n    ", "\n"))
    again = TypeAdapter(Setup).validate_python(shown, strict=False)
    assert again == setup
    assert {row["key"]: row["value"] for row in table(whole.folder, "setup")}["arms.2.tuner.trials"] == "40"


def test_a_setup_shows_only_what_was_said() -> None:
    setup = Setup("n", "b", "p", Tasks("t"), (Arm("a", "random", tuner=Tuner("tpe", 3)),), Question("a", "base"), 1.0)
    assert yaml.safe_load(setup_text(setup)) == {
        "name": "n", "base": "b", "pool": "p", "tasks": {"path": "t"}, "smallest_gain": 1.0, "version": 1,
        "arms": [{"name": "a", "strategy": "random", "tuner": {"sampler": "tpe", "trials": 3}}],
        "primary": {"better": "a", "than": "base"},
    }  # fmt: skip


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    setup, results = world.a_setup(views=("own-out",), k=(4,)), world.some_results(tasks=8, views=("own-out",), ks=(4,))
    for name in ("one", "two"):
        written(tmp_path / name, setup, results)
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*.*"))]
    assert len(files) == len(FILES) + 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_one_size_and_one_view(tmp_path: Path) -> None:
    setup = world.a_setup(views=("own-out",), k=(4,), secondaries=())
    page, text = written(tmp_path, setup, world.some_results(views=("own-out",), ks=(4,), tasks=12))
    assert not any(name.startswith("sweep") for name in plots(check(page)))
    assert "How many members" not in text and "side by side" not in text and "Failed results" not in text
    assert "secondaries in words" not in page and table(tmp_path, "k_sweep") == []


def test_one_family(tmp_path: Path) -> None:
    setup = world.a_setup(views=("own-out",), k=(4,))
    page, text = written(tmp_path, setup, world.some_results(families=("facts",), tasks=3, views=("own-out",), ks=(4,)))
    check(page)
    assert "1 family of tasks: no sign-flip test over so few goes below p = 1.000" in text
    assert "default against random: undecided" in text and "(95% interval" not in text.split("## Contrasts")[0]


def test_all_failed(tmp_path: Path) -> None:
    setup = world.a_setup(views=("own-out",), k=(4,))
    results = [failing(r) for r in world.some_results(views=("own-out",), ks=(4,), tasks=3)]
    page, text = written(tmp_path, setup, results)
    assert plots(check(page)) == set()
    assert "No answer" in text and f"{len(results)} results of {len(results)} failed. The first 40" in text
    assert (
        "| default against random, own-out, k = 4 (primary) | accuracy |  |  |  |  |  |  | no results in common |"
        in text
    )
    assert "nan" not in text.lower() and len(table(tmp_path, "failed")) == len(results)


def test_no_results(tmp_path: Path) -> None:
    setup = world.a_setup()
    page, text = written(tmp_path, setup, [])
    assert plots(check(page)) == set() and "there is no result yet" in text and "## Setup" in text


def test_no_results_of_the_primary(tmp_path: Path) -> None:
    setup = world.a_setup(views=("own-out",), k=(4,))
    arms = tuple(arm for arm in world.GAINS if arm != "default")
    page, text = written(tmp_path, setup, world.some_results(views=("own-out",), ks=(4,), tasks=9, arms=arms))
    assert "its arms have no results in common" in text
    lacking = [q for q in (setup.primary, *setup.secondaries) if "default" in (q.better, q.than)]
    sentence = next(line for line in text.splitlines() if line.startswith("No unit has results of both arms: "))
    assert lacking and sentence.count(" against ") == len(lacking)
    rows = text.split("## Contrasts")[1].split("## ")[0]
    assert "(primary)" in rows and not any(f"| {q.text} |" in rows for q in lacking[1:])
    assert {"heat", "ranks", "cost0", "reliability"} <= plots(check(page))


def test_no_base_and_no_rival(tmp_path: Path) -> None:
    """Without the base nothing is gained over it; the heat map finds another arm to tell differences from."""
    setup = world.a_setup(views=("own-out",), k=(4,), secondaries=())
    results = world.some_results(views=("own-out",), ks=(4,), tasks=9, arms=("text", "top_k"))
    page, _ = written(tmp_path, setup, results)
    assert {"heat", "ranks"} == plots(check(page))
    assert make_findings(setup, results, []).reference == "text"
    one, _ = written(tmp_path, setup, [result for result in results if result.arm == "text"])
    assert plots(check(one)) == set()


def test_a_loss_as_the_question(tmp_path: Path) -> None:
    setup = world.a_setup(
        primary=Question("default", "random", "loss"), secondaries=(), smallest_gain=0.05, views=("own-out",), k=(4,)
    )
    results = world.some_results(views=("own-out",), ks=(4,), tasks=12)
    page, text = written(tmp_path, setup, results)
    found = make_findings(setup, results, answers(setup, results))
    assert found.costs[0][0].metric == "loss" and "majority" not in found.tasks[0][1].arms
    assert "0.05 nats per token" in text and "### Loss by family, own-out" in text
    assert "forest-loss" in plots(check(page)) and 'class="band"' in page


def test_an_arm_of_another_size_has_its_row(tmp_path: Path) -> None:
    setup = world.a_setup(views=("own-out",), k=(4,))
    results = world.some_results(views=("own-out",), ks=(4,), tasks=6)
    results += [replace(r, arm="lorahub", k=20) for r in results if r.arm == "text"]
    _, text = written(tmp_path, setup, results)
    assert re.search(r"\| lorahub \| 20 \| \d", text)


def test_names_are_text(tmp_path: Path) -> None:
    hostile = HOSTILE.replace("\n", " ")
    names = {"default": hostile, "random": "=cmd|' /C calc'!A0", "text": "@" + "x" * 400}
    setup = world.a_setup(name=HOSTILE, views=("own-out",), k=(1, 4))
    question = Question(names["default"], names["random"])
    arms = tuple(replace(arm, name=names.get(arm.name, arm.name)) for arm in setup.arms)
    setup = replace(setup, arms=arms, primary=question, secondaries=(), base=HOSTILE, pool="-1+1|x`y`")
    results = [
        replace(
            failing(r, HOSTILE) if place % 40 == 3 else r,
            arm=names.get(r.arm, r.arm),
            unit=replace(
                r.unit, task="<script>" + r.unit.task, family=hostile if r.unit.family == "nli" else "+sum(A1)"
            ),
            members=((HOSTILE, 1.0),),
        )
        for place, r in enumerate(world.some_results(views=("own-out",), ks=(1, 4), tasks=10))
    ]
    page, text = written(tmp_path, setup, results)
    found = texts(check(page))
    assert "<script>alert('1')</script>" in found and "{{ 7*7 }}" in found
    assert "<script>" not in text.replace("\\<script\\>", "").split("## Setup")[0]
    for path in (tmp_path / "tables").iterdir():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                for cell in row:
                    assert not cell.startswith(("=", "@", "\t", "\r")) and "\n" not in cell and "\x00" not in cell
                    assert not cell.startswith(("+", "-")) or float(cell) is not None


def test_cells_of_a_spreadsheet() -> None:
    assert [safe_cell(cell) for cell in ("=1", "+a", "-b", "@c", "d=", "", 3, True, None)] == [
        "'=1", "'+a", "'-b", "'@c", "d=", "", 3, True, None,
    ]  # fmt: skip
    assert safe_cell(-0.25) == -0.25 and safe_cell(math.nan) is None and safe_cell(math.inf) is None
    assert safe_cell(0.1 + 0.2) == 0.3 and safe_cell("a\r\n\t=b") == "a\\r\\n\\t=b"


def test_a_table_keeps_its_numbers(tmp_path: Path) -> None:
    write_tables(tmp_path / "t", [CsvTable("x", ("a", "b"), ((1, 2.5), (None, True))), CsvTable("empty", ("a",), ())])
    assert (tmp_path / "t" / "x.csv").read_text() == "a,b\n1,2.5\n,True\n"
    assert (tmp_path / "t" / "empty.csv").read_text() == "a\n"


def test_a_file_in_the_way_of_the_tables(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("mine")
    with pytest.raises(RunError, match=r"tables: cannot be made .*; remove what is there"):
        write_report(tmp_path, world.a_setup(), [], [])


def test_tables_have_as_many_cells_as_columns() -> None:
    setup, results = world.a_setup(), world.some_results(tasks=7)
    results[5] = failing(results[5])
    for frame in csv_tables(make_findings(setup, results, answers(setup, results))):
        assert frame.rows and len(set(frame.columns)) == len(frame.columns), frame.name
        assert {len(row) for row in frame.rows} == {len(frame.columns)}


def test_what_it_cannot_show() -> None:
    setup, results = world.a_setup(draws=Draws(1, 1), views=("own-in",)), world.some_results(tasks=6, draws=1)
    told = " ".join(limits(make_findings(setup, results, answers(setup, results))))
    for words in ("One draw of shots", "One draw of selections", "One tuner seed", "nothing here is about new tasks"):
        assert words in told
    others = limits(make_findings(setup, results, [], families={"somebody": "else"}))
    own = limits(make_findings(setup, results, [], families={results[0].unit.task: "some", "somebody": "else"}))
    assert not any("new tasks" in told for told in others) and any("new tasks" in told for told in own)
    some = world.some_results()
    fewer = limits(make_findings(world.a_setup(draws=Draws(3, 2, 2)), some, []))
    assert "2 of 3 draws of shots were run." in fewer and not any(told.startswith("One tuner") for told in fewer)
    assert any(told.startswith("One draw of selections (the setup asks for 2)") for told in fewer)
    again = [replace(r, unit=replace(r.unit, selection_draw=1)) for r in some]
    whole = limits(make_findings(world.a_setup(draws=Draws(2, 2, 2)), [*some, *again], []))
    assert not any("draw of" in told or "draws of shots" in told or told.startswith("One") for told in whole[1:])


def test_arms_on_other_units_are_read_by_what_they_gain(tmp_path: Path) -> None:
    """Half of the tasks lack an arm: its mean says more about these tasks than about itself, its gain does not."""
    setup = world.a_setup(views=("own-out",), k=(4,), secondaries=())
    whole = world.some_results(views=("own-out",), ks=(4,), tasks=8, arms=("base", "default", "random", "text"))
    base = {r.unit: r.accuracy for r in whole if r.arm == "base"}
    easy = {unit.task for unit in sorted(base, key=base.__getitem__)[len(base) // 2 :]}
    some = [r for r in whole if r.arm != "text" or r.unit.task in easy]
    level = {one.arm: one for one in make_findings(setup, some, []).summaries}
    units = {r.unit for r in some if r.arm == "text" and r.status == "done"}
    gains = {r.unit: 100 * (r.accuracy - base[r.unit]) for r in some if r.arm == "text" and r.unit in units}
    assert level["text"].over_base == pytest.approx(mean(list(family_means(gains).values())), abs=1e-8)
    assert level["base"].over_base is None and (level["text"].accuracy or 0) > (level["base"].accuracy or 1)
    assert any("Not every arm was run on every unit" in told for told in limits(make_findings(setup, some, [])))
    assert not any("Not every arm" in told for told in limits(make_findings(setup, whole, [])))
    _, text = written(tmp_path, setup, some)
    assert re.search(rf"\| text \| 4 \| [\d.]+% \| {re.escape(amount(level['text'].over_base, 'accuracy'))} \|", text)
    assert re.search(r"\| base \| 4 \| [\d.]+% \|  \|", text)


def test_numbers_as_text() -> None:
    assert [p_phrase(p) for p in (0.0004, 0.013, 1.0)] == ["p < .001", "p = .013", "p = 1.000"]
    assert [amount(v, "accuracy") for v in (1.04, -0.0, None, math.nan)] == ["+1.0", "+0.0", "", ""]
    assert amount(-0.0504, "loss") == "-0.050"


def test_the_terminal_shows_the_table_of_the_primary_question(tmp_path: Path) -> None:
    setup = world.a_setup(views=("own-out",), k=(4,))
    done = tuple(world.some_results(views=("own-out",), ks=(4,), tasks=6))
    results = (*done[:-1], failing(done[-1]))

    def shown(results: tuple[Result, ...], notes: tuple[str, ...] = ()) -> list[str]:
        measured = BenchResults(tmp_path, setup, results, len(done), (), notes, {})
        return to_text(bench_blocks(Benchmark(measured, tuple(answers(setup, results)))), gap="\n").split("\n")

    lines = shown(results, ("one note",))
    assert lines[0] == "own-out, k 4, means over families:"
    assert lines[1].split() == ["arm", "accuracy", "over", "base", "loss", "forwards", "units"]
    accuracies = [float(re.split(r"\s{2,}", line)[1]) for line in lines[3 : 3 + len(world.GAINS)]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert lines[3 + len(world.GAINS)].startswith("primary (accuracy, own-out, k 4): ")
    assert "note: one note" in lines and lines[-1].startswith(f"wrote {tmp_path}: report.html")
    assert f"failed: 1 of {len(done)} results, the first: RuntimeError: no memory" in lines
    assert shown(())[:2] == ["own-out, k 4, means over families:", "nothing is done yet"]
