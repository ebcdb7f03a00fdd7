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
    largest,
    sizes_of,
)
from merge_advisor.weights.updates import Update


@dataclass(frozen=True)
class Ties(SparseComposition):
    """Keep each member's largest entries, elect a sign for each entry, and average the members that agree (TIES).

    The sign is elected on the weighted sum, as mergekit does (the paper's sum has no weights); `sign=count` counts
    members instead. With `normalize=false` the agreeing members are added, not averaged.
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

    def __post_init__(self) -> None:
        check_density(self.density)
        check_choice("sign", self.sign, ("sum", "count"))

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """Keep the largest."""
        return keep_largest(update, self.density, least=1)

    def vote(self) -> str:
        """The election of the spec."""
        return self.sign

    def share(self) -> bool:
        """As the spec says."""
        return self.normalize


def keep_largest(update: Update, density: float, least: int = 0) -> KeptEntries:
    """Keep the int(density·n) largest of n entries, `least` at least; of equal ones those that come first."""
    if density >= 1:
        return KEEP_ALL
    sizes = sizes_of(update)
    return KeptEntries(largest(sizes, max(least, int(density * sizes.size))).reshape(update.shape))
