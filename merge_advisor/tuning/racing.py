"""Racing: a trial sees more rows only while it may still be the best.

Rows come in one order for the whole search. After 5, 10, 20, … rows a trial is compared with the best finished trial on
the same rows: its value is estimated as the best one's plus what the mean paired difference of each task makes of it,
and it stops where the lower end of the difference's paired interval is above 0. The rows are drawn from the very rows
the value is taken over, without putting back, so the interval shrinks by √(1 − seen / all).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merge_advisor.statistics import paired_interval
from merge_advisor.tuning.goals import mean_losses

if TYPE_CHECKING:
    from merge_advisor.arrays import Float64Array
    from merge_advisor.tuning.values import Goal, Trial

RACING_LEVEL = 0.95
"""With looks after 5, 10, 20 rows a search of 40 trials saves 24% of its row losses at 10 rows, 41% at 20, 53% at 40,
and stops the trial that would have been the best in 2, 3 and 3 of 100 searches (scripts/bench/racing.py; at 0.8: 34, 53
and 65%, and 12, 9 and 10 of 100)."""


@dataclass(frozen=True, slots=True)
class Racing:
    """When a trial may stop early."""

    first: int = 5
    """Rows before the first look; doubled for each next one."""
    level: float = RACING_LEVEL
    """Confidence of the two-sided paired interval."""

    def rungs(self, rows: int) -> list[int]:
        """Return the numbers of rows after which a trial is looked at, `rows` the last; alone where racing is off."""
        looks, size = [], self.first
        while size < rows:
            looks.append(size)
            size *= 2
        return [*looks, rows]


class RaceStanding(NamedTuple):
    """Where a trial stands after some of its rows."""

    value: float
    """Its value, estimated."""
    lost: bool
    """Whether it is worse than the best, beyond doubt as far as `Racing.level` goes."""


def row_order(tasks: Sequence[int], seed: int) -> list[int]:
    """Return the rows in the order they are run: shuffled by `seed`, every task at its own pace from first to last.

    Args:
        tasks: (n,) the task of each row.
        seed: of the search.
    """
    shuffled = np.random.default_rng([seed, 0x7A11]).permutation(len(tasks))
    counts = np.bincount(tasks)
    seen = np.zeros(len(counts), dtype=np.int64)
    keys = []
    for row in shuffled:
        task = tasks[row]
        keys.append(((seen[task] + 0.5) / counts[task], task, int(row)))
        seen[task] += 1
    return [row for _, _, row in sorted(keys)]


def standing(
    goal: Goal,
    losses: Sequence[float | None],
    best: Trial,
    tasks: Sequence[int],
    weights: Sequence[float],
    base: Float64Array | None,
    level: float,
) -> RaceStanding:
    """Compare a trial with the best finished one.

    Args:
        goal: of one value.
        losses: (n,) the trial's by row, None for rows it has not seen.
        best: a trial that saw all rows.
        tasks: (n,) the task of each row.
        weights: (k,) the trial's.
        base: (t,) the base's mean losses, where the goal is relative.
        level: of the interval.
    """
    task = np.asarray(tasks)
    rows = np.array([row for row, loss in enumerate(losses) if loss is not None])
    own, other = (np.array(part, dtype=np.float64) for part in (losses, best.losses))  # None becomes NaN
    differences, counts = (own - other)[rows], np.bincount(task[rows], minlength=int(task.max()) + 1)
    shifts = np.bincount(task[rows], differences, minlength=len(counts)) / np.maximum(counts, 1)
    means = mean_losses(other, task) + shifts
    value = goal.values(means, weights, base)[0]
    slopes = goal.loss_gradient(means, base)  # the value moves with the rows of tasks that have a slope, to first order
    counting = slopes[task[rows]] != 0
    seen, everything = int(counting.sum()), int((slopes[task] != 0).sum())
    if seen < 2:
        return RaceStanding(value, False)
    moves = (slopes[task[rows]] * differences / counts[task[rows]])[counting] * seen
    interval = paired_interval(moves, level=level, counts=False)
    half = (interval.mean - interval.lower) * math.sqrt(1 - seen / everything)
    return RaceStanding(value, value - best.values[0] - half > 0)
