"""A hub of made models, and the server of its page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.explore.guarded import Guarded
from merge_advisor.explore.navigator import Navigator
from tests.explore.explore_world import HOSTILE, PORT, TOKEN, clustered


@pytest.fixture
def navigator(tmp_path: Path) -> Iterator[Navigator]:
    """Of a hub of 24 made models, some with names that are not nice."""
    clustered(tmp_path / "hub", names=HOSTILE)
    made = Navigator(tmp_path / "hub", cache=tmp_path / "cache", runs=tmp_path / "runs")
    yield made
    made.close()


@pytest.fixture
def app(navigator: Navigator) -> Any:
    """Its server."""
    from merge_advisor.explore.server import make_app

    return Guarded(make_app(navigator), TOKEN, PORT)
