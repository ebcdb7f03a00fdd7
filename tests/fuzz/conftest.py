"""The world of fuzzed cases, made once, and who runs them."""

from pathlib import Path

import pytest

from tests.fuzz.running import Fuzzer, warm
from tests.fuzz.world import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    warm(loads=True)
    return make_world(tmp_path_factory.mktemp("fuzz") / "world")


@pytest.fixture(scope="session")
def fuzzer(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    return Fuzzer(world, tmp_path_factory.mktemp("scratch"))
