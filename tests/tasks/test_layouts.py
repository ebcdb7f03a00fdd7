"""Layouts that data sets are published in: each is understood rightly, or refused with a remedy that works."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import TaskError
from merge_advisor.tasks import read_inputs, read_rows
from merge_advisor.types import Row

TWO = ("left", "right")


def written(place: Path, *records: dict[str, Any], name: str = "rows.jsonl") -> Path:
    path = place / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


UNDERSTOOD: dict[str, tuple[dict[str, Any], Row]] = {
    "Alpaca": ({"instruction": "Add.", "input": "2 + 2", "output": "4", "text": "all"}, Row("Add.\n\n2 + 2", "4")),
    "Alpaca with a system prompt": (
        {"system": "Be brief.", "instruction": "Add.", "input": "2 + 2", "output": "4"},
        Row("System: Be brief.\n\nUser: Add.\n\n2 + 2", "4",
            turns=(("system", "Be brief."), ("user", "Add.\n\n2 + 2"))),
    ),
    "Dolly": (
        {"instruction": "When?", "context": "It began in 1901.", "response": "In 1901.", "category": "closed_qa"},
        Row("When?\n\nIt began in 1901.", "In 1901."),
    ),
    "Dolly without context": ({"instruction": "Hi", "context": "", "response": "Hello"}, Row("Hi", "Hello")),
    "OpenOrca": (
        {"id": "x.1", "system_prompt": "Be brief.", "question": "Why?", "response": "So."},
        Row("System: Be brief.\n\nUser: Why?", "So.", turns=(("system", "Be brief."), ("user", "Why?"))),
    ),
    "FLAN": ({"inputs": "Is it?", "targets": "yes", "task_source": "Flan2021"}, Row("Is it?", "yes")),
    "P3": (
        {"inputs": [3, 1], "targets": [9], "inputs_pretokenized": "Is it?", "targets_pretokenized": "\nno",
         "answer_choices": ["yes", "\nno"]},
        Row("Is it?", "\nno", ("yes", "\nno")),
    ),
    "GSM8K": (
        {"question": "2 and 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
        Row("2 and 2?", "2 + 2 = <<2+2=4>>4\n#### 4"),
    ),
    "SQuAD": (
        {"id": "5", "title": "Ada", "context": "Ada Lovelace wrote it.", "question": "Who?",
         "answers": {"text": ["Ada Lovelace", "Ada", "Ada"], "answer_start": [0, 0, 0]}},
        Row("Ada Lovelace wrote it.\n\nWho?", "Ada Lovelace", answers=("Ada Lovelace", "Ada")),
    ),
    "WebQuestions": ({"question": "Who?", "answers": ["Ada", "A. L."]}, Row("Who?", "Ada", answers=("Ada", "A. L."))),
    "TriviaQA": (
        {"question": "Who?", "answer": {"value": "Ada", "aliases": ["Ada", "A. L."], "normalized_value": "ada"}},
        Row("Who?", "Ada", answers=("Ada", "A. L.")),
    ),
    "NQ": ({"question": "Who?", "answer": ["Ada"]}, Row("Who?", "Ada")),
    "answers as objects": (
        {"question": "Who?", "answers": [{"text": "Ada", "answer_start": 3}, {"text": "A. L.", "answer_start": 9}]},
        Row("Who?", "Ada", answers=("Ada", "A. L.")),
    ),
    "BoolQ": (
        {"question": "is it", "passage": "It is.", "answer": True},
        Row("It is.\n\nis it", "true", ("false", "true")),
    ),
    "PIQA": ({"goal": "Turn.", "sol1": "left", "sol2": "right", "label": 1}, Row("Turn.", "right", TWO)),
    "PIQA as text": ({"goal": "Turn.", "sol1": "left", "sol2": "right", "label": "0"}, Row("Turn.", "left", TWO)),
    "WinoGrande": (
        {"sentence": "Go _.", "option1": "left", "option2": "right", "answer": "2"},
        Row("Go _.", "right", TWO),
    ),
    "WinoGrande as a number": (
        {"sentence": "Go _.", "option1": "left", "option2": "right", "answer": 1}, Row("Go _.", "left", TWO),
    ),
    "COPA": (
        {"premise": "It fell.", "choice1": "left", "choice2": "right", "question": "cause", "idx": 1, "label": 1},
        Row("It fell.\n\ncause", "right", TWO),
    ),
    "COPA by name": (
        {"premise": "It fell.", "choice1": "left", "choice2": "right", "question": "cause", "label": "choice1"},
        Row("It fell.\n\ncause", "left", TWO),
    ),
    "SciQ": (
        {"question": "Which?", "distractor1": "lead", "distractor2": "tin", "distractor3": "zinc",
         "correct_answer": "gold", "support": "Gold is soft."},
        Row("Gold is soft.\n\nWhich?", "gold", ("gold", "lead", "tin", "zinc")),
    ),
    "RACE": (
        {"example_id": "h1", "article": "He went.", "question": "Who _ ?", "options": ["he", "she", "we", "they"],
         "answer": "B"},
        Row("He went.\n\nWho _ ?", "she", ("he", "she", "we", "they")),
    ),
    "MedQA": (
        {"question": "Which?", "options": {"A": "tin", "B": "gold"}, "answer": "gold", "answer_idx": "B"},
        Row("Which?", "gold", ("tin", "gold")),
    ),
    "Social IQa": (
        {"context": "He ran.", "question": "Why?", "answerA": "left", "answerB": "right", "answerC": "up",
         "label": "3"},
        Row("He ran.\n\nWhy?", "up", ("left", "right", "up")),
    ),
    "Cosmos QA": (
        {"context": "He ran.", "question": "Why?", "answer0": "a", "answer1": "b", "answer2": "c", "answer3": "d",
         "label": 2},
        Row("He ran.\n\nWhy?", "c", ("a", "b", "c", "d")),
    ),
    "SWAG": (
        {"startphrase": "He", "ending0": "a", "ending1": "b", "ending2": "c", "ending3": "d", "label": 0},
        Row("He", "a", ("a", "b", "c", "d")),
    ),
    "MMLU": (
        {"question": "Which?", "subject": "law", "choices": ["left", "right"], "answer": 0}, Row("Which?", "left", TWO),
    ),
    "KTO": ({"prompt": "Hi", "completion": "Hello", "label": True}, Row("Hi", "Hello")),
    "MMLU-Pro": (
        {"question": "Which type?", "options": ["O", "A", "B", "AB"], "answer": "B", "answer_index": 1},
        Row("Which type?", "A", ("O", "A", "B", "AB")),
    ),
    "LogiQA": (
        {"label": "b", "context": "He went.", "question": "Who?", "options": ["left", "right"]},
        Row("He went.\n\nWho?", "right", TWO),
    ),
    "AGIEval": (
        {"passage": None, "question": "Who?", "options": ["(A)he", "(B)she"], "label": "B", "other": None},
        Row("Who?", "(B)she", ("(A)he", "(B)she")),
    ),
    "lm-eval": ({"query": "Who?", "choices": ["left", "right"], "gold": [1]}, Row("Who?", "right", TWO)),
    "C-Eval": (
        {"id": 1, "question": "Who?", "A": "left", "B": "right", "answer": "B", "explanation": ""},
        Row("Who?", "right", TWO),
    ),
    "letters of columns": ({"input": "Who?", "A": "left", "B": "right", "target": "A"}, Row("Who?", "left", TWO)),
    "a letter beside texts in columns": (
        {"sentence": "Who?", "A": "left", "B": "right", "label": "A"}, Row("Who?", "left", TWO),
    ),
    "the text of a column": (
        {"question": "Who?", "A": "3", "B": "1", "answer": "1"}, Row("Who?", "1", ("3", "1")),
    ),
    "the number of a column": (
        {"question": "Who?", "A": "3", "B": "1", "C": "2", "D": "4", "answer": 0},
        Row("Who?", "3", ("3", "1", "2", "4")),
    ),
    "columns that no answer names": ({"input": "A + B", "A": "2", "B": "3", "output": "five"}, Row("A + B", "five")),
    "options": ({"input": "Who?", "options": ["left", "right"], "target": "right"}, Row("Who?", "right", TWO)),
    "options that no answer names": (
        {"instruction": "Who?", "options": ["left", "right"], "output": "It is left."}, Row("Who?", "It is left."),
    ),
    "BIG-bench of the hub": (
        {"inputs": "Who?", "targets": ["right"], "multiple_choice_targets": ["left", "right"],
         "multiple_choice_scores": [0, 1]},
        Row("Who?", "right", TWO),
    ),
    "BIG-bench of the hub without choices": (
        {"inputs": "Who?", "targets": ["right", "left"], "multiple_choice_targets": [], "multiple_choice_scores": []},
        Row("Who?", "right", answers=("right", "left")),
    ),
    "BIG-bench": ({"input": "Who?", "target_scores": {"left": 0, "right": 1}}, Row("Who?", "right", TWO)),
    "scores": ({"input": "Who?", "target_scores": {"left": 0.5, "right": 0.25}},
                                          Row("Who?", "left", TWO)),
    "TruthfulQA": (
        {"question": "Who?", "mc1_targets": {"choices": ["right", "left"], "labels": [1, 0]},
         "mc2_targets": {"choices": ["right", "left"], "labels": [1, 0]}},
        Row("Who?", "right", TWO),
    ),
    "orca DPO": ({"question": "Hi", "chosen": "Hello", "rejected": "No"}, Row("Hi", "Hello")),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_a_layout_is_understood(tmp_path: Path, case: str) -> None:
    record, row = UNDERSTOOD[case]
    # booleans are choices where a file has both
    others = [record | {"answer": False}, record | {"question": "more"}, record | {"question": "less"}]
    others = others if isinstance(record.get("answer"), bool) else []
    found = read_rows(written(tmp_path, record, *others), minimum=1)
    assert found.rows[0] == row
    left_out = (
        set(re.sub(r".*left out: ", "", found.understood).split(", ")) if "left out" in found.understood else set()
    )
    read = set(re.findall(r"fields ([^)]*)\)", found.understood)[0].split(", "))
    unfilled = {name for name, value in record.items() if value in ("", [], None)}
    judged = {"label"} if case == "KTO" else set()
    assert read | left_out | unfilled | judged == set(record) and not read & left_out


def test_squad_as_its_own_files_nest_it(tmp_path: Path) -> None:
    asked = {"question": "Who?", "id": "1", "answers": [{"text": "Ada", "answer_start": 0}]}
    none = {"question": "Why?", "id": "2", "answers": [], "is_impossible": True}
    whole = {"version": "2.0", "data": [{"title": "t", "paragraphs": [{"context": "Ada did.", "qas": [asked, none]}]}]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(whole))
    found = read_rows(path, minimum=1)
    assert found.rows == (Row("Ada did.\n\nWho?", "Ada"),)
    assert found.notes == ("dev.json: 1 row left out: answers has no answer (the first: dev.json: row 2)",)


def test_an_answer_that_is_called_wrong_is_left_out(tmp_path: Path) -> None:
    pair = {"prompt": "Hi", "completion": "Hello", "label": True}
    found = read_rows(written(tmp_path, pair, pair | {"completion": "Go away", "label": False}), minimum=1)
    assert found.rows == (Row("Hi", "Hello"),)
    assert found.notes[0].startswith("rows.jsonl: 1 row left out: label says that the completion is wrong (the first: ")
    scored = {"inputs_pretokenized": "Is it?", "targets_pretokenized": "no", "is_correct": False}
    with pytest.raises(TaskError, match=r"rows\.jsonl:1: is_correct says that the targets_pretokenized is wrong"):
        read_rows(written(tmp_path, scored), minimum=1)


REFUSED: dict[str, tuple[dict[str, Any], str, list[Row]]] = {
    "translation": (
        {"translation": {"en": "dog", "fr": "chien"}}, "name the two that are meant", [Row("dog", "chien")],
    ),
    "DROP": (
        {"passage": "p", "question": "q", "summary": "s"}, "name those that are meant", [Row("p\n\nq", "s")],
    ),
    "WikiQA": (
        {"question": "q", "answer": "a", "label": 1}, "either may be the answer",
        [Row("q\n\na", "1"), Row("q", "a")],
    ),
    "AQuA": (
        {"question": "q", "options": ["left", "right"], "rationale": "r", "correct": "B"}, "name those that are meant",
        [Row("q", "right", TWO)],
    ),
    "choices of another name": (
        {"query": "q", "passage": "p", "candidates": ["left", "right"], "label": 1}, "name those that are meant",
        [Row("p\n\nq", "right", TWO)],
    ),
    "MMMLU": (
        {"Question": "q", "A": "left", "B": "right", "Answer": "A"}, "name those that are meant",
        [Row("q", "left", TWO)],
    ),
    "axolotl": ({"segments": [{"label": False, "text": "q"}, {"label": True, "text": "a"}]}, "hold a template", []),
    "MultiRC": (
        {"paragraph": "p", "question": "q", "answer": "a", "label": False}, "either may be the answer",
        [Row("q\n\na", "false"), Row("q", "a")],
    ),
    "booleans in words": (
        {"input": "q", "output": "a", "label": "True"}, "either may be the answer",
        [Row("q\n\na", "True"), Row("q", "a")],
    ),
    "HotpotQA": (
        {"question": "q", "answer": "a", "context": {"title": ["t"]}}, "context is an object, not text",
        [Row("q", "a")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_has_a_remedy_that_works(tmp_path: Path, case: str) -> None:
    record, says, rows = REFUSED[case]
    path = written(tmp_path, record)
    with pytest.raises(TaskError) as refused:
        read_rows(path, minimum=1)
    assert says in str(refused.value) and str(refused.value).startswith(f"{path}:1: ")
    maps = re.findall(r"`fields=([^`]*)`", str(refused.value))
    assert [read_rows(path, minimum=1, fields=fields).rows[0] for fields in maps] == rows


def test_inputs_of_a_layout(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"context": "c", "question": "q", "choices": ["x", "y"]},
        {"goal": "g", "sol1": "x", "sol2": "y"},
    ]
    found = read_inputs(written(tmp_path, *given, {"premise": "p", "hypothesis": "h"}))
    assert found.rows == (Row("c\n\nq", "", ("x", "y")), Row("g", "", ("x", "y")), Row("p\n\nh", ""))


def test_an_understood_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        'id,question,choices,answer,source,url\n1,Which?,"[""a"", ""b""]",a,s,\n2,What?,"[""a"", ""b""]",b,s,\n'
    )
    assert read_rows(path).understood == (
        "x.csv: 2 rows, read as question answering with choices (fields question, choices, answer); "
        "2 fields left out: id, source"
    )


def test_rows_know_their_places(tmp_path: Path) -> None:
    found = read_rows(written(tmp_path, *({"input": str(n), "output": "x"} for n in range(3))))
    assert [row.called for row in found.rows] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    moved = read_rows(written(tmp_path, *({"input": str(n), "output": "x"} for n in (2, 0, 1)), name="other.jsonl"))
    assert set(moved.rows) == set(found.rows)  # where a row stands is no part of what it is
    assert {row.digest for row in moved.rows} == {row.digest for row in found.rows}
