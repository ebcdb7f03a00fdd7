"""Fixtures of the tests that run benchmarks."""

from pathlib import Path

import pytest

from tests.support.bench_setups import Places


@pytest.fixture(scope="module")
def places(tiny_llama: Path, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Base and pool, and a cache for the tests of one module."""
    return {"base": str(tiny_llama), "pool": str(tiny_pool), "cache": tmp_path_factory.mktemp("cache")}
