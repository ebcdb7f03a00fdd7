"""Fixtures of the hub."""

import pytest

from merge_advisor.hub import stored_vectors


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes from 500 rows on, so that they are tested on few."""
    monkeypatch.setattr(stored_vectors, "EXACT_UP_TO", 500)
