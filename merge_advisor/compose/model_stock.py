"""`model_stock`: the mean, as far from the base as the angles between members say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from merge_advisor.compose import Takes
from merge_advisor.compose.exact import sum_updates
from merge_advisor.compose.lazy_delta import LazyDelta, check_shapes, parameter_names, weighted_members
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta, inner

_SMALLEST = 1e-6
"""Least product of norms, and least denominator of t, as in mergekit's `merge_methods/model_stock.py`."""


@dataclass(frozen=True)
class ModelStock:
    """Add the updates and shrink each parameter by t = k·c / (1 + (k - 1)·c), c the mean cosine of the k members.

    A member that leaves a parameter alone counts there as an update of zero, as in mergekit: cosine 0 with all others.
    So members that share no parameter merge into the base. One member alone has no angle: t is 1. `filter_wise=true`
    takes cosines row by row.

    >>> members = [{"w": DenseUpdate(np.float32(values))} for values in ([2, 0], [1, 1])]
    >>> merged = ModelStock().compose(members, [0.5, 0.5])["w"].dense()  # the mean is [1.5, 0.5], c = √½
    >>> merged.round(3)
    array([1.243, 0.414], dtype=float32)
    """

    name: ClassVar[str] = "model_stock"
    weight_means: ClassVar[str] = (
        "a member's part of the sum before it is shrunk (angles ignore weights); all 1/k is Model Stock as published"
    )
    source: ClassVar[str] = "Model Stock, arXiv 2403.19522, the ratio for N models; as mergekit 0.1.5"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = "the factors of one parameter; with checkpoints one parameter for each member"
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = True

    filter_wise: bool = False
    """Whether each row of a parameter has an angle of its own, as in mergekit's `filter_wise`."""

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """See `MergeRule.compose`; the sum of the updates, each parameter times its t."""
        pairs = weighted_members(self.name, members, weights)

        def merged(name: str) -> Update:
            updates = [(member[name], w) for member, w in pairs if name in member]
            parts = [update.times(w) for update, w in updates]
            check_shapes(self.name, name, parts)
            if len(pairs) == 1:
                return parts[0]
            # angles ignore the size of a weight but not its sign: at weight -1 a member points the other way
            signed = [update.times(float(np.sign(w))) for update, w in updates]
            cosine = _rows_cosine(signed, len(pairs)) if self.filter_wise else _cosine(signed, len(pairs))
            below = 1 + (len(pairs) - 1) * cosine
            # at the pole of t the base stays, as in mergekit: opposite members would else be amplified without bound
            singular = np.abs(below) < _SMALLEST
            ratio = np.where(singular, 0, len(pairs) * cosine / np.where(singular, 1, below))
            return _shrunk(sum_updates(parts), ratio)

        return LazyDelta(parameter_names(pairs), merged)


def _cosine(updates: Sequence[Update], members: int) -> NDArray[np.float64]:
    """Return the mean cosine over all pairs of `members`, those absent counting 0; shape ()."""
    norms = [np.sqrt(inner(update, update)) for update in updates]
    total = sum(
        float(np.clip(inner(updates[i], updates[j]) / max(norms[i] * norms[j], _SMALLEST), -1, 1))
        for i, j in combinations(range(len(updates)), 2)
    )
    return np.asarray(total / (members * (members - 1) / 2))


def _rows_cosine(updates: Sequence[Update], members: int) -> NDArray[np.float64]:
    """Return the same for each row of the base's layout, (rows,); a vector is one row."""
    arrays = [update.dense().astype(np.float64) for update in updates]
    rows = [array.reshape(1, -1) if array.ndim < 2 else array.reshape(len(array), -1) for array in arrays]
    norms = [np.linalg.norm(array, axis=1) for array in rows]
    total = np.zeros(len(rows[0]))
    for i, j in combinations(range(len(rows)), 2):
        total += np.clip(np.sum(rows[i] * rows[j], axis=1) / np.maximum(norms[i] * norms[j], _SMALLEST), -1, 1)
    return total / (members * (members - 1) / 2)


def _shrunk(update: Update, ratio: NDArray[np.float64]) -> Update:
    """Return the update times one number, or its rows times one each."""
    if not ratio.ndim or len(ratio) == 1:
        return update.times(float(ratio.reshape(())))
    rows = ratio.astype(np.float32)
    if not isinstance(update, LowRankUpdate):
        return DenseUpdate(update.dense() * rows.reshape(-1, *(1,) * (len(update.shape) - 1)))
    if update.transposed:
        return LowRankUpdate(update.a * rows, update.b, update.scale, True)
    return LowRankUpdate(update.a, update.b * rows[:, None], update.scale)
