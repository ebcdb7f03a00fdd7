"""Names that are no text, of tensors and of files: a plan is made of them, and its run can be read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.advisor.runs.run_folder import read_run
from merge_advisor.cli import main
from merge_advisor.weights.tensorfile import read_header
from tests.support.task_files import write_task


def with_named_tensor(folder: Path, name: str) -> None:
    """Give an adapter's weights one tensor more, of any name that JSON can write."""
    path = folder / "adapter_model.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8:start]), data[start:]
    more = np.zeros((4, 32), dtype=np.float32).tobytes()
    header[name] = {"dtype": "F32", "shape": [4, 32], "data_offsets": [len(numbers), len(numbers) + len(more)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers + more)
    assert len(read_header(path)) == len(header) - ("__metadata__" in header)


TENSORS = ("base_model.model.\ud800.lora_A.weight", "\ud800\x1b[31m", f"base_model.model.{'x' * 9000}.lora_A.weight")


def test_tensors_and_files_of_any_name_are_no_end_of_a_run(
    tiny_llama: Path, tiny_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, run = tmp_path / "pool", tmp_path / "run"
    shutil.copytree(tiny_pool, pool)
    for number, tensor in enumerate(TENSORS):
        with_named_tensor(pool / f"a{number}", tensor)
    task = tmp_path / "ro\udcffws.jsonl"  # its bytes are no UTF-8
    write_task(task)
    words = ["plan", "--task", str(task), "--base", str(tiny_llama), "--pool", str(pool), "--out", str(run)]
    words += ["--cache", str(tmp_path / "cache"), "--no-score", "--strategy", "random", "--k", "2"]
    assert main([*words, "--adaptation", "none", "--lora-steps", "1", "--threads", "1"]) == 3
    told = read_run(run)
    refused = {one.id: one.reason for one in told.plan.candidates if one.status == "refused"}
    assert set(refused) == {"a0", "a1", "a2"}
    assert all(reason.isprintable() and 20 < len(reason) < 400 for reason in refused.values())
    assert told.plan.environment.paths["task ro\\udcffws"] == str(task)  # the file's own name
    for path in run.rglob("*"):
        if path.suffix in (".json", ".md", ".html", ".yaml"):
            path.read_bytes().decode()
    capsys.readouterr()
    assert main(["score", str(run), "--threads", "1"]) in (0, 3)
    assert read_run(run).scores
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
