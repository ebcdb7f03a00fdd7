"""The tiny base, and a copy of its pool that a test may spoil."""

import shutil
from pathlib import Path

import pytest

from merge_advisor.weights.base import LocalBase, resolve_base


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    return resolve_base(str(tiny_llama), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def pool(tiny_pool: Path, tmp_path: Path) -> Path:
    """A pool of one's own to spoil."""
    return shutil.copytree(tiny_pool, tmp_path / "pool")
