"""Fields that the user names: any layout becomes rows, and a wrong name is one line."""

import json
from pathlib import Path
from typing import Any

import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.cli import main
from merge_advisor.errors import TaskError
from merge_advisor.tasks import read_inputs, read_rows
from merge_advisor.types import Row
from tests.support.task_files import write_task

CHOICES = "input=ctx,output=label,choices=ends"


def written(place: Path, *records: dict[str, Any], name: str = "rows.jsonl") -> Path:
    path = place / name
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


@pytest.mark.parametrize(
    ("fields", "record", "row"),
    [
        ("input=text,output=tag", {"text": "a", "tag": "b", "id": 3}, Row("a", "b")),
        (CHOICES, {"ctx": "a", "label": 1, "ends": ["x", "y"]}, Row("a", "y", ("x", "y"))),
        (CHOICES, {"ctx": "a", "label": "B", "ends": ["x", "y"]}, Row("a", "y", ("x", "y"))),
        (CHOICES, {"ctx": "a", "label": "x", "ends": ["x", "y"]}, Row("a", "x", ("x", "y"))),
        ("input=q,output=cop,choices=opa+opb", {"q": "a", "cop": 1, "opa": "x", "opb": "y"}, Row("a", "y", ("x", "y"))),
        ("input=q,output=answers.text", {"q": "a", "answers": {"text": ["x", "y", "x"]}},
         Row("a", "x", answers=("x", "y"))),
        ("input=translation.en,output=translation.fr", {"translation": {"en": "dog", "fr": "chien"}},
         Row("dog", "chien")),
        ("input=passage+question,output=answers.text.0",
         {"passage": "p", "question": "q", "answers": {"text": ["a", "b"]}}, Row("p\n\nq", "a")),
        (" input = a.b , output = c ", {"a.b": "whole", "a": {"b": "inner"}, "c": "d"}, Row("whole", "d")),
        ("input=talk,output=said", {"talk": [{"role": "user", "content": "Hi"}], "said": "No"}, Row("Hi", "No")),
        ("input=a+b+c,output=d", {"a": None, "b": "x", "c": " ", "d": "y"}, Row("x", "y")),
        ("input=a+b,output=d", {"a": True, "b": 2, "d": "y"}, Row("true\n\n2", "y")),
        (CHOICES, {"ctx": "a", "label": "b", "ends": ["x", "y"]}, Row("a", "y", ("x", "y"))),
        ("input=q+A+B,output=a", {"q": "q", "A": "x", "B": "y", "a": "B"}, Row("q\n\nx\n\ny", "B")),
        # known names count for nothing beside named ones
        ("input=question,output=gold", {"question": "q", "answer": "wrong", "gold": "right"}, Row("q", "right")),
    ],
)  # fmt: skip
def test_named_fields(tmp_path: Path, fields: str, record: dict[str, Any], row: Row) -> None:
    found = read_rows(written(tmp_path, record), minimum=1, fields=fields)
    assert found.rows == (row,) and found.mapping == fields


def test_what_is_not_named_is_said(tmp_path: Path) -> None:
    found = read_rows(written(tmp_path, {"t": "a", "u": "b", "id": 3}), minimum=1, fields="input=t,output=u")
    assert found.understood == "rows.jsonl: 1 row, read as the map says (input=t,output=u); 1 field left out: id"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("input", '"input" names no field; write input=FIELD,output=FIELD[,choices=FIELD]'),
        ("input=a,answer=b", '"answer=b" names no field'),
        ("input=a,output=", '"output=" names no field'),
        ("input=a,input=b,output=c", "input is there twice"),
        ("input=a,output=b+c", "output is one field"),
        ("output=b", "names no input"),
        ("input=a", "names no output; add output=FIELD"),
        ("input=x,output=b", 'rows.jsonl:1: has no field "x"; it has "a", "b", "c", "d", "A", "B", 1 more'),
        ("input=a.5,output=b", 'rows.jsonl:1: has no field "a.5"'),
        ("input=a,output=b,labels=x", "labels are at least two names, all different"),
        ("input=a,output=b,labels=x|x", "labels are at least two names, all different"),
        ("input=a,output=a,labels=bad|good", 'rows.jsonl:1: the label "x" has no name among "bad", "good"; add it or'),
        ("input=a,output=b,labels=1:x|1:y", "labels are at least two names, all different"),
        ("input=a+b,output=b", "rows.jsonl:1: of a+b one is a list, not text; name one field"),
        ("input=c+d,output=a", "rows.jsonl:1: c+d are all empty; fill one in or drop the row"),
        ("input=a,output=k", '"B" names one of the columns A, B, which no one sees; give `fields=input=a,out'),
    ],
)  # fmt: skip
def test_a_wrong_map_is_one_line(tmp_path: Path, fields: str, says: str) -> None:
    record = {"a": "x", "b": ["y"], "c": None, "d": "", "A": "s", "B": "t", "k": "B"}
    with pytest.raises(TaskError) as refused:
        read_rows(written(tmp_path, record), minimum=1, fields=fields)
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("step", ["9" * 5000, "²", "-1", "1", ""])
def test_a_place_that_a_list_does_not_have_is_one_line(tmp_path: Path, step: str) -> None:
    path = written(tmp_path, *[{"q": "a", "list": ["x"]}] * 4)
    with pytest.raises(TaskError, match=r"rows\.jsonl:1.* has no field"):
        read_rows(path, minimum=1, fields=f"input=q,output=list.{step}")


def test_a_place_may_have_zeros_before_it(tmp_path: Path) -> None:
    path = written(tmp_path, {"q": "a", "list": ["x", "y"]})
    assert read_rows(path, minimum=1, fields=f"input=q,output=list.{'0' * 5000}1").rows[0].output == "y"


def test_inputs_need_no_outputs_and_no_choices(tmp_path: Path) -> None:
    path = written(tmp_path, {"t": "a"}, {"t": "b", "u": "c"})
    found = read_inputs(path, fields="input=t,output=u,choices=v")
    assert [row.input for row in found.rows] == ["a", "b"]
    assert "rows.jsonl: outputs of 1 row not looked at" in found.notes


def test_a_plan_keeps_its_map_and_scores_other_files_by_it(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in write_task(tmp_path / "even.jsonl", 16).read_text().splitlines()]
    asked = [{"ask": row["input"], "say": row["output"]} for row in rows]
    written(tmp_path, *asked[:12], name="plan.jsonl")
    written(tmp_path, *asked[12:], name="other.jsonl")
    options = PlanOptions(k=1, adaptation="none", strategy="top_k", fields="input=ask,output=say")
    where = {"pool": str(tiny_pool), "base": str(tiny_llama), "cache": tmp_path / "cache"}
    run = ma.plan(tmp_path / "plan.jsonl", out=tmp_path / "run", options=options, scored=False, **where)  # type: ignore[arg-type]
    assert run.plan.settings.fields == "input=ask,output=say"
    understood = "plan.jsonl: 12 rows, read as the map says (input=ask,output=say)"
    assert run.plan.tasks[0].understood == (understood,) and understood in (run.folder / "report.md").read_text()
    assert {row.place for row in run.tasks[0].shots} <= {f"plan.jsonl:{line}" for line in range(1, 13)}
    given = [
        "score",
        str(tmp_path / "run"),
        "--task",
        str(tmp_path / "other.jsonl"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main([*given, "--metric", "loss", "-q"]) == 0
    shown = capsys.readouterr().out
    assert understood in shown and "other.jsonl: 4 rows, read as the map says (input=ask,output=say)." in shown
    assert main([*given, "--metric", "loss", "-q", "--map", "input=ask,output=tell"]) == 2
    assert 'has no field "tell"; it has "ask", "say"' in capsys.readouterr().err
