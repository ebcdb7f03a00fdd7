"""Labels of texts: choices where they are few, names where they have some, and what is guessed is said."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import TaskError
from merge_advisor.tasks import read_inputs, read_rows
from merge_advisor.types import Row


def written(place: Path, labels: list[Any], name: str = "rows.jsonl", **more: Any) -> Path:
    path = place / name
    rows = [{"text": f"text {number}", "label": label} | more for number, label in enumerate(labels)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_few_labels_are_choices(tmp_path: Path) -> None:
    found = read_rows(written(tmp_path, ["spam", "ham"] * 4))
    assert found.rows[0] == Row("text 0", "spam", ("ham", "spam"))
    assert found.understood == (
        'rows.jsonl: 8 rows, read as text classification (fields text, label); 2 labels to choose among: "ham", "spam"'
    )
    assert not found.notes


def test_answers_that_hardly_repeat_are_no_labels(tmp_path: Path) -> None:
    found = read_rows(written(tmp_path, ["a", "b", "c", "d", "d"]))
    assert {row.choices for row in found.rows} == {None} and not found.labels


def test_many_labels_are_free_text_and_that_is_said(tmp_path: Path) -> None:
    found = read_rows(written(tmp_path, [f"intent {number % 25}" for number in range(100)]))
    assert {row.choices for row in found.rows} == {None}
    assert found.notes == (
        "rows.jsonl: 25 labels are more than 20, so rows have no choices: they are read as free text",
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_numbers_without_names_are_said_with_a_remedy_that_works(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, [0, 1] * 4, name)
    if name == "rows.csv":
        path.write_text("text,label\n" + "\n".join(f"text {n},{n % 2}" for n in range(8)))
    found = read_rows(path)
    assert found.rows[1] == Row("text 1", "1", ("0", "1"))
    said = next(note for note in found.notes if "without names" in note)
    fields = re.findall(r"`fields=([^`]*)`", said)[0]
    assert fields == "input=text,output=label,labels=NAME0|NAME1"
    named = read_rows(path, fields="input=text,output=label,labels=bad|good")
    assert named.rows[1] == Row("text 1", "good", ("bad", "good")) and named.labels == ("bad", "good")
    assert not any("without names" in note for note in named.notes)


@pytest.mark.parametrize("numbers", [[*range(12)], [1, 2, 3, 4, 5], [-1, 1], [0, 2], [0.0, 1.0]])
def test_the_remedy_names_each_label_by_its_number(tmp_path: Path, numbers: list[Any]) -> None:
    path = written(tmp_path, numbers * 2)
    said = next(note for note in read_rows(path).notes if "without names" in note)
    found = read_rows(path, fields=re.findall(r"`fields=([^`]*)`", said)[0])
    assert [row.output for row in found.rows] == [f"NAME{int(number)}" for number in numbers * 2]


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, [0, 1, 2, 1])
    with pytest.raises(
        TaskError, match=r'rows\.jsonl:3: the label "2" has no name among "bad", "good"; add it or drop'
    ):
        read_rows(path, fields="input=text,output=label,labels=bad|good")


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("numbers", "fields", "outputs", "left"),
    [
        ([0, 1, -1, 0, 1], None, "0101", "label is -1, no label unless the map names it"),
        ([0, 1, -1, 0, 1], "input=text,output=label", "0101", "output is -1, no label unless the map names it"),
        ([0, 1, -1, 0, 1], "input=text,output=label,labels=n|y", "nyny", "output is -1, which stands for no label"),
        ([0, 1, -1, 0, 1], "input=text,output=label,labels=-1:x|0:n|1:y", "nyxny", ""),
        ([0, 1, "", 0, 1], None, "0101", "label is empty"),
        ([0, 1, "", 0, 1], "input=text,output=label,labels=n|y", "nyny", "output is empty"),
        ([0, 1, None, 0, 1], None, "0101", "label is "),
        ([1, -1, -1, 1], None, ["1", "-1", "-1", "1"], ""),
        ([1, -1, -2, 1], None, ["1", "-1", "-2", "1"], ""),
        ([1, -1, 0.5, 1], None, ["1", "-1", "0.5", "1"], ""),
    ],
)
def test_which_labels_are_none(
    tmp_path: Path, ending: str, numbers: list[Any], fields: str | None, outputs: str, left: str
) -> None:
    path = written(tmp_path, numbers, f"rows.{ending}")
    if ending == "csv":
        cells = ["" if label is None else label for label in numbers]
        path.write_text("text,label\n" + "\n".join(f"text {n},{label}" for n, label in enumerate(cells)))
    found = read_rows(path, fields=fields)
    assert [row.output for row in found.rows] == list(outputs)
    assert any(f"1 row left out: {left}" in note for note in found.notes) == bool(left)


def test_a_file_of_a_known_task_says_by_its_labels_whether_one_is_none(tmp_path: Path) -> None:
    path = written(tmp_path, [1, -1, 1])
    assert [len(read_rows(path, labels=labels).rows) for labels in (("0", "1"), ("-1", "1"))] == [2, 3]


def test_a_file_without_any_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"rows\.jsonl:1: label is -1, no label"):
        read_rows(written(tmp_path, [-1, -1, -1]))


def test_booleans_are_labels(tmp_path: Path) -> None:
    found = read_rows(written(tmp_path, [True, False] * 3))
    assert found.rows[0] == Row("text 0", "true", ("false", "true"))
    assert found.notes == ("rows.jsonl: 6 booleans taken as text, true or false",)


def test_a_label_of_minus_one_is_none(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    names = ["entailment", "neutral", "contradiction"]
    features = Features({"premise": Value("string"), "hypothesis": Value("string"), "label": ClassLabel(names=names)})
    columns = {"premise": ["a", "b", "c"], "hypothesis": ["x", "y", "z"], "label": [2, -1, 0]}
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "nli.parquet")
    found = read_rows(tmp_path / "nli.parquet")
    assert found.rows == (Row("a\n\nx", "contradiction", tuple(names)), Row("c\n\nz", "entailment", tuple(names)))
    assert found.notes == (
        "nli.parquet: 1 row left out: label is -1, which stands for no label (the first: nli.parquet: row 2)",
    )


def test_a_file_of_a_known_task_has_the_labels_of_the_task(tmp_path: Path) -> None:
    known = ("good", "bad", "odd")
    found = read_rows(written(tmp_path, ["good", "bad"]), labels=known)
    assert {row.choices for row in found.rows} == {known}  # with two of them accuracy would be too easy
    inputs = read_inputs(written(tmp_path, ["x"], name="more.jsonl"), labels=known)
    assert inputs.rows == (Row("text 0", "", known),)
