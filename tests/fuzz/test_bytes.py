"""What parses bytes: its beginnings and what is almost them lead to lines, and a planted fault is found."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import mutators
from tests.fuzz.byte_targets import BYTE_TARGETS, ByteTarget, finding_of

ROOT = Path(__file__).parents[2]
FOUND = Path(__file__).parent / "corpus" / "bytes"
"""Inputs that were findings once, each named by its target and what it was."""


@pytest.mark.parametrize("name", BYTE_TARGETS)
def test_beginnings_and_mutations_are_no_findings(name: str, tmp_path: Path) -> None:
    target, rng = BYTE_TARGETS[name], Random(name)
    for data in target.begin:
        assert finding_of(name, data, tmp_path) is None
    for number in range(60):
        data = mutators.mutated_bytes(target.begin[number % len(target.begin)], rng, target.begin)
        assert (found := finding_of(name, data, tmp_path)) is None, (data, found)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(FOUND.glob("*")), ids=lambda path: path.name)
def test_what_was_a_finding_is_none(path: Path, tmp_path: Path) -> None:
    name = next(name for name in sorted(BYTE_TARGETS, key=len, reverse=True) if path.name.startswith(name))
    assert finding_of(name, path.read_bytes(), tmp_path) is None


def test_a_planted_fault_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(data: bytes, _: Path) -> None:
        if b"x" in data:
            raise KeyError("planted")

    monkeypatch.setitem(BYTE_TARGETS, "planted", ByteTarget(parse, (b"a",)))
    assert finding_of("planted", b"a", tmp_path) is None
    assert isinstance(finding_of("planted", b"ax", tmp_path), KeyError)


def test_without_atheris_the_script_says_so(tmp_path: Path) -> None:
    code = "import importlib.util, runpy, sys; importlib.util.find_spec = lambda *_: None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [sys.executable, "-c", code, str(ROOT / "scripts" / "fuzzing_bytes.py"), "--minutes", "0.01"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0 and done.stdout.startswith("skipped: atheris is not installed"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_script_fuzzes(tmp_path: Path) -> None:
    words = ["bash", str(ROOT / "scripts" / "fuzz"), "bytes", "--only", "safetensors", "--minutes", "0.1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0 and "0 kinds of finding" in done.stdout, done.stdout + done.stderr
    assert int(done.stdout.split("safetensors: ")[1].split()[0]) > 100
