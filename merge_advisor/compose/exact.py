"""`exact`: the weighted sum of the updates themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.compose import Takes
from merge_advisor.compose.lazy_delta import LazyDelta, active, names_of, same_shape
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta, along


@dataclass(frozen=True)
class Exact:
    """Add the updates: ΔW = Σ wᵢ·ΔWᵢ, for adapters Σ wᵢ·sᵢ·BᵢAᵢ without any rounding to a lower rank."""

    name: ClassVar[str] = "exact"
    weight_means: ClassVar[str] = "how strongly a member's whole update is applied; 1 is the member as it was trained"
    source: ClassVar[str] = "task arithmetic, arXiv 2212.04089, on LoRA updates"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = "the factors of one parameter side by side; with checkpoints one parameter"
    linear: ClassVar[bool] = True
    low_rank: ClassVar[bool] = True

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """Concatenate the factors (rank Σ r); a parameter that any member changes densely is summed densely.

        Raises:
            SpecError: members of different bases, or a weight that is no number.
        """
        pairs = active(self.name, members, weights)

        def merged(name: str) -> Update:
            parts = [member[name].times(w) for member, w in pairs if name in member]
            same_shape(self.name, name, parts)
            return total(parts)

        return LazyDelta(names_of(pairs), merged)

    def slopes(self, updates: Sequence[Update | None], weights: Sequence[float], gradient: Float32Array) -> list[float]:
        """∂L/∂wᵢ from ∂L/∂W of one parameter, for the members' updates of it (None: it leaves it alone): ⟨G, ΔWᵢ⟩."""
        return [0.0 if update is None else along(update, gradient) for update in updates]


def total(parts: Sequence[Update]) -> Update:
    """Sum of updates: low-rank ones as factors side by side (a lone one untouched), densely where one is dense."""
    low_rank = [part for part in parts if isinstance(part, LowRankUpdate)]
    if len(low_rank) == len(parts) == 1:
        return low_rank[0]
    if len(low_rank) == len(parts):
        a = np.concatenate([part.a for part in low_rank])
        b = np.concatenate([part.b * np.float32(part.scale) for part in low_rank], axis=1)
        return LowRankUpdate(a, b, 1.0, low_rank[0].transposed)
    found = np.zeros(parts[0].shape, dtype=np.float32)
    for part in parts:
        found += part.dense()
    return DenseUpdate(found)
