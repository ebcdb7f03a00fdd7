"""`linear`: PEFT's average of A and of B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.compose import Takes
from merge_advisor.compose.lazy_delta import LazyDelta, check_ranks, lora_factors, parameter_names, weighted_members
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta


@dataclass(frozen=True)
class Linear:
    """Average A and B apart: ΔW = (Σ √|wᵢsᵢ|·Bᵢ)(Σ ±√|wᵢsᵢ|·Aᵢ), as PEFT's add_weighted_adapter "linear" does it.

    The root of weight times scale goes on either factor, its sign on A alone (PEFT 0.21). The result's own scale is 1:
    PEFT sets alpha = r, which is that scale unless the first member is rsLoRA, where it is off by √r. A member that
    leaves a parameter alone adds zero to both sums there.

    >>> one = {"w": LowRankUpdate(np.float32([[1, 2]]), np.float32([[1]]))}
    >>> other = {"w": LowRankUpdate(np.float32([[4, 0]]), np.float32([[1]]))}
    >>> Linear().compose([one, other], [1.0, 0.25])["w"].dense()
    array([[4.5, 3. ]], dtype=float32)
    """

    name: ClassVar[str] = "linear"
    weight_means: ClassVar[str] = (
        "its root is how much of a member's factors enters both sums; a lone member of weight w is w times that member"
    )
    source: ClassVar[str] = "PEFT 0.21, LoraModel.add_weighted_adapter, combination_type linear"
    takes: ClassVar[Takes] = "adapters"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = "the factors of one parameter"
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = True

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """See `MergeRule.compose`; checkpoints and members of different ranks are refused at once."""
        pairs = weighted_members(self.name, members, weights)
        names = parameter_names(pairs)
        check_ranks(self.name, names, pairs)

        def merged(name: str) -> Update:
            parts = [(lora_factors(self.name, name, member[name]), w) for member, w in pairs if name in member]
            first = parts[0][0]
            a, b = np.zeros_like(first.a), np.zeros_like(first.b)
            for part, w in parts:
                root = math.sqrt(abs(w) * part.scale)
                a += np.float32(math.copysign(root, w)) * part.a
                b += np.float32(root) * part.b
            return LowRankUpdate(a, b, 1.0, first.transposed)

        return LazyDelta(names, merged)
