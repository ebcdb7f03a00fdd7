"""`magnitude`: the largest entries of each member, added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.compose import Takes
from merge_advisor.compose.sparse import MEMORY, KeptEntries, SparseComposition, check_density
from merge_advisor.compose.ties import keep_largest
from merge_advisor.weights.updates import Update


@dataclass(frozen=True)
class Magnitude(SparseComposition):
    """Keep each member's largest entries and add them weighted: TIES without its election.

    >>> import numpy as np
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> members = [{"w": DenseUpdate(np.float32(values))} for values in ([4, 3, 1, 0], [2, -5, 0, 1])]
    >>> Magnitude(density=0.5).compose(members, [0.5, 0.5])["w"].dense()
    array([ 3., -1.,  0.,  0.], dtype=float32)
    """

    name: ClassVar[str] = "magnitude"
    weight_means: ClassVar[str] = "how strongly what is kept of a member is applied"
    source: ClassVar[str] = "PEFT's magnitude_prune, on ΔW; mergekit's breadcrumbs with gamma 0"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = MEMORY
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = False

    density: float = 0.5
    """Share of a member's entries that are kept, in each parameter."""

    def __post_init__(self) -> None:
        check_density(self.density)

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """See `SparseComposition.sparsify`; the largest are kept."""
        # none at least, other than TIES: mergekit's magnitude_outliers, which this reproduces, may keep nothing
        return keep_largest(update, self.density)
