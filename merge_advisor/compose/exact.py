"""`exact`: the weighted sum of the updates themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.compose import Takes
from merge_advisor.compose.lazy_delta import LazyDelta, check_shapes, parameter_names, weighted_members
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta, along


@dataclass(frozen=True)
class Exact:
    """Add the updates: ΔW = Σ wᵢ·ΔWᵢ, for adapters Σ wᵢ·sᵢ·BᵢAᵢ without any rounding to a lower rank.

    >>> one = {"w": LowRankUpdate(np.float32([[1, 2]]), np.float32([[1]]))}
    >>> other = {"w": LowRankUpdate(np.float32([[4, 0]]), np.float32([[1]]))}
    >>> merged = Exact().compose([one, other], [1.0, 0.5])["w"]
    >>> merged.dense(), merged.rank
    (array([[3., 2.]], dtype=float32), 2)
    """

    name: ClassVar[str] = "exact"
    weight_means: ClassVar[str] = "how strongly a member's whole update is applied; 1 is the member as it was trained"
    source: ClassVar[str] = "task arithmetic, arXiv 2212.04089, on LoRA updates"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = "the factors of one parameter side by side; with checkpoints one parameter"
    linear: ClassVar[bool] = True
    low_rank: ClassVar[bool] = True

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """See `MergeRule.compose`; the rank of a sum of adapters is the sum of their ranks."""
        pairs = weighted_members(self.name, members, weights)

        def merged(name: str) -> Update:
            parts = [member[name].times(weight) for member, weight in pairs if name in member]
            check_shapes(self.name, name, parts)
            return sum_updates(parts)

        return LazyDelta(parameter_names(pairs), merged)

    def slopes(self, updates: Sequence[Update | None], weights: Sequence[float], gradient: Float32Array) -> list[float]:
        """Return ∂L/∂wᵢ from ∂L/∂W of one parameter: ⟨G, ΔWᵢ⟩, whatever the weights.

        Args:
            updates: (k,) the members' updates of the parameter; None: it leaves it alone, and its slope is 0.
            weights: (k,).
            gradient: ∂L/∂W at the merge, float32, in the base's layout.
        """
        return [0.0 if update is None else along(update, gradient) for update in updates]


def sum_updates(parts: Sequence[Update]) -> Update:
    """Return the sum of updates of one parameter, as factors where all are low-rank.

    Args:
        parts: one update or more, all of one shape.

    Returns:
        A `LowRankUpdate` of the factors side by side (a lone one untouched), or a `DenseUpdate` where one is dense.
    """
    low_rank = [part for part in parts if isinstance(part, LowRankUpdate)]
    if len(low_rank) == len(parts) == 1:
        return low_rank[0]
    if len(low_rank) == len(parts):
        # each B carries its own scale, as one product has only one
        a = np.concatenate([part.a for part in low_rank])
        b = np.concatenate([part.b * np.float32(part.scale) for part in low_rank], axis=1)
        return LowRankUpdate(a, b, 1.0, low_rank[0].transposed)
    total = np.zeros(parts[0].shape, dtype=np.float32)
    for part in parts:
        total += part.dense()
    return DenseUpdate(total)
