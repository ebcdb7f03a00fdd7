"""`ties`: trim, elect a sign, average those that agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.compose import Takes
from merge_advisor.compose.sparse import (
    KEEP_ALL,
    MEMORY,
    KeptEntries,
    SparseComposition,
    check_choice,
    check_density,
    largest_mask,
    magnitudes_of,
)
from merge_advisor.weights.updates import Update


@dataclass(frozen=True)
class Ties(SparseComposition):
    """Keep each member's largest entries, elect a sign for each entry, and average the members that agree (TIES).

    The sign is elected on the weighted sum, as mergekit does (the paper's sum has no weights); `sign=count` counts
    members instead. With `normalize=false` the agreeing members are added, not averaged.

    >>> import numpy as np
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> members = [{"w": DenseUpdate(np.float32(values))} for values in ([4, 3, 1, 0], [2, -5, 0, 1])]
    >>> Ties(density=0.5).compose(members, [0.5, 0.5])["w"].dense()
    array([ 3., -5.,  0.,  0.], dtype=float32)
    """

    name: ClassVar[str] = "ties"
    weight_means: ClassVar[str] = (
        "a member's share among those that agree in sign; the sum of all weights is the paper's λ (mergekit's lambda)"
    )
    source: ClassVar[str] = "TIES-Merging, arXiv 2306.01708, algorithm 1; votes as mergekit 0.1.5"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = MEMORY
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = False

    density: float = 0.2
    """Share of a member's entries that are kept, in each parameter; the paper's 20%."""
    sign: str = "sum"
    """"sum": the sign with more weight in total; "count": the sign of more members."""
    normalize: bool = True
    """Whether the members that agree are averaged; False adds them."""

    def __post_init__(self) -> None:
        check_density(self.density)
        check_choice("sign", self.sign, ("sum", "count"))

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """See `SparseComposition.sparsify`; the largest are kept, one at least, as in mergekit's `magnitude`."""
        return keep_largest(update, self.density, least=1)

    def consensus_method(self) -> str:
        """See `SparseComposition.consensus_method`; the parameter `sign`."""
        return self.sign

    def is_normalized(self) -> bool:
        """See `SparseComposition.is_normalized`; the parameter `normalize`."""
        return self.normalize


def keep_largest(update: Update, density: float, least: int = 0) -> KeptEntries:
    """Return the largest entries of an update; of equal ones those that come first.

    Args:
        update: of n entries.
        density: int(density·n) entries are kept.
        least: how many are kept at least.
    """
    if density >= 1:
        return KEEP_ALL
    magnitudes = magnitudes_of(update)
    return KeptEntries(largest_mask(magnitudes, max(least, int(density * magnitudes.size))).reshape(update.shape))
