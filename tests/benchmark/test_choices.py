"""Who was chosen: counted by hand from a few results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.benchmark.analysis.choices import MemberCount, choices_by_task
from merge_advisor.benchmark.report.write import write_report
from merge_advisor.benchmark.values import Question, Result, Unit
from merge_advisor.benchmark.views import candidate_families
from tests.support import bench_world as world

KIN = {"red": "color", "sum": "arithmetic", "tense": "grammar"}


def a_choice(
    draw: int,
    members: tuple[tuple[str, float], ...],
    *,
    arm: str = "default",
    task: str = "blue",
    predicted: float | None = 0.5,
    came: float | None = 0.2,
    **more: Any,
) -> Result:
    unit = Unit(task, "color", draw)
    values: dict[str, Any] = {"merge": "m", "rows": 8, "loss": 1.0, "valid": 1.0, "accuracy": 0.5}
    return Result(unit, arm, "own-out", 4, members=members, predicted=predicted, came=came, **values | more)


def test_members_are_counted_by_unit() -> None:
    results = [
        a_choice(0, (("red", 0.5), ("sum", 1.0))),
        a_choice(1, (("red", 1.0), ("sum", 0.0)), came=-0.4),
        a_choice(2, (("sum", 0.0), ("tense", 0.0)), predicted=0.0, came=0.0),
        a_choice(3, (("red", 9.0),), status="failed"),
        a_choice(0, (("shots_lora", 1.0), ("tense", 0.3)), arm="joined"),
        a_choice(0, (), arm="base"),
    ]
    first, joined = choices_by_task(results, KIN)
    assert (first.arm, first.task, first.family, first.units, first.sets, first.alone) == (
        "default", "blue", "color", 3, 3, 1,
    )  # fmt: skip
    assert first.kin == 2 and joined.kin == 0
    assert first.members == (MemberCount("red", "color", 2, 0.75), MemberCount("sum", "arithmetic", 1, 1.0))
    assert first.predicted == pytest.approx(1 / 3) and first.measured == pytest.approx(-0.2 / 3)
    assert joined.members == (MemberCount("shots_lora", "", 1, 1.0), MemberCount("tense", "grammar", 1, 0.3))
    assert [one.kin for one in choices_by_task(results, {})] == [None, None]


def test_kin_that_a_view_does_not_have() -> None:
    """Only those that could be chosen count: not the task's own where it is out, nobody where its family is."""
    kin = {"shots_lora": "color", "blue": "color", "sum": "arithmetic"}
    result = a_choice(0, (("shots_lora", 1.0), ("blue", 1.0)))
    assert choices_by_task([result], kin)[0].kin is None
    assert choices_by_task([result], {**kin, "red": "color"})[0].kin == 0
    assert choices_by_task([result], kin, {"blue": "lora-7"})[0].kin == 1
    assert choices_by_task([replace(result, view="own-in")], kin)[0].kin == 1
    assert choices_by_task([replace(result, view="family-out")], {**kin, "red": "color"})[0].kin is None


def test_what_came_is_told_by_the_loss_where_no_choices_were_asked() -> None:
    """Measured is the base's loss minus the arm's; without a base there is no promise that could be kept."""
    one = a_choice(0, (("red", 1.0),), came=None, loss=0.75)
    base = a_choice(0, (), arm="base", predicted=None, came=None, loss=2.0)
    assert choices_by_task([one, base], KIN)[0].measured == 1.25
    alone = choices_by_task([one], KIN)[0]
    assert alone.predicted is None and alone.measured is None


def test_kin_by_the_names_of_tasks_and_candidates() -> None:
    own, families = {"blue": "lora-7"}, {"blue": "color", "x": "letters"}
    assert candidate_families(["lora-7", "x", "stranger"], own, families) == {
        "lora-7": "color", "x": "letters", "stranger": "stranger",
    }  # fmt: skip


def test_the_report_says_who_was_chosen(tmp_path: Path) -> None:
    setup = world.a_setup(views=("own-out",), k=(4,), secondaries=(), primary=Question("default", "random"))
    setup = replace(setup, tasks=replace(setup.tasks, tried=("color",)))
    results = [
        a_choice(0, (("red", 0.5), ("sum", 1.0)), accuracy=0.75),
        a_choice(1, (("red", 1.0), ("tense", 1.0)), accuracy=0.75),
        a_choice(0, (("sum", 0.5), ("tense", 1.0)), arm="random", predicted=0.3, came=-0.1),
        a_choice(1, (("sum", 0.5), ("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)), arm="random"),
    ]
    write_report(tmp_path, setup, results, [], KIN)
    text = (tmp_path / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| blue |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "blue", "color (tried)", "+25.0", "2 of 2", "+0.50, +0.20", "0 of 2", "+0.40, +0.05",
    ]  # fmt: skip
    assert "| blue | red 2, sum 1, tense 1 | sum 2, a 1, b 1, c 1, 2 more |" in text
    lines = (tmp_path / "tables" / "chosen_members.csv").read_text().splitlines()
    assert "own-out,4,color,blue,default,red,color,2,2,0.75" in lines and len(lines) == 1 + 3 + 6
    assert "own-out,4,color,blue,random,2,2,0,0,0.4,0.05" in (tmp_path / "tables" / "chosen.csv").read_text()
