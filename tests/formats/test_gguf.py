"""`merge --gguf`, with a stand-in for llama.cpp's converter: a program that reads the model folder it is given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import ExternalError, RunError
from merge_advisor.formats.run_gguf import CONVERTER, find_converter, run_gguf

CONVERTS = """
import pathlib, sys
model, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[-1])
assert sys.argv[2:4] == ["--outtype", "f16"]
out.write_bytes(b"GGUF" + (model / "model.safetensors").read_bytes()[:8])
"""


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Write a program in the converter's place; returns a function of its text."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    monkeypatch.setenv("LLAMA_CPP", str(folder))
    return (folder / CONVERTER).write_text


def test_it_is_converted_whole(converter: Any, tiny_llama: Path, tmp_path: Path) -> None:
    converter(CONVERTS)
    run_gguf(tiny_llama, tmp_path / "out" / "merge.gguf")
    written = (tmp_path / "out" / "merge.gguf").read_bytes()
    assert written == b"GGUF" + (tiny_llama / "model.safetensors").read_bytes()[:8]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["merge.gguf"]
    with pytest.raises(RunError, match="there already"):
        run_gguf(tiny_llama, tmp_path / "out" / "merge.gguf")


@pytest.mark.parametrize(
    ("program", "words"),
    [("raise SystemExit('no such architecture')", "no such architecture"), ("pass", "wrote no GGUF file")],
)
def test_a_converter_that_fails_leaves_its_log_alone(
    converter: Any, tiny_llama: Path, tmp_path: Path, program: Any, words: Any
) -> None:
    converter(program)
    with pytest.raises(ExternalError, match=words):
        run_gguf(tiny_llama, tmp_path / "merge.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".merge.gguf.log", "llama.cpp"]


def test_without_llama_cpp_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExternalError, match="clone llama"):
        find_converter()
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(ExternalError, match="is not in"):
        find_converter()
