"""Files of inputs without outputs, good and bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import TaskError
from merge_advisor.tasks import read_inputs
from merge_advisor.types import Row


def written(place: Path, *records: object, name: str = "more.jsonl") -> Path:
    path = place / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"input": "i"}, "i"),
        ({"prompt": "i"}, "i"),
        ({"question": "i"}, "i"),
        ({"context": "i"}, "i"),
        ({"instruction": "i"}, "i"),
        ({"instruction": "i", "input": "x"}, "i\n\nx"),
        ({"input": "i", "output": None}, "i"),
        ({"input": 12}, "12"),
        ({"messages": [{"role": "user", "content": "i"}]}, "i"),
        ({"messages": [{"role": "user", "content": "i"}, {"role": "assistant", "content": "o"}]}, "i"),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "i"}]},
            "System: s\n\nUser: i",
        ),
        ({"prompt": "cut", "messages": [{"role": "user", "content": "i"}]}, "i"),
    ],
)
def test_the_fields_of_a_task_file_without_the_output(tmp_path: Path, record: dict[str, Any], text: str) -> None:
    (row,) = read_inputs(written(tmp_path, record)).rows
    assert (row.input, row.output, row.choices) == (text, "", None) and not row.labelled
    assert (row.turns is not None) == text.startswith("System: ")


def test_choices_are_kept_and_need_no_right_one(tmp_path: Path) -> None:
    file = read_inputs(written(tmp_path, {"input": "i", "choices": ["a", "b"]}, {"input": "j"}, {"input": "j"}))
    assert file.rows == (Row("i", "", ("a", "b")), Row("j", ""))
    assert file.notes == ("more.jsonl: 1 duplicate row dropped", "more.jsonl: choices on 1 of 2 rows only")


def test_an_output_is_not_looked_at_and_said(tmp_path: Path) -> None:
    records = [{"context": "c", "question": "q", "answer": str(number)} for number in range(3)]
    file = read_inputs(written(tmp_path, *records, {"input": "j", "id": 1}))
    assert file.rows == (Row("c\n\nq", ""), Row("j", ""))
    assert file.notes == ("more.jsonl: 2 duplicate rows dropped", "more.jsonl: outputs of 3 rows not looked at")
    assert file.understood == (
        "more.jsonl: 2 rows, read as inputs (fields context, question, 3 rows) and as inputs (fields input, 1 row); "
        "1 field left out: id"
    )


BAD: dict[str, tuple[object, str]] = {
    "no object": (3, ":1: a number, not an object; write one JSON object with input"),
    "no input": ({"output": "o"}, ':1: has field "output" and no input; give input (or instruction, prompt'),
    "another name": (
        {"source": "t", "id": 1},
        ':1: has fields "source", "id" and no input; rename "source" to "input"',
    ),
    "null": ({"input": None}, ":1: input is null; fill it in or drop the row"),
    "nothing": ({}, ":1: has no fields and no input; give input"),
    "empty text": ({"input": " "}, ":1: input is empty; fill it in or drop the row"),
    "list": ({"input": ["a"]}, ":1: input is a list, not text"),
    "one choice": ({"input": "i", "choices": ["a"]}, ":1: choices needs at least two answers, all different"),
    "no turn": ({"messages": []}, ":1: messages must end with a user turn, or with the answer to it"),
    "answer alone": ({"messages": [{"role": "assistant", "content": "o"}]}, ":1: messages must end with a user turn"),
    "system alone": ({"messages": [{"role": "system", "content": "s"}]}, ":1: messages must end with a user turn"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_with_its_place(tmp_path: Path, name: str) -> None:
    record, says = BAD[name]
    path = written(tmp_path, record)
    with pytest.raises(TaskError) as refused:
        read_inputs(path)
    assert str(refused.value).startswith(f"{path}{says}") and "\n" not in str(refused.value)


def test_an_empty_file_says_what_a_line_holds(tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text("")
    with pytest.raises(TaskError, match="empty; write one JSON object with input per line"):
        read_inputs(path)
