"""Weights by layer group, for any composition: each parameter is merged on its own, so its weights may be its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.compose.lazy_delta import LazyDelta, parameter_names
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
    """Return the merge with all weights times `layers[g]` in group g of the blocks.

    Args:
        composition: any.
        members: k weight deltas.
        weights: (k,).
        layers: (G,), a factor for each of G equal contiguous groups of blocks, first to last; empty: none.
        count: blocks of the base, as `naming.count_blocks` finds them.

    Raises:
        SpecError: more groups than blocks, a factor that is no finite number, or as the composition says.

    >>> import numpy as np
    >>> from merge_advisor.compose.exact import Exact
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> names = [f"model.layers.{block}.mlp.up_proj.weight" for block in range(2)]
    >>> member = {name: DenseUpdate(np.float32([4])) for name in names}
    >>> merged = compose_layers(Exact(), [member], [0.5], layers=[1.0, 0.25], count=2)
    >>> [float(merged[name].dense()[0]) for name in names]
    [2.0, 0.5]
    """
    if not layers:
        return composition.compose(members, weights)
    if len(layers) > count:
        raise SpecError(f"{len(layers)} layer groups, but the base has {count} blocks; give at most one group a block")
    for factor in layers:
        if not math.isfinite(factor):
            raise SpecError(f"layer factor {factor} is no finite number; correct the recipe")
    # merges are lazy: one for each factor costs nothing until a parameter of its group is read.
    # 1.0 is always there, for the parameters that are in no block (embeddings, the final norm)
    merged = {factor: composition.compose(members, [weight * factor for weight in weights])
              for factor in dict.fromkeys((*layers, 1.0))}  # fmt: skip
    names = parameter_names([(member, 1.0) for member, weight in zip(members, weights, strict=True) if weight])

    def read(name: str) -> Update:
        return merged[layer_factor(name, layers, count)][name]

    # in a group of factor 0 all weights are 0: the base's parameters stay, so the merge has no update for them
    return LazyDelta([name for name in names if layer_factor(name, layers, count)], read)
