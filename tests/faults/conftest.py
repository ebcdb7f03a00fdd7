"""The world of commands that are disturbed, and the process that runs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import FaultWorld, ForkServer


@pytest.fixture(scope="package")
def world(tiny_llama: Path, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultWorld]:
    folder = tmp_path_factory.mktemp("faults")
    with ForkServer(folder) as server:
        yield FaultWorld(folder / "world", server, tiny_llama, tiny_pool)
