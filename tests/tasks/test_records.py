"""Files that are no JSON lines: tables, Parquet, and JSON as other tools write it."""

import gzip
import json
from pathlib import Path

import pytest

from merge_advisor.errors import TaskError
from merge_advisor.tasks import read_rows
from merge_advisor.types import Row

WANTED = (Row("a", "b"), Row("c", "d"))
LINES = '{"input": "a", "output": "b"}\n{"input": "c", "output": "d"}'


def written(place: Path, name: str, text: str) -> Path:
    path = place / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.TSV", "\t")])
def test_tables(tmp_path: Path, name: str, separator: str, ends: str) -> None:
    lines = [["input", "output"], ["a", "b"], [], ["c", "d"]]
    text = ends.join(separator.join(cells) for cells in lines)
    found = read_rows(written(tmp_path, name, "\ufeff" + text))
    assert found.rows == WANTED and found.mapping == "input/output" and not found.notes


def test_cells_are_kept_as_they_are(tmp_path: Path) -> None:
    text = 'question,answer\n"one, ""two""\nthree", 007\nx,1.50\n'
    found = read_rows(written(tmp_path, "t.csv", text))
    assert found.rows == (Row('one, "two"\nthree', " 007"), Row("x", "1.50"))


def test_choices_in_a_table_are_a_json_list(tmp_path: Path) -> None:
    text = 'question,choices,answer\na,"[""red"", ""blue""]",1\nb,,red\n'
    found = read_rows(written(tmp_path, "t.csv", text))
    assert found.rows == (Row("a", "blue", ("red", "blue")), Row("b", "red"))
    assert any('answer 1 is "blue"' in note for note in found.notes)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_header_without_a_comma_says_what_separates(tmp_path: Path, mark: str) -> None:
    lines = [["input", "output"], ["a", "b"], ["c", "d"]]
    assert read_rows(written(tmp_path, "t.csv", "\n".join(mark.join(cells) for cells in lines))).rows == WANTED


@pytest.mark.parametrize(("name", "text"), [("t.jsonl", LINES), ("t.json", LINES), ("t.csv", "input,output\na,b\nc,d")])
def test_what_gzip_has_packed_is_unpacked(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(text.encode()))
    found = read_rows(path)
    assert found.rows == WANTED and found.name == "t"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x28\xb5\x2f\xfd\0\0", "packed with zstd; unpack it and give the file inside"),
        (b"PK\x03\x04\0\0", "a zip archive; unpack it and give the file inside (of a spreadsheet: save it as CSV)"),
        (gzip.compress(LINES.encode(), mtime=0)[:-9], "cannot be unpacked ("),
        (
            gzip.compress(b"x" * 2000, mtime=0),
            "holds more than task_bytes, 1 kB; give a part of it, or set MERGE_ADVISOR_LIMITS=task_bytes=2KiB",
        ),
    ],
    ids=["zstd", "zip", "cut short", "too large"],
)
def test_what_is_packed_otherwise_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, says: str
) -> None:
    monkeypatch.setenv("MERGE_ADVISOR_LIMITS", "task_bytes=1000")
    path = tmp_path / "t.jsonl"
    path.write_bytes(raw)
    with pytest.raises(TaskError) as refused:
        read_rows(path)
    assert str(refused.value).startswith(f"{path}: {says}")


def test_choices_by_a_map_are_a_json_list_too(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", 'q,opts,a\na,"[""red"", ""blue""]",1\nb,"[""red"", ""blue""]",0\n')
    found = read_rows(path, fields="input=q,output=a,choices=opts")
    assert found.rows == (Row("a", "blue", ("red", "blue")), Row("b", "red", ("red", "blue")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("input,output\na,b\nc,d,e\n", ":3: 3 cells, the first line names 2; quote text that holds a separator"),
        ("input,output\na,b\nc\n", ":3: 1 cells, the first line names 2"),
        ("input,output,input\na,b,c\n", ':1: column "input" is there twice; keep one'),
        ('input,output\na,b\nc,"d\n', ":3: no cell of a table (unexpected end of data)"),
        ("input,output\na,b\n,d\n", ":3: input is empty; fill it in or drop the row"),
        (
            'question,choices,answer\na,"[1, ",1\n',
            ":2: choices begins as a list does and is not JSON (Expecting value); write",
        ),
        ("question,choices,answer\na,\"['b', 'c']\",1\n", ":2: choices begins as a list does and is not JSON"),
        ("input,output\n", ": 0 rows, the minimum is 2; add examples"),
        ("source,label\na,b\n", ':2: has fields "source", "label"; rename "source" to "input"'),
    ],
)
def test_a_bad_table_is_one_line_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, "t.csv", text)
    with pytest.raises(TaskError) as refused:
        read_rows(path)
    assert str(refused.value).startswith(f"{path}{says}")


def test_parquet_with_the_names_of_its_labels(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features).to_parquet(
        tmp_path / "t.parquet"
    )
    found = read_rows(tmp_path / "t.parquet")
    labels = ("bad", "good")
    assert found.rows == (Row("a", "good", labels), Row("b", "bad", labels), Row("c", "good", labels))
    assert found.labels == labels and not found.notes


def test_parquet_with_lists_numbers_and_booleans(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [
        {"question": "a", "choices": ["red", "blue"], "answer": 1},
        {"question": "b", "choices": ["red", "blue"], "answer": 0},
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "t.parquet")
    assert [row.output for row in read_rows(tmp_path / "t.parquet").rows] == ["blue", "red"]
    Dataset.from_list([{"question": str(n), "answer": n > 0} for n in range(2)]).to_parquet(tmp_path / "b.parquet")
    found = read_rows(tmp_path / "b.parquet")
    assert [row.output for row in found.rows] == ["false", "true"]
    assert found.notes == ("b.parquet: 2 booleans taken as text, true or false",)


def test_parquet_with_bytes_and_numbers_that_are_none(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    def kept(**columns: list[object]) -> Path:
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    path = kept(input=["a", "c"], output=[b"b", b"d"], picture=[b"\xff", b"\xfe"], score=[float("nan"), 1.0])
    found = read_rows(path)
    assert found.rows == WANTED and found.understood.endswith("2 fields left out: picture, score")
    with pytest.raises(TaskError, match=r"row 1: output is bytes that are not UTF-8; write it as text"):
        read_rows(kept(input=["a", "c"], output=[b"\xff", b"d"]))
    with pytest.raises(TaskError, match=r"row 2: output is null; fill it in or drop the row"):
        read_rows(kept(input=["a", "c"], output=[1.0, float("nan")]))


def test_a_broken_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, "t.parquet", "hello")
    with pytest.raises(TaskError, match=r"cannot be read as Parquet .*; save it again, or as JSONL") as refused:
        read_rows(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(TaskError, match="no such file"):
        read_rows(tmp_path / "none.parquet")


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_objects_over_several_lines(tmp_path: Path, name: str) -> None:
    records = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    text = "\n".join(json.dumps(record, indent=2) for record in records)
    if name == "t.json":
        with pytest.raises(TaskError, match="not JSON"):  # one value is wanted there
            read_rows(written(tmp_path, name, text))
        return
    assert read_rows(written(tmp_path, name, text)).rows == WANTED
    broken = written(tmp_path, name, text.replace('"d"', "d"))
    with pytest.raises(TaskError, match=r"t\.jsonl:7: not JSON \(Expecting value"):
        read_rows(broken)
    twice = written(tmp_path, name, text.replace('"c"', '"c", "input": "e"'))
    with pytest.raises(TaskError, match=r't\.jsonl:5: field "input" is there twice'):
        read_rows(twice)


@pytest.mark.parametrize(
    "whole",
    [
        {"input": {"0": "a", "1": "c"}, "output": {"0": "b", "1": "d"}},
        {"version": 2, "data": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]},
        {"train": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}], "test": []},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_rows_inside_one_json_value(tmp_path: Path, whole: dict[str, object], indent: int | None) -> None:
    assert read_rows(written(tmp_path, "t.json", json.dumps(whole, indent=indent))).rows == WANTED


def test_several_lists_are_not_chosen_among(tmp_path: Path) -> None:
    row = {"input": "a", "output": "b"}
    path = written(tmp_path, "t.json", json.dumps({"train": [row] * 3, "test": [row]}))
    with pytest.raises(TaskError, match=r"holds several lists of rows, train \(3\), test \(1\); save the one that"):
        read_rows(path)
