"""`exact`: the weighted sum of the updates themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.backbone.weights import Array, Dense, LowRank, Update, WeightDelta, along
from merge_advisor.compose.lazily import Lazily, active, names_of, same_shape


@dataclass(frozen=True)
class Exact:
    """Add the updates: ΔW = Σ wᵢ·ΔWᵢ, for adapters Σ wᵢ·sᵢ·BᵢAᵢ without any rounding to a lower rank."""

    name: ClassVar[str] = "exact"
    weight_means: ClassVar[str] = "how strongly a member's whole update is applied; 1 is the member as it was trained"
    source: ClassVar[str] = "task arithmetic, arXiv 2212.04089, on LoRA updates"
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
            if all(isinstance(part, LowRank) for part in parts):
                return _stack([part for part in parts if isinstance(part, LowRank)])
            total = np.zeros(parts[0].shape, dtype=np.float32)
            for part in parts:
                total += part.dense()
            return Dense(total)

        return Lazily(names_of(pairs), merged)

    def slopes(self, updates: Sequence[Update | None], weights: Sequence[float], gradient: Array) -> list[float]:
        """∂L/∂wᵢ from ∂L/∂W of one parameter, for the members' updates of it (None: it leaves it alone): ⟨G, ΔWᵢ⟩."""
        return [0.0 if update is None else along(update, gradient) for update in updates]


def _stack(parts: Sequence[LowRank]) -> LowRank:
    """One update whose factors are those of all parts, side by side; a lone part is handed on untouched."""
    if len(parts) == 1:
        return parts[0]
    a = np.concatenate([part.a for part in parts])
    b = np.concatenate([part.b * np.float32(part.scale) for part in parts], axis=1)
    return LowRank(a, b, 1.0, parts[0].transposed)
