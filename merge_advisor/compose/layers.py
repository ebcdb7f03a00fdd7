"""Weights by layer group, for any composition: each parameter is merged for itself, so its weights may be its own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.weights import Update, WeightDelta
from merge_advisor.compose.lazily import Lazily, names_of
from merge_advisor.errors import SpecError

if TYPE_CHECKING:
    from merge_advisor.compose import Composition

BLOCK_NAME = re.compile(r"(?:^|\.)(?:layers|blocks|block|layer|h)\.(\d+)\.")


def block_of(name: str) -> int | None:
    """Return the index of the transformer block a parameter belongs to, from its name; None outside of blocks.

    The first of `layers.N.`, `block.N.`, `blocks.N.`, `layer.N.` and `h.N.` counts. In an encoder-decoder both stacks
    count from 0.
    """
    found = BLOCK_NAME.search(name)
    return int(found[1]) if found else None


def count_blocks(names: Iterable[str]) -> int:
    """Return the number of transformer blocks of a model (of its deeper stack) by the names of its parameters."""
    return 1 + max((block for name in names if (block := block_of(name)) is not None), default=-1)


def factor_of(name: str, layers: Sequence[float], count: int) -> float:
    """Return the factor on all weights in a parameter: block i of `count` is in group i·G // count; 1 outside."""
    block = block_of(name)
    return 1.0 if block is None or not layers else layers[min(block, count - 1) * len(layers) // count]


def compose_layers(
    composition: Composition,
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
        count: blocks of the base, as `count_blocks` finds them.

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
        return merged[factor_of(name, layers, count)][name]

    return Lazily([name for name in names if factor_of(name, layers, count)], read)
