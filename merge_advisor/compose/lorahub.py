"""`lorahub`: LoraHub's product of sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.compose import Takes
from merge_advisor.compose.lazy_delta import LazyDelta, check_ranks, lora_factors, parameter_names, weighted_members
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta


@dataclass(frozen=True)
class LoraHub:
    """Average the factors: ΔW = s·(Σ wᵢBᵢ)(Σ wᵢAᵢ), as LoraHub's code does it.

    LoraHub adds state dicts and keeps the first module's scale s. Where scales differ, each member's factors carry the
    square root of its own here, so that one member at weight 1 is that member. A member that leaves a parameter alone
    adds zero to both sums there.

    >>> one = {"w": LowRankUpdate(np.float32([[1, 2]]), np.float32([[1]]))}
    >>> other = {"w": LowRankUpdate(np.float32([[4, 0]]), np.float32([[1]]))}
    >>> LoraHub().compose([one, other], [1.0, 0.5])["w"].dense()
    array([[4.5, 3. ]], dtype=float32)
    """

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
        """See `MergeRule.compose`; checkpoints and members of different ranks are refused at once."""
        pairs = weighted_members(self.name, members, weights)
        names = parameter_names(pairs)
        check_ranks(self.name, names, pairs)

        def merged(name: str) -> Update:
            parts = [(lora_factors(self.name, name, member[name]), w) for member, w in pairs if name in member]
            roots, scale = _shared_scale([part for part, _ in parts])
            return _product([(part, w * root) for (part, w), root in zip(parts, roots, strict=True)], scale)

        return LazyDelta(names, merged)

    def slopes(self, updates: Sequence[Update | None], weights: Sequence[float], gradient: Float32Array) -> list[float]:
        """Return ∂L/∂wᵢ from ∂L/∂W of one parameter: s·(⟨G, Bᵢ·Σ wA⟩ + ⟨G, Σ wB·Aᵢ⟩); 0 where all weights are.

        Args:
            updates: (k,) the members' updates of the parameter; None: it leaves it alone, and its slope is 0.
            weights: (k,).
            gradient: ∂L/∂W at the merge, float32, in the base's layout.
        """
        # a member of weight 0 shares the scale too, as if it joined with the least weight there is: the slope says
        # what happens when its weight leaves 0
        parts = {i: lora_factors(self.name, "", update) for i, update in enumerate(updates) if update is not None}
        weighted = [i for i in parts if weights[i] != 0]
        slopes = [0.0] * len(updates)
        if not weighted:
            return slopes
        roots, scale = _shared_scale(list(parts.values()))
        root = dict(zip(parts, roots, strict=True))
        merged = _product([(parts[i], weights[i] * root[i]) for i in weighted], scale)
        laid = gradient.T if merged.transposed else gradient
        left, right = laid @ merged.a.T, merged.b.T @ laid  # (out, r), (r, in)
        for i, part in parts.items():
            slopes[i] = float(scale * root[i] * (np.vdot(part.b, left) + np.vdot(part.a, right)))
        return slopes


def _shared_scale(parts: Sequence[LowRankUpdate]) -> tuple[list[float], float]:
    """Return factors for each part's A and B, and the scale of their product."""
    # equal scales stay outside, as in LoraHub: a root on either factor would round twice for nothing
    if all(part.scale == parts[0].scale for part in parts):
        return [1.0] * len(parts), parts[0].scale
    return [math.sqrt(part.scale) for part in parts], 1.0


def _product(parts: Sequence[tuple[LowRankUpdate, float]], scale: float) -> LowRankUpdate:
    first = parts[0][0]
    a, b = np.zeros_like(first.a), np.zeros_like(first.b)
    for part, w in parts:
        a += np.float32(w) * part.a
        b += np.float32(w) * part.b
    return LowRankUpdate(a, b, scale, first.transposed)
