"""`model_stock`: the mean, as far from the base as the angles between members say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from merge_advisor.compose import Takes
from merge_advisor.compose.exact import total
from merge_advisor.compose.lazy_delta import LazyDelta, active, names_of, same_shape
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta, inner

_SMALLEST = 1e-6
"""Least product of norms, and least denominator, as in mergekit."""


@dataclass(frozen=True)
class ModelStock:
    """Add the updates and shrink each parameter by t = k·c / (1 + (k - 1)·c), c the mean cosine of the k members.

    A member that leaves a parameter alone counts there as an update of zero, as in mergekit: cosine 0 with all others.
    So members that share no parameter merge into the base. One member alone has no angle: t is 1. `filter_wise=true`
    takes cosines row by row.
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

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """Add, then shrink.

        Raises:
            SpecError: members of different bases, or a weight that is no number.
        """
        pairs = active(self.name, members, weights)

        def merged(name: str) -> Update:
            updates = [(member[name], w) for member, w in pairs if name in member]
            parts = [update.times(w) for update, w in updates]
            same_shape(self.name, name, parts)
            if len(pairs) == 1:
                return parts[0]
            signed = [update.times(float(np.sign(w))) for update, w in updates]
            cosine = _rows_cosine(signed, len(pairs)) if self.filter_wise else _cosine(signed, len(pairs))
            below = 1 + (len(pairs) - 1) * cosine
            alone = np.abs(below) < _SMALLEST
            ratio = np.where(alone, 0, len(pairs) * cosine / np.where(alone, 1, below))
            return _shrunk(total(parts), ratio)

        return LazyDelta(names_of(pairs), merged)


def _cosine(updates: Sequence[Update], members: int) -> NDArray[np.float64]:
    """Mean cosine over all pairs of `members`, those absent counting 0; shape ()."""
    norms = [np.sqrt(inner(update, update)) for update in updates]
    found = sum(
        float(np.clip(inner(updates[i], updates[j]) / max(norms[i] * norms[j], _SMALLEST), -1, 1))
        for i, j in combinations(range(len(updates)), 2)
    )
    return np.asarray(found / (members * (members - 1) / 2))


def _rows_cosine(updates: Sequence[Update], members: int) -> NDArray[np.float64]:
    """The same for each row of the base's layout, (rows,); a vector is one row."""
    arrays = [update.dense().astype(np.float64) for update in updates]
    rows = [array.reshape(1, -1) if array.ndim < 2 else array.reshape(len(array), -1) for array in arrays]
    norms = [np.linalg.norm(array, axis=1) for array in rows]
    found = np.zeros(len(rows[0]))
    for i, j in combinations(range(len(rows)), 2):
        found += np.clip(np.sum(rows[i] * rows[j], axis=1) / np.maximum(norms[i] * norms[j], _SMALLEST), -1, 1)
    return found / (members * (members - 1) / 2)


def _shrunk(update: Update, ratio: NDArray[np.float64]) -> Update:
    """The update times one number, or its rows times one each."""
    if not ratio.ndim or len(ratio) == 1:
        return update.times(float(ratio.reshape(())))
    rows = ratio.astype(np.float32)
    if not isinstance(update, LowRankUpdate):
        return DenseUpdate(update.dense() * rows.reshape(-1, *(1,) * (len(update.shape) - 1)))
    if update.transposed:
        return LowRankUpdate(update.a * rows, update.b, update.scale, True)
    return LowRankUpdate(update.a, update.b * rows[:, None], update.scale)
