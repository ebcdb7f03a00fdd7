"""A task that new models of a watched pool are judged on: which of its rows choose, and which judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge_advisor.errors import TaskError
from merge_advisor.json_form import digest_of
from merge_advisor.types import Row

_CHOOSING_SHARE = 3
"""One row in so many chooses; the others judge."""
_LEAST_CHOOSING = 4
"""Rows that choose at least."""


@dataclass(frozen=True, slots=True)
class WatchedTask:
    """A task that is known: rows that choose, and rows that judge.

    >>> rows = [Row(str(n), "a") for n in range(60)]
    >>> task = split_watched("sums", rows, "exact_match")
    >>> len(task.choosing), len(task.judging), set(task.choosing) & set(task.judging)
    (20, 40, set())
    """

    name: str
    metric: str
    choosing: tuple[Row, ...]
    judging: tuple[Row, ...]

    @property
    def digest(self) -> str:
        """Of its rows and metric: what its best model is kept under."""
        return digest_of([self.metric, [row.digest for row in (*self.choosing, *self.judging)]])


def split_watched(name: str, rows: Sequence[Row], metric: str) -> WatchedTask:
    """Return a task split by the digests of its rows, so that their order in the file does not matter.

    Args:
        name: of the task.
        rows: all of them.
        metric: what it is judged by.

    Raises:
        TaskError: too few rows.
    """
    ordered = sorted(rows, key=lambda row: row.digest)
    number = len(ordered) // _CHOOSING_SHARE
    if number < _LEAST_CHOOSING:
        least = _LEAST_CHOOSING * _CHOOSING_SHARE
        raise TaskError(
            f"task {name}: {len(ordered)} rows are too few to choose and to judge by; give at least {least}"
        )
    return WatchedTask(name, metric, tuple(ordered[:number]), tuple(ordered[number:]))
