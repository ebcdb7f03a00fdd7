"""Weights by layer group, for any composition: each parameter is merged for itself, so its weights may be its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.compose.lazy_delta import LazyDelta, names_of
from merge_advisor.errors import SpecError
from merge_advisor.weights.naming import layer_factor
from merge_advisor.weights.updates import Update, WeightDelta

if TYPE_CHECKING:
    from merge_advisor.compose import MergeRule


def compose_layers(
    composition: MergeRule,
    members: Sequence[WeightDelta],
    weights: Sequence[float],
    layers: Sequence[float],
    count: int,
) -> WeightDelta:
    """Merge with all weights times `layers[g]` in group g of the blocks.

    Args:
        composition: any.
        members: k weight deltas.
        weights: (k,).
        layers: (G,), a factor for each of G equal contiguous groups of blocks, first to last; empty: none.
        count: blocks of the base, as `naming.count_blocks` finds them.

    Raises:
        SpecError: more groups than blocks, a factor that is no finite number, or as the composition says.
    """
    if not layers:
        return composition.compose(members, weights)
    if len(layers) > count:
        raise SpecError(f"{len(layers)} layer groups, but the base has {count} blocks; give at most one group a block")
    for factor in layers:
        if not math.isfinite(factor):
            raise SpecError(f"layer factor {factor} is no finite number; correct the recipe")
    merged = {factor: composition.compose(members, [weight * factor for weight in weights])
              for factor in dict.fromkeys((*layers, 1.0))}  # fmt: skip
    names = names_of([(member, 1.0) for member, weight in zip(members, weights, strict=True) if weight])

    def read(name: str) -> Update:
        return merged[layer_factor(name, layers, count)][name]

    return LazyDelta([name for name in names if layer_factor(name, layers, count)], read)
