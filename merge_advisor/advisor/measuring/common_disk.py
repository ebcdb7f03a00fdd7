"""Paths as workers are told them: absolute, and refused in one line where a worker does not see what is there."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from merge_advisor.errors import BaseModelError, PoolError, RunError
from merge_advisor.merges import WeightedMerge
from merge_advisor.regular_files import home_expanded
from merge_advisor.store import WorkerStore
from merge_advisor.types import Candidate

COMMON_DISK = "workers need base, pool, cache and run folder under the same paths, on a disk that their machines share"
"""What is said where a worker does not see what the calling process sees."""


def absolute_place(place: str) -> str:
    """Return a place as a worker is told it: absolute where it is a path of this machine, else as it is.

    >>> absolute_place("org/name")
    'org/name'

    Args:
        place: hub id, folder or file.
    """
    path = home_expanded(place)
    return str(path.absolute()) if path.exists() else place


def absolute_candidate(candidate: Candidate) -> Candidate:
    """Return a candidate as a worker is told it.

    Args:
        candidate: its path may be relative to where this process runs.
    """
    made = str(Path(candidate.delta_path).absolute()) if candidate.delta_path else ""
    return replace(candidate, path=str(Path(candidate.path).absolute()), delta_path=made)


def absolute_merge(merge: WeightedMerge) -> WeightedMerge:
    """Return a merge as a worker is told it.

    Args:
        merge: of candidates of this process.
    """
    return replace(merge, members=tuple((absolute_candidate(member), weight) for member, weight in merge.members))


def check_base_seen(base: str) -> None:
    """Refuse a base that is a path, where nothing is there.

    Args:
        base: as the worker was told it.

    Raises:
        BaseModelError: nothing is there.
    """
    if Path(base).is_absolute() and not Path(base).exists():
        raise BaseModelError(f"base {base}: is not there on {socket.gethostname()}; {COMMON_DISK}")


def check_candidates_seen(candidates: Iterable[Candidate]) -> None:
    """Refuse candidates whose folders are not there.

    Args:
        candidates: as the worker was told them.

    Raises:
        PoolError: one is not there.
    """
    for candidate in candidates:
        if not Path(candidate.path).exists():
            raise PoolError(f"{candidate.id}: {candidate.path} is not there on {socket.gethostname()}; {COMMON_DISK}")


def worker_store(copy: Path | None) -> WorkerStore:
    """Return the store of a worker.

    Args:
        copy: of the store that all share, in the cache.

    Raises:
        RunError: the worker does not see it.
    """
    if copy is not None and not copy.is_file():
        raise RunError(f"cache {copy.parent.parent}: is not there on {socket.gethostname()}; {COMMON_DISK}")
    return WorkerStore(copy)
