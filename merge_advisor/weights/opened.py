"""The weights of a candidate, wherever they are read from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.checkpoint import read_checkpoint_delta
from merge_advisor.weights.stored_delta import read_stored_delta
from merge_advisor.weights.updates import WeightDelta

if TYPE_CHECKING:
    from merge_advisor.types import Candidate
    from merge_advisor.weights.base import LocalBase


def read_candidate(candidate: Candidate, base: LocalBase) -> WeightDelta:
    """Return the weight delta of a candidate, read lazily.

    Args:
        candidate: the candidate.
        base: its base.

    Raises:
        PoolError: its files changed since the pool was opened.
    """
    if candidate.delta_path:
        return read_stored_delta(Path(candidate.delta_path), base.shapes)
    if candidate.kind == "adapter":
        return read_adapter(Path(candidate.path), base.shapes)
    return read_checkpoint_delta(Path(candidate.path), base.path)
