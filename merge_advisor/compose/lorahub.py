"""`lorahub`: LoraHub's product of sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.backbone.weights import LowRank, Update, WeightDelta
from merge_advisor.compose import Takes
from merge_advisor.compose.lazily import Lazily, active, factors_of, names_of, one_rank


@dataclass(frozen=True)
class LoraHub:
    """Average the factors: ΔW = s·(Σ wᵢBᵢ)(Σ wᵢAᵢ), as LoraHub's code does it."""

    name: ClassVar[str] = "lorahub"
    weight_means: ClassVar[str] = (
        "how much of a member's factors enters both sums: -w is the same model as w, 2w is 4 times it"
    )
    source: ClassVar[str] = "LoraHub, arXiv 2307.13269, equation 1, and its code"
    takes: ClassVar[Takes] = "adapters"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = "the factors of one parameter"
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = True

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """Add factors weighted, then multiply; a member that does not change a parameter adds zero to it.

        LoraHub adds state dicts and keeps the first module's scale s; where scales differ each member's factors carry
        the square root of its own, so that one member at weight 1 is that member.

        Raises:
            SpecError: a checkpoint, or members of different ranks.
        """
        pairs = active(self.name, members, weights)
        names = names_of(pairs)
        one_rank(self.name, names, pairs)

        def merged(name: str) -> Update:
            parts = [(factors_of(self.name, name, member[name]), w) for member, w in pairs if name in member]
            first = parts[0][0]
            one = all(part.scale == first.scale for part, _ in parts)
            roots = [1.0 if one else math.sqrt(part.scale) for part, _ in parts]
            a, b = np.zeros_like(first.a), np.zeros_like(first.b)
            for (part, w), root in zip(parts, roots, strict=True):
                a += np.float32(w * root) * part.a
                b += np.float32(w * root) * part.b
            return LowRank(a, b, first.scale if one else 1.0, first.transposed)

        return Lazily(names, merged)
