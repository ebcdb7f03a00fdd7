"""Which choice is right: text, place, letter, key or the number of a named label, one way in all rows of a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.tasks import read_rows

MAP = "input=q,output=a,choices=w+x+y+z"


def written(place: Path, records: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = place / name
    if name.endswith("csv"):
        lines = [list(records[0]), *(record.values() for record in records)]
        path.write_text("\n".join(",".join(str(cell) for cell in line) for line in lines))
    else:
        path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def asked(*rows: tuple[list[Any], Any], **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"q{at}", "options": options, "answer": answer} for at, (options, answer) in enumerate(rows)]


@pytest.mark.parametrize(
    ("records", "outputs", "said"),
    [
        # RACE: one row can be a letter alone, so all are
        (asked((["B", "A"], "A"), (["red", "blue"], "A")), ["B", "red"], "2 answers read as the place"),
        (asked((["O", "A", "B"], "B"), (["red", "blue"], "blue")), ["B", "blue"], "read as the choice itself, though"),
        (asked((["O", "A", "B"], "B"), (["O", "A", "B"], "O")), ["B", "O"], ""),
        (asked((["4", "2", "3", "1"], "1"), (["red", "tin", "lead"], "2")), ["2", "lead"], "2 answers read as"),
        (asked((["4", "3", "2", "1"], "1"), (["8", "9"], "9")), ["1", "9"], ""),
        # one row that is wrong does not turn the others
        (asked((["4", "3", "2", "1"], "1"), (["8", "9"], "9"), (["7", "8"], "7"), (["5", "6"], "1")),
         ["1", "9", "7", "6"], "1 answer read as the choice itself, though"),
        # letters say nothing of digits
        (asked((["4", "3", "2", "1"], "1"), (["red", "blue"], "B")), ["1", "blue"], "though it may be"),
        # numbers are places unless a row can be none
        (asked((["1", "0"], 1), (["1", "0"], 0)), ["0", "1"], "2 answers read as the place"),
        (asked((["1", "0"], 1), (["7", "8"], 8)), ["1", "8"], ""),
        (asked((["1", "0"], 1), (["1", "0"], "0")), ["0", "1"], "2 answers read as the place"),
        (asked((["red", "blue"], 1.0), (["red", "blue"], 0.0)), ["blue", "red"], "2 answers read as the place"),
        # rows without one right answer
        (asked((["red", "blue"], -1), (["red", "blue"], 0)), ["red"], "1 row left out: answer is -1"),
        (asked((["red", "blue"], ""), (["red", "blue"], 0)), ["red"], "1 row left out: answer is empty"),
        (asked((["red", "blue"], None), (["red", "blue"], 0)), ["red"], "1 row left out: answer is null"),
        (asked((["red", "blue", "red"], 1), (["red", "blue"], 0)), ["red"], "left out: options has the same answer tw"),
    ],
)  # fmt: skip
def test_a_file_is_read_one_way(tmp_path: Path, records: list[dict[str, Any]], outputs: list[str], said: str) -> None:
    found = read_rows(written(tmp_path, records), minimum=1)
    assert [row.output for row in found.rows] == outputs
    assert all(row.output in (row.choices or ()) for row in found.rows)
    assert any(said in note for note in found.notes) if said else not any("though" in note for note in found.notes)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize(
    ("answers", "outputs"), [([0, 1, 2, 3], "1234"), ([1, 2, 3, 4], "1234"), (["a", "b", "c", "D"], "1234")]
)
def test_a_table_and_lines_say_the_same(tmp_path: Path, name: str, answers: list[Any], outputs: str) -> None:
    records = [
        {"q": f"q{at}", "w": "1", "x": "2", "y": "3", "z": "4", "a": answer} for at, answer in enumerate(answers)
    ]
    assert [row.output for row in read_rows(written(tmp_path, records, name), fields=MAP).rows] == list(outputs)


@pytest.mark.parametrize(
    ("names", "choices", "numbers", "outputs"),
    [
        ("ABCD", "wxyz", [0, 3], "wz"),  # MMLU
        ("ABCD", "ABDC", [0, 2], "AD"),
        ("abcd", "wxyz", [1, 2], "xy"),  # MedMCQA
        ("0123", "3102", [0, 3], "32"),
        (["no", "yes"], ["yes", "no"], [0, 1], ["no", "yes"]),  # the names are the answers
    ],
)
@pytest.mark.parametrize("fields", [None, "input=question,output=answer,choices=choices"])
def test_a_named_label_is_a_place(
    tmp_path: Path, names: Any, choices: Any, numbers: list[int], outputs: Any, fields: str | None
) -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features(
        {"question": Value("string"), "choices": Sequence(Value("string")), "answer": ClassLabel(names=list(names))}
    )
    columns = {"question": ["a", "b", "c"], "choices": [list(choices)] * 3, "answer": [*numbers, -1]}
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "rows.parquet")
    found = read_rows(tmp_path / "rows.parquet", fields=fields)
    assert [row.output for row in found.rows] == list(outputs)
    assert any("1 row left out" in note and "is -1" in note for note in found.notes)


@pytest.mark.parametrize(
    "record",
    [
        {"ctx": "c", "endings": ["left", "right"], "label": ""},
        {"question": "c", "choices": {"text": ["left", "right"], "label": ["A", "B"]}, "answerKey": ""},
        {"sentence": "c", "option1": "left", "option2": "right", "answer": ""},
        {"goal": "c", "sol1": "left", "sol2": "right", "label": -1},
        {"goal": "c", "sol1": "left", "sol2": "right", "label": None},
    ],
)
def test_a_row_that_says_it_has_no_answer_is_left_out(tmp_path: Path, record: dict[str, Any]) -> None:
    found = read_rows(written(tmp_path, [record, {"input": "other", "output": "row"}]), minimum=1)
    assert len(found.rows) == 1 and any("1 row left out: " in note for note in found.notes)


def test_options_without_a_text_are_none(tmp_path: Path) -> None:
    records = asked(({"A": "red", "B": "blue", "E": None}, "B"), ({"A": "red", "B": "blue", "E": "tin"}, "E"))  # type: ignore[arg-type]
    found = read_rows(written(tmp_path, records))
    assert [(row.output, row.choices) for row in found.rows] == [
        ("blue", ("red", "blue")), ("tin", ("red", "blue", "tin")),
    ]  # fmt: skip
