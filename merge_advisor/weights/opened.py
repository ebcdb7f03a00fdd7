"""The weights of a candidate, wherever they are read from."""

from __future__ import annotations

from collections.abc import Iterable
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


def changed_names(candidates: Iterable[Candidate], base: LocalBase) -> set[str]:
    """Return the names of the weights that candidates change; their numbers are not read.

    Args:
        candidates: the candidates.
        base: their base.

    Raises:
        PoolError: files changed since the pool was opened.
    """
    return {name for candidate in candidates for name in read_candidate(candidate, base)}
