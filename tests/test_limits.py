"""What is read of files that may be anyone's has limits: each is told with what raises it, and that works."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from merge_advisor.cli import main
from merge_advisor.errors import BaseModelError, InputError, PoolError, RunError, TaskError
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.evaluators.lm_eval_task_code import read_task_yaml
from merge_advisor.json_form import read_value, to_json
from merge_advisor.limits import ARCHIVE_FILES, LIMITS, LIMITS_VARIABLE, ROW_BYTES, check_limits
from merge_advisor.plain_yaml import load_yaml
from merge_advisor.pool.manifest import read_manifest
from merge_advisor.pool.sources import find_models
from merge_advisor.tasks import read_inputs, read_rows
from merge_advisor.types import Row
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.files import FileError, read_json
from merge_advisor.weights.gguf_header import check_gguf_header
from merge_advisor.weights.tensorfile import read_header

ROWS = [{"input": f"say {n}", "output": f"{n}"} for n in range(5)]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def task_of(path: Path, rows: list[dict[str, Any]], kind: str = "jsonl") -> Path:
    file = path / f"t.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif kind == "jsonl.gz":
        file.write_bytes(gzip.compress(lines(rows).encode()))
    else:
        file.write_text(json.dumps(rows) if kind == "json" else lines(rows))
    return file


def named(path: Path, name: str, text: str) -> Path:
    (path / name).write_text(text)
    return path / name


def tensors(path: Path, count: int) -> Path:
    save_file({f"t{n}": np.zeros(1, np.float32) for n in range(count)}, path / "m.safetensors")
    return path / "m.safetensors"


def gguf_file(path: Path) -> Path:
    import gguf

    file = path / "m.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_array("tokenizer.ggml.tokens", [f"t{n}" for n in range(30)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 30)
    for n in range(5):
        writer.add_tensor(f"t{n}", np.zeros((2, 2), np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return file


def header_is_read(file: Path) -> bool:
    import gguf

    check_gguf_header(file)
    return len(gguf.GGUFReader(file).tensors) == 5


TEXTS = [{"text": letter * 20} for letter in "ab"]
HUNDRED = [{**ROWS[0], "output": "x" * 100}, *ROWS]
CASES: dict[str, tuple[str, int, Callable[[Path], Path], Callable[[Path], Any]]] = {
    "an answer": ("row_bytes", 50, lambda path: task_of(path, HUNDRED), read_rows),
    "an input": ("row_bytes", 50, lambda path: task_of(path, [{**ROWS[0], "input": "ä" * 30}, *ROWS]), read_rows),
    "inputs alone": ("row_bytes", 50, lambda path: task_of(path, [{"input": "x" * 60}]), read_inputs),
    "choices": (
        "row_bytes", 50,
        lambda path: task_of(path, [{**row, "choices": [row["output"], "x" * 60]} for row in ROWS], "json"), read_rows,
    ),
    "rows": ("task_rows", 4, lambda path: task_of(path, ROWS), read_rows),
    "rows of Parquet": ("task_rows", 4, lambda path: task_of(path, ROWS, "parquet"), read_rows),
    "a file": ("task_bytes", 100, lambda path: task_of(path, ROWS), read_rows),
    "a packed file": ("task_bytes", 150, lambda path: task_of(path, ROWS, "jsonl.gz"), read_rows),
    "Parquet": ("task_bytes", 100, lambda path: task_of(path, ROWS, "parquet"), read_rows),
    "a guard file": ("task_bytes", 20, lambda path: named(path, "g.jsonl", lines(TEXTS)), read_guard),
    "a guard text": ("row_bytes", 19, lambda path: named(path, "g.jsonl", lines(TEXTS)), read_guard),
    "a configuration": ("json_bytes", 10, lambda path: named(path, "c.json", '{"hidden_size": 3}'), read_json),
    "a header": ("header_bytes", 20, lambda path: tensors(path, 2), read_header),
    "tensors": ("tensors", 4, lambda path: tensors(path, 5), read_header),
    "a header of GGUF": ("header_bytes", 40, gguf_file, header_is_read),
    "values of GGUF": ("header_values", 40, gguf_file, header_is_read),
    "tensors of GGUF": ("tensors", 4, gguf_file, header_is_read),
    "a file of a run": (
        "run_bytes", 20, lambda path: named(path, "0.json", to_json(Row("2 + 2", "4"))),
        lambda path: read_value(Row, path),
    ),
    "a task of lm-eval": ("setup_bytes", 5, lambda path: named(path, "t.yaml", "task: mine\n"), read_task_yaml),
    "a manifest": ("manifest_bytes", 20, lambda path: named(path, "p.yaml", "version: 1\nmodels: []\n"), read_manifest),
    "a list of ids": ("manifest_bytes", 10, lambda path: named(path, "p.txt", "org/name\norg/other\n"), find_models),
    "nesting": (
        "yaml_depth", 3, lambda path: named(path, "deep.yaml", "[[[[1]]]]"), lambda path: load_yaml(path.read_text()),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "low", "make", "read"), CASES.values(), ids=CASES)
def test_what_is_beyond_a_limit_is_told_and_the_remedy_lets_it_in(
    name: str, low: int, make: Callable[[Path], Path], read: Callable[[Path], Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = make(tmp_path)
    monkeypatch.setenv(LIMITS_VARIABLE, f"{name}={low},archive_files=7")
    for _ in range(8):  # a size that is not known beforehand is doubled until it fits
        try:
            found = read(file)
        except (InputError, ValueError) as error:
            said = str(error)
            assert f"more than {name}, " in said and f"{name}=" in said and "\n" not in said
            if name != "yaml_depth":
                assert file.name in said
            if name == "row_bytes" and "t." in file.name:
                assert said.startswith((f"{file}:1: ", f"{file}: row 1: "))
            monkeypatch.setenv(LIMITS_VARIABLE, said.partition(f"set {LIMITS_VARIABLE}=")[2].partition(";")[0])
            assert ARCHIVE_FILES.most == 7  # the others stay as they were set
        else:
            assert found
            assert f"{name}={low}," not in os_environ()
            return
    raise AssertionError(f"the remedy does not let it in: {os_environ()}")


def os_environ() -> str:
    import os

    return os.environ[LIMITS_VARIABLE]


def test_what_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [limit.most for limit in LIMITS] == [limit.usual for limit in LIMITS]
    wanted = {"5": 5, "2kB": 2000, "2KiB": 2048, "200MB": 200_000_000, "1 GiB": 2**30, "3T": 3 * 10**12}
    for text, size in wanted.items():
        monkeypatch.setenv(LIMITS_VARIABLE, f" row_bytes = {text} , task_rows=9,")
        assert ROW_BYTES.most == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rows=5", "'rows' is no limit; write NAME=NUMBER, the names are row_bytes, task_bytes"),
        ("row_bytes", "row_bytes='' is not a size above 0, such as 200MB or 1GiB"),
        ("row_bytes=0", "is not a size above 0"),
        ("row_bytes=-1", "is not a size above 0"),
        ("row_bytes=1e9", "is not a size above 0"),
        ("task_rows=5MB", "task_rows='5MB' is not a whole number above 0"),
        ("task_rows=" + "9" * 400, "is not a whole number above 0"),
    ],
)
def test_a_variable_that_cannot_be_read_is_one_line(
    text: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LIMITS_VARIABLE, text)
    with pytest.raises(InputError, match=f"^{LIMITS_VARIABLE}: ") as refused:
        check_limits()
    assert says in str(refused.value)
    assert main(["show", "strategies"]) == 2
    printed = capsys.readouterr().err
    assert says in printed and printed.count("\n") == 1


def test_a_tokenizer_beyond_the_limit_is_not_read(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMITS_VARIABLE, "tokenizer_bytes=10")
    while True:
        try:
            assert resolve_base(str(tiny_llama), cache=tmp_path).path == tiny_llama
        except BaseModelError as error:
            said = str(error)
            assert said.startswith(f"base {tiny_llama}: ") and "has more than tokenizer_bytes, " in said
            monkeypatch.setenv(LIMITS_VARIABLE, said.partition(f"set {LIMITS_VARIABLE}=")[2])
        else:
            break


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot mmap an empty file"),
        (b"GGUF", "it is cut short"),
        (b"PK" + bytes(40), "it does not begin with GGUF"),
        (b"GGUF" + bytes(20), "version 0 is not read"),
        (b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\1" + bytes(7) + b"a\x0d\0\0\0", "unknown type 13"),
        (b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\xff" * 8, "it is cut short"),
    ],
)
def test_a_gguf_header_that_is_none_is_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(FileError, match=f"^m.gguf: cannot be read as GGUF \\(.*{says}.*\\); fetch it again$"):
        check_gguf_header(tmp_path / "m.gguf")


def test_a_gguf_header_of_the_other_order_of_bytes(tmp_path: Path) -> None:
    import gguf

    file = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(file, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_uint32("llama.block_count", 2)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    check_gguf_header(file)


def test_a_file_of_a_run_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "recipe.json")
    with pytest.raises(RunError, match=r"cannot be read \(no regular file\); copy the whole run folder"):
        read_value(Row, tmp_path / "recipe.json")


def test_a_folder_cannot_raise_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for limit in LIMITS:
        (tmp_path / "merge-advisor.toml").write_text(f"{limit.name} = 5\n")
        assert main(["plan", "--dry-run"]) == 2


def test_real_files_are_far_below_the_limits(tmp_path: Path) -> None:
    """A LoRA on every expert of a model of a trillion parameters, and a row that is a book."""
    names = [
        f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{module}.lora_{side}.weight"
        for layer in range(61) for expert in range(384) for module in ("gate_proj", "up_proj", "down_proj")
        for side in "AB"
    ]  # fmt: skip
    entry = '":{"dtype":"BF16","shape":[16,7168],"data_offsets":[18446744073,18446744073]},"'
    known = {limit.name: limit.usual for limit in LIMITS}
    assert len(names) * 5 < known["tensors"]
    assert 2 * sum(len(name) + len(entry) for name in names) < known["header_bytes"]
    assert known["row_bytes"] > 3_300_000  # bytes of War and Peace
    file = task_of(tmp_path, [{"input": "word " * 600_000, "output": "yes"}, *ROWS])
    assert len(read_rows(file).rows) == 6


def test_rows_of_a_data_set_beyond_the_limit_are_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(HUNDRED))
    monkeypatch.setenv(LIMITS_VARIABLE, "row_bytes=50")
    found = read_rows(Path(f"hf:{folder}:train"))
    assert len(found.rows) == 5
    (note,) = [note for note in found.notes if "left out" in note]
    assert "more than row_bytes, 50 B" in note and "set MERGE_ADVISOR_LIMITS=row_bytes=105B" in note


def test_errors_of_places_keep_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMITS_VARIABLE, "manifest_bytes=1,row_bytes=1")
    with pytest.raises(PoolError):
        read_manifest(named(tmp_path, "p.yaml", "version: 1"))
    with pytest.raises(TaskError):
        read_rows(task_of(tmp_path, ROWS))
