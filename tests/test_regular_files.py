"""A FIFO, socket or device under the name of a file is refused, not waited for."""

import ast
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import merge_advisor
from merge_advisor.errors import PoolError, TaskError
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.evaluators.lm_eval_tasks import TaskName, load_tasks
from merge_advisor.formats.peft import licence_of
from merge_advisor.pool.opening import open_pool
from merge_advisor.regular_files import open_regular, read_bounded, read_regular, read_regular_text
from merge_advisor.tasks import read_rows
from merge_advisor.weights.base import resolve_base

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("fifo", "link", "device"):
        with pytest.raises(OSError, match="no regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
        with pytest.raises(OSError, match="device"):
            open_regular(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link") == b"\xef\xbb\xbfone\r\ntwo"
    assert read_regular_text(tmp_path / "file", "utf-8-sig") == "one\ntwo"
    with pytest.raises(UnicodeDecodeError):
        read_regular_text(tmp_path / "file", "ascii")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "README.md"])
def test_a_pool_with_a_fifo_is_read(name: str, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    pool = shutil.copytree(tiny_pool, tmp_path / "pool")
    (pool / "a0" / name).unlink(missing_ok=True)
    os.mkfifo(pool / "a0" / name)
    opened = open_pool(pool, resolve_base(str(tiny_llama), cache=tmp_path / "cache"))
    if name == "README.md":  # a card that cannot be read is none
        assert "a0" in {candidate.id for candidate in opened.candidates}
    else:
        said = {one.id: one.reason for one in opened.refused}
        assert "no regular file" in said["a0"] and len(opened.candidates) == 5


def test_what_stands_for_a_model_and_is_no_file_is_told(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    """A folder with a FIFO for a configuration, one of weights, one that would be an archive: none vanishes."""
    pool = shutil.copytree(tiny_pool, tmp_path / "pool")
    (pool / "a0" / "adapter_config.json").unlink()
    (pool / "c0").mkdir()
    for name in ("a0/adapter_config.json", "c0/config.json", "y.zip", "z.gguf", "loose.safetensors"):
        os.mkfifo(pool / name)
    opened = open_pool(pool, resolve_base(str(tiny_llama), cache=tmp_path / "cache"))
    said = {one.id: one.reason for one in opened.refused}
    assert set(said) == {"a0", "c0", "y", "z", "pool"} and len(opened.candidates) == 5
    assert all("no regular file" in reason for reason in said.values())
    assert said["pool"].startswith("loose.safetensors: ")
    os.mkfifo(pool / "pool.yaml")
    with pytest.raises(PoolError, match=r"pool.yaml: cannot be read \(no regular file\)"):
        open_pool(pool, resolve_base(str(tiny_llama), cache=tmp_path / "cache"))


TASK = (
    "task: own\ndataset_path: json\ntest_split: test\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
)


def test_tasks_of_lm_eval_are_no_pipes(tmp_path: Path) -> None:
    folder, rows = tmp_path / "tasks", tmp_path / "rows"
    folder.mkdir()
    os.mkfifo(folder / "x.yaml")
    with pytest.raises(TaskError, match=r"x.yaml: is no regular file; remove it"):
        load_tasks(TaskName("own", folder))
    (folder / "x.yaml").unlink()
    os.mkfifo(rows)
    for data in (rows, "/dev/zero"):
        (folder / "own.yaml").write_text(f"{TASK}dataset_kwargs: {{data_files: {{test: [{data}]}}}}\n")
        with pytest.raises(TaskError, match=r"data file .* is no regular file"):
            load_tasks(TaskName("own", folder))
    for included in (rows, "/dev/zero"):  # lm-eval itself follows it, in a task that nobody asked for
        (folder / "other.yaml").write_text(f"task: other\ninclude: {included}\n")
        with pytest.raises(TaskError, match=f"{included}: is no regular file"):
            load_tasks(TaskName("own", folder))


def test_guards_tasks_and_cards_are_no_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    os.mkfifo(tmp_path / "README.md")
    os.mkfifo(tmp_path / "rows.parquet")
    for path in (tmp_path / "rows.jsonl", Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises(TaskError, match="cannot be read"):
            read_guard(path)
        with pytest.raises(TaskError, match="cannot be read"):
            read_rows(path)
    with pytest.raises(TaskError, match="no regular file"):
        read_rows(tmp_path / "rows.parquet")
    assert licence_of(str(tmp_path)) == ""


def test_the_pipe_of_a_shell_is_read_up_to_its_limit(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from merge_advisor.regular_files import read_bounded as read; "
        "print(read(pathlib.Path(sys.argv[1]), int(sys.argv[2])))"
    )
    for most, told in (("5", "b'hello'"), ("4", "None")):
        words = f'{sys.executable} -c "{code}" <(printf hello) {most}'
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == told
    (tmp_path / "file").write_bytes(b"hello")
    assert read_bounded(tmp_path / "file", 5) == b"hello" and read_bounded(tmp_path / "file", 4) is None


OPENED = {
    "regular_files.py": "a shell's pipe",
    "weights/tensorfile.py": "", "whole_files.py": "folders, to sync them",
    "backbone/devices.py": "/proc", "owners.py": "/proc and /etc", "engine/life.py": "/proc",
    "pool/unpickling.py": "/proc",
    "benchmark/report/write.py": "files of this package", "embeddings/meaning.py": "files of this package",
    "report/html.py": "files of this package", "explore/page_export.py": "files of this package",
    "cli/init.py": "files of this package",
    "advisor/merge_run.py": "what it has just written",
    "formats/child_process.py": "what it has just written", "formats/run_gguf.py": "what it has just written",
    "pool/peft_child.py": "what its parent has just written",
    "explore/tokens.py": "looks itself, as no link may be followed", "hub/stored_vectors.py": "looks itself",
    "hub/mapped_rows.py": "files that hub/stored_vectors.py has looked at", "disks.py": "/proc, and what is ours",
}  # fmt: skip
"""Modules that read files without `regular_files`, and why that cannot wait for ever."""


def test_nothing_else_opens_files_of_others() -> None:
    root = Path(merge_advisor.__file__).parent
    found = set()
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _reads(node):
                found.add(path.relative_to(root).as_posix())
    assert found <= set(OPENED), f"{sorted(found - set(OPENED))}: open what others wrote by regular_files"
    assert set(OPENED) <= found | {"weights/tensorfile.py"}


def _reads(call: ast.Call) -> bool:
    """Whether a call opens a file for reading by its path."""
    if isinstance(call.func, ast.Name):
        return call.func.id == "open"
    if not isinstance(call.func, ast.Attribute):
        return False
    owner = ast.unparse(call.func.value)
    if call.func.attr in ("read_text", "read_bytes"):
        return True
    modes = [node.value for node in call.args[:1] if isinstance(node, ast.Constant)]
    if call.func.attr == "open" and owner == "os":
        return "O_RDONLY" in ast.unparse(call)
    return call.func.attr == "open" and bool(modes) and isinstance(modes[0], str) and modes[0].startswith("r")
