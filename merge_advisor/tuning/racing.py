"""Racing: a trial sees more rows only while it may still be the best.

Rows come in one order for the whole search. After 5, 10, 20, … rows a trial is compared with the best finished trial on
the same rows: its value is estimated as the best one's plus what the mean paired difference of each task makes of it,
and it stops where the lower end of the difference's paired interval is above 0. The rows are drawn from the very rows
the value is taken over, without replacement, so the interval shrinks by √(1 − seen / all).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merge_advisor.statistics import paired_interval
from merge_advisor.tuning.goals import mean_losses
from merge_advisor.tuning.values import Goal, Trial

if TYPE_CHECKING:
    from merge_advisor.arrays import Float64Array

RACING_LEVEL = 0.95
"""With looks after 5, 10, 20 rows a search of 40 trials saves 24% of its row losses at 10 rows, 41% at 20, 53% at 40,
and stops the trial that would have been the best in 2, 3 and 3 of 100 searches (scripts/bench/racing.py; at 0.8: 34, 53
and 65%, and 12, 9 and 10 of 100)."""


@dataclass(frozen=True, slots=True)
class Racing:
    """When a trial may be pruned.

    >>> Racing(first=5).rungs(23)
    [5, 10, 20, 23]
    """

    first: int = 5
    """Rows before the first look; doubled for each next one."""
    level: float = RACING_LEVEL
    """Confidence of the two-sided paired interval."""

    def rungs(self, rows: int) -> list[int]:
        """Return the numbers of rows after which a trial is looked at, `rows` the last."""
        looks, size = [], self.first
        while size < rows:
            looks.append(size)
            size *= 2
        return [*looks, rows]


RACING = Racing()
"""When trials are pruned by default."""


class RaceStanding(NamedTuple):
    """Where a trial stands after some of its rows.

    >>> RaceStanding(value=1.5, lost=False).lost
    False
    """

    value: float
    """Its value, estimated."""
    lost: bool
    """Whether it is worse than the best, beyond doubt as far as `Racing.level` goes."""


def row_order(tasks: Sequence[int], seed: int) -> list[int]:
    """Return the rows in the order they are run: shuffled, each task spread evenly from the first to the last.

    >>> row_order((0, 0, 0, 1), seed=0)
    [1, 2, 3, 0]

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


@dataclass(frozen=True, slots=True, eq=False)
class Race:
    """The comparison of a trial with the best finished one, on the rows that both have seen.

    >>> from merge_advisor.tuning.goals import MeanGoal
    >>> from merge_advisor.tuning.values import Point
    >>> best = Trial(0, "plan", Point((1.0,), "exact"), (1.0, 2.0, 3.0, 4.0), (2.5,), whole=True, forwards=4)
    >>> Race(MeanGoal(), (0, 0, 0, 0), best).standing((3.0, 4.1, None, None), (0.5,))
    RaceStanding(value=4.55, lost=True)
    """

    goal: Goal
    """Of one value."""
    tasks: Sequence[int]
    """(n,) the task of each row."""
    best: Trial
    """The best trial that saw all rows."""
    base: Float64Array | None = None
    """(t,) the base's mean losses, where the goal is relative."""

    def standing(
        self, losses: Sequence[float | None], weights: Sequence[float], level: float = RACING_LEVEL
    ) -> RaceStanding:
        """Return the estimated value of a trial, and whether it is worse than the best beyond doubt.

        Args:
            losses: (n,) the trial's by row, None for rows it has not seen.
            weights: (k,) the trial's.
            level: confidence of the two-sided paired interval.
        """
        task = np.asarray(self.tasks)
        rows = np.array([row for row, loss in enumerate(losses) if loss is not None])
        own, other = (np.array(part, dtype=np.float64) for part in (losses, self.best.losses))  # None becomes NaN
        differences, counts = (own - other)[rows], np.bincount(task[rows], minlength=int(task.max()) + 1)
        shifts = np.bincount(task[rows], differences, minlength=len(counts)) / np.maximum(counts, 1)
        means = mean_losses(other, task) + shifts
        value = self.goal.values(means, weights, self.base)[0]
        # to first order the value moves with the rows of tasks that have a slope: those of other tasks tell nothing
        slopes = self.goal.loss_gradient(means, self.base)
        counting = slopes[task[rows]] != 0
        seen, everything = int(counting.sum()), int((slopes[task] != 0).sum())
        if seen < 2:
            return RaceStanding(value, False)
        moves = (slopes[task[rows]] * differences / counts[task[rows]])[counting] * seen
        interval = paired_interval(moves, level=level, counts=False)
        half = (interval.mean - interval.lower) * math.sqrt(1 - seen / everything)
        return RaceStanding(value, value - self.best.values[0] - half > 0)
