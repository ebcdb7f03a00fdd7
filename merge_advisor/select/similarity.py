"""Comparing deltas, and weight deltas: cosines rounded so that equal ones have equal similarities."""

from __future__ import annotations

from math import nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.weights.updates import inner_all

if TYPE_CHECKING:
    from merge_advisor.select.evidence import Evidence
    from merge_advisor.weights.updates import WeightDelta

_TINY = 1e-6
"""Relative length under which what centring left of a delta is rounding (deltas are float32)."""


def comparable_deltas(evidence: Evidence, centre: bool) -> tuple[Float64Array, Float64Array]:
    """Return the deltas and the task delta as they are compared; calls `evidence.task_delta`.

    >>> from merge_advisor.select import Evidence
    >>> evidence = Evidence(("a", "b"), np.array([[1.0, 4.0], [3.0, 4.0]]), lambda: np.array([3.0, 5.0]))
    >>> deltas, task_delta = comparable_deltas(evidence, centre=True)
    >>> deltas.tolist(), task_delta.tolist()
    ([[-1.0, 0.0], [1.0, 0.0]], [1.0, 1.0])

    Args:
        evidence: what the strategy was given.
        centre: whether to subtract the pool's mean delta from both.

    Returns:
        Deltas (n, d) and task delta (d,), float64: the squared length of a float32 delta may overflow.
    """
    deltas = np.asarray(evidence.deltas, np.float64)
    task_delta = np.asarray(evidence.task_delta(), np.float64)
    if not centre:
        return deltas, task_delta
    mean = deltas.mean(axis=0)
    # what is left of a delta equal to the mean is rounding, and would get a cosine like any other: it becomes 0
    floor = _TINY * max(_lengths(deltas).max(), float(_lengths(task_delta[None])[0]))
    centred, moved = deltas - mean, task_delta - mean
    centred[_lengths(centred) <= floor] = 0
    return centred, moved if _lengths(moved[None])[0] > floor else np.zeros_like(moved)


def unit_rows(rows: Float64Array) -> Float64Array:
    """Return the rows divided by their lengths; a zero row stays zero.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]

    Args:
        rows: (n, d) float64.
    """
    lengths = _lengths(rows)[:, None]
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def cosines(rows: Float64Array, vector: Float64Array) -> Float64Array:
    """Return the cosine of each row with a vector, (n,) float64; 0 where either is zero.

    >>> cosines(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), np.array([5.0, 0.0])).tolist()
    [1.0, 0.707106781, 0.0]

    Args:
        rows: (n, d) float64.
        vector: (d,) float64.
    """
    # nine digits: equal rows must tie, whatever order the machine sums in
    rounded: Float64Array = np.round(unit_rows(rows) @ unit_rows(vector[None])[0], 9)
    return rounded


def task_similarity(evidence: Evidence, centre: bool = False) -> Float64Array:
    """Return the cosine of every delta with the task delta, (n,) float64; calls `evidence.task_delta`.

    >>> from merge_advisor.select import Evidence
    >>> task_similarity(Evidence(("a", "b"), np.array([[1, 0], [-2, 0]]), lambda: np.array([3, 0]))).tolist()
    [1.0, -1.0]

    Args:
        evidence: what the strategy was given.
        centre: whether to subtract the pool's mean delta from both first.
    """
    return cosines(*comparable_deltas(evidence, centre))


def weight_cosine(left: WeightDelta, right: WeightDelta, digits: int) -> float:
    """Return the cosine of two weight deltas; 0 where the left one is zero, NaN where the right one is.

    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> one, other = ({"w": DenseUpdate(np.array([row], np.float32))} for row in ([1, 0], [1, 1]))
    >>> weight_cosine(one, other, digits=6), weight_cosine(one, {}, digits=6)
    (0.707107, nan)

    Args:
        left: a chosen candidate's.
        right: that of a candidate compared with it.
        digits: decimals of the result, so that equal ones tie.
    """
    size = inner_all(right, right)
    if not size > 0:
        return nan
    scale = sqrt(size) * sqrt(max(inner_all(left, left), 0.0))
    return round(inner_all(left, right) / scale, digits) if scale > 0 else 0.0


def _lengths(rows: Float64Array) -> Float64Array:
    lengths: Float64Array = np.linalg.norm(rows, axis=1)
    return lengths
