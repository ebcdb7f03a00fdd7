"""What a plan reads: what is kept apart between its files, and what is said of that."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.planning.sources import read_plan_inputs, read_sources
from merge_advisor.errors import TaskError


def write(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def said(number: int) -> dict[str, str]:
    return {"input": f"say {number}", "output": f"{number} {number}"}


def test_what_one_file_holds_out_another_does_not_learn_from(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [said(number) for number in range(60)])
    alone = read_sources([first], PlanOptions())[0].task
    learned = [{"input": row.input, "output": row.output} for row in (*alone.shots, *alone.tuning)]
    second = write(tmp_path / "b.jsonl", learned)
    one, other = read_sources([first, second], PlanOptions())
    held = {row.input for item in (one, other) for row in item.task.heldout}
    assert not held & {row.input for item in (one, other) for row in (*item.task.shots, *item.task.tuning)}
    assert any(note.startswith("a: rows not learned from, as another task holds") for note in one.notes)
    # too few are left: the file whose rows all judge another one
    few = write(tmp_path / "c.jsonl", [{"input": row.input, "output": "else"} for row in alone.heldout[:11]])
    with pytest.raises(TaskError, match=r"c: shots: 0 .*give each task rows of its own"):
        read_sources([first, few], PlanOptions())


def test_files_held_out_and_files_of_inputs_are_compared_without_white_space(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [said(number) for number in range(30)])
    held = write(tmp_path / "held.jsonl", [{"input": f"say  {number}", "output": f"{number} "} for number in range(9)])
    (item,) = read_sources([rows], PlanOptions(heldout=held))
    assert not {f"say {number}" for number in range(9)} & {r.input for r in (*item.task.shots, *item.task.tuning)}
    assert "rows: rows not learned from, as their inputs are among the held-out rows: 9" in item.notes
    more = write(tmp_path / "more.jsonl", [{"input": "say 20 "}, {"input": "say 3"}, {"input": "say 99"}])
    inputs = read_plan_inputs([item.task], PlanOptions(inputs=more))
    assert inputs is not None and [row.input for row in inputs.rows] == ["say 99"]


def test_labels_that_held_out_rows_alone_have_are_told(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": ("bad", "good")[number % 2]} for number in range(60)]
    plain = read_sources([write(tmp_path / "labels.jsonl", rows)], PlanOptions())[0]
    assert plain.task.shots[0].choices == ("bad", "good") and not any("labels" in note for note in plain.notes)
    for place in range(60):  # one whose row is held out under its new label as well
        odd = [row | ({"label": "x"} if number == place else {}) for number, row in enumerate(rows)]
        found = read_sources([write(tmp_path / "labels.jsonl", odd)], PlanOptions())[0]
        if "x" in {row.output for row in found.task.heldout}:
            break
    assert found.task.shots[0].choices == ("bad", "good", "x")
    told = "labels: held-out rows have labels that no row learned from has, and that are choices too: x; correct them"
    assert any(note.startswith(told) for note in found.notes)
