"""Where a pool's deltas lie, in two dimensions: what the similarity map of report.html is drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.report.values import SimilarityMap
from merge_advisor.spaces import Deltas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array

FITTED = 512
"""Models at most that the axes are fitted to, evenly spaced by place: the cost stays small for a hub of thousands."""
DIGITS = 4
"""Decimals kept: more than a plot can show, and few enough that the last bits of a sum do not reach the file."""


def pool_map(deltas: Deltas, task: Float32Array) -> SimilarityMap:
    """Return the places of a pool's deltas and of the task's, (d,), on two principal axes.

    All are scaled to unit length, since they are compared by cosine, and centred; a zero delta stays zero. The sign of
    an axis is free: the model farthest from the middle along it lies on the positive side.

    Args:
        deltas: of the pool.
        task: (d,) float32, the task delta.
    """
    rows = np.vstack([task[None, :], deltas.array]).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    rows -= rows.mean(axis=0)
    fitted = rows[:: -(-len(rows) // FITTED)]
    _, sizes, axes = np.linalg.svd(fitted, full_matrices=False)
    whole = float(np.sum(sizes**2))
    places = np.zeros((len(rows), 2))
    shares = [0.0, 0.0]
    for axis in range(min(2, len(sizes))):
        if sizes[axis] ** 2 <= 1e-12 * max(whole, 1e-12):
            continue  # nothing lies along it: its direction would be noise
        along = np.round(rows @ axes[axis], DIGITS)
        places[:, axis] = along * (-1.0 if along[np.argmax(np.abs(along))] < 0 else 1.0) + 0.0
        shares[axis] = round(float(sizes[axis] ** 2) / whole, DIGITS)
    return SimilarityMap(
        task=_pair(places[0]),
        candidates={name: _pair(place) for name, place in zip(deltas.ids, places[1:], strict=True)},
        shares=(shares[0], shares[1]),
    )


def _pair(place: NDArray[np.float64]) -> tuple[float, float]:
    return float(place[0]), float(place[1])
