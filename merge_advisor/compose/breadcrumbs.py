"""`breadcrumbs`: neither the smallest entries nor the outliers."""

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
class Breadcrumbs(SparseComposition):
    """Leave out each member's few largest entries and its many smallest, and add what is left weighted.

    As in mergekit: `density` is what stays, `gamma` the share of outliers left out at the top (fewer where both
    together are more than all), the rest goes at the bottom; `density=1` keeps the outliers too. The paper names the
    two shares that go, β and γ. `consensus=sum` elects signs as well (mergekit's breadcrumbs_ties).

    >>> import numpy as np
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> member = {"w": DenseUpdate(np.float32([9, -4, 3, 1]))}
    >>> Breadcrumbs(density=0.5, gamma=0.25).compose([member], [1.0])["w"].dense()
    array([ 0., -4.,  3.,  0.], dtype=float32)
    """

    name: ClassVar[str] = "breadcrumbs"
    weight_means: ClassVar[str] = "how strongly what is kept of a member is applied"
    source: ClassVar[str] = "Model Breadcrumbs, arXiv 2312.06795, section 3; shares as mergekit 0.1.5"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = MEMORY
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = False

    density: float = 0.9
    """Share of a member's entries that are kept, in each parameter."""
    gamma: float = 0.01
    """Share left out at the top."""
    consensus: str = "none"
    """"none", "sum" or "count": how signs are elected."""

    def __post_init__(self) -> None:
        check_density(self.density)
        check_choice("consensus", self.consensus, ("none", "sum", "count"))
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma={self.gamma:g} is no share of entries; give 0 or more, less than 1")

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """See `SparseComposition.sparsify`; the middle is kept, as in mergekit's `magnitude_outliers`."""
        if self.density >= 1:
            return KEEP_ALL
        magnitudes = magnitudes_of(update)
        kept = int(self.density * magnitudes.size)
        outliers = min(int(self.gamma * magnitudes.size), magnitudes.size - kept)
        mask = largest_mask(magnitudes, kept + outliers)
        if outliers:
            mask &= ~largest_mask(magnitudes, outliers)
        return KeptEntries(mask.reshape(update.shape))

    def consensus_method(self) -> str:
        """See `SparseComposition.consensus_method`; the parameter `consensus`."""
        return self.consensus
