"""Fixtures of the tests of the command line."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example_world: Path) -> Path:
    """A folder to work in, with a run of its own."""
    for name in ("base", "adapters", "examples.jsonl"):
        (tmp_path / name).symlink_to(example_world / name)
    shutil.copytree(example_world / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(tmp_path / "cache"))
    return tmp_path
