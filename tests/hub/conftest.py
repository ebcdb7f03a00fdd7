"""Fixtures of the hub."""

import shutil
from pathlib import Path

import pytest

from merge_advisor.hub import Hub, stored_vectors
from tests.hub.hub_world import added, where


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes from 500 rows on, so that they are tested on few."""
    monkeypatch.setattr(stored_vectors, "EXACT_UP_TO", 500)


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory, example_world: Path) -> Path:
    """A folder with a hub of the tiny pool, and what it was added from."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(example_world / "adapters", folder / "pool", symlinks=False)
    card = "---\nlicense: mit\nlanguage: [de, en]\ndatasets: squad\ntags:\n- law\n---\nDrafts legal contracts.\n"
    (folder / "pool" / "b1" / "README.md").write_text(card)
    with Hub.open(folder / "hub", make=True) as hub:
        done = hub.add(folder / "pool", base=str(example_world / "base"), **where(folder))
    assert done.new == ("a0", "a1", "a2", "b0", "b1", "b2") and done.embedded == 6 and not done.refused
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, example_world: Path) -> Path:
    """A copy of it to change; the store knows all that was measured."""
    shutil.copytree(made, tmp_path / "w")
    for name in ("base", "examples.jsonl"):
        (tmp_path / "w" / name).symlink_to(example_world / name)
    assert len(added(tmp_path / "w").updated) == 6  # the pool lies elsewhere now
    return tmp_path / "w"
