"""`lorahub`: LoraHub's product of sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.compose import Takes
from merge_advisor.compose.lazy_delta import LazyDelta, active, factors_of, names_of, one_rank
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta


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
            roots, scale = _shared_scale([part for part, _ in parts])
            return _product([(part, w * root) for (part, w), root in zip(parts, roots, strict=True)], scale)

        return LazyDelta(names, merged)

    def slopes(self, updates: Sequence[Update | None], weights: Sequence[float], gradient: Float32Array) -> list[float]:
        """∂L/∂wᵢ from ∂L/∂W of one parameter: s·(⟨G, Bᵢ·Σ wA⟩ + ⟨G, Σ wB·Aᵢ⟩); 0 where all weights are.

        Scales are shared as in `compose`, over the members whose weight is not 0 and, for the others, as if they
        joined with the least weight there is.
        """
        parts = {i: factors_of(self.name, "", update) for i, update in enumerate(updates) if update is not None}
        active = [i for i in parts if weights[i] != 0]
        found = [0.0] * len(updates)
        if not active:
            return found
        roots, scale = _shared_scale(list(parts.values()))
        root = dict(zip(parts, roots, strict=True))
        total = _product([(parts[i], weights[i] * root[i]) for i in active], scale)
        laid = gradient.T if total.transposed else gradient
        left, right = laid @ total.a.T, total.b.T @ laid  # (out, r), (r, in)
        for i, part in parts.items():
            found[i] = float(scale * root[i] * (np.vdot(part.b, left) + np.vdot(part.a, right)))
        return found


def _shared_scale(parts: Sequence[LowRankUpdate]) -> tuple[list[float], float]:
    """Factors for each part's A and B, and the scale of their product."""
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
