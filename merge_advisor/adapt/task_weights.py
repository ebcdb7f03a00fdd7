"""What each row counts where several tasks are learned from together: a task as much as another, however many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.types import Row


class Moments(NamedTuple):
    """Of some values, each with a weight.

    >>> moments([1.0, 3.0])
    Moments(rows=2, mean=2.0, variance=1.0)
    """

    rows: float
    """How many of equal weight would say as much of the mean: 1/Σw²."""
    mean: float
    variance: float
    """Mean square distance from the mean."""


def row_weights(tasks: Sequence[Sequence[Row]], rows: Sequence[Row]) -> tuple[float, ...]:
    """Return what each of some rows counts in a mean, summing to 1: 1/(tasks × rows of its task).

    Nothing is returned where all count the same: a plain mean is taken then, to the bit as without any tasks.

    >>> rows = [Row(f"say {n}", f"{n}") for n in range(3)]
    >>> row_weights([rows[:1], rows[1:]], rows), row_weights([rows], rows)
    ((0.5, 0.25, 0.25), ())

    Args:
        tasks: the rows, task by task.
        rows: n of these; tasks that have none of them do not count. One that several tasks have counts for each.
    """
    of_row: dict[str, list[int]] = {}
    for number, part in enumerate(tasks):
        for row in part:
            of_row.setdefault(row.digest, []).append(number)
    found = [of_row[row.digest] for row in rows]
    counts = [0.0] * len(tasks)
    for numbers in found:
        for number in numbers:
            counts[number] += 1 / len(numbers)
    weights = np.array([np.mean([1 / counts[number] for number in numbers]) for numbers in found], dtype=np.float64)
    shares = tuple((weights / weights.sum()).tolist())
    return shares if len(set(shares)) > 1 else ()


def moments(values: Sequence[float] | Float64Array, weights: Sequence[float] = ()) -> Moments:
    """Return number, mean and variance of values.

    Args:
        values: n values.
        weights: n of `row_weights`, or none: all count the same.
    """
    found = np.asarray(values, dtype=np.float64)
    if not weights:
        return Moments(len(found), float(found.mean()), float(found.var()))
    shares = np.asarray(weights, dtype=np.float64)
    mean = float(shares @ found)
    return Moments(1 / float(shares @ shares), mean, float(shares @ (found - mean) ** 2))
