"""`dare_linear`: random entries of each member, rescaled, added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.compose import Takes
from merge_advisor.compose.sparse import (
    KEEP_ALL,
    MEMORY,
    KeptEntries,
    SparseComposition,
    check_choice,
    check_density,
    mask_generator,
    rescaled,
)
from merge_advisor.weights.updates import Update


@dataclass(frozen=True)
class DareLinear(SparseComposition):
    """Keep random entries of each member, rescale what is left, and add it weighted (DARE).

    The paper divides by the density; mergekit 0.1.5 rescales so that Σ|ΔW| of the parameter stays (`rescale=l1`, the
    default here; `rescale=density` is the paper's, `none` neither).

    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> member = {"w": DenseUpdate(np.ones(8, dtype=np.float32))}
    >>> merged = DareLinear(density=0.5, seed=1).compose([member], [1.0])["w"].dense()
    >>> float(merged.sum()), bool((merged == 0).any())  # some entries are gone, Σ|ΔW| is that of the member
    (8.0, True)
    """

    name: ClassVar[str] = "dare_linear"
    weight_means: ClassVar[str] = (
        "how strongly a member is applied on average: the rescaling makes up for what is dropped"
    )
    source: ClassVar[str] = "DARE, arXiv 2311.03099, section 3; rescaled as mergekit 0.1.5"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = False
    memory: ClassVar[str] = MEMORY
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = False

    density: float = 0.5
    """Chance of each entry to be kept; 1 keeps all."""
    seed: int = 0
    """The draw depends on it, the parameter's name and the member's own bytes: not on weights or other members."""
    rescale: str = "l1"
    """"l1", "density" or "none"."""

    def __post_init__(self) -> None:
        check_density(self.density)
        check_choice("rescale", self.rescale, ("l1", "density", "none"))

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """See `SparseComposition.sparsify`; each entry is kept with the chance `density`."""
        if self.density >= 1:
            return KEEP_ALL
        numbers = mask_generator(self.seed, name, update).random(update.shape, dtype=np.float32)
        return rescaled(numbers < np.float32(self.density), update, self.rescale, self.density)
