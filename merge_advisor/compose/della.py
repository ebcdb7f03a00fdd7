"""`della`: random entries, the larger the likelier, added where the signs agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from merge_advisor.compose import Takes
from merge_advisor.compose.sparse import (
    KEEP_ALL,
    MEMORY,
    KeptEntries,
    SparseComposition,
    check_choice,
    check_density,
    magnitudes_of,
    mask_generator,
    rescaled,
)
from merge_advisor.weights.updates import Update


@dataclass(frozen=True)
class Della(SparseComposition):
    """Keep random entries, large ones more likely, rescale, and average the members that agree in sign (DELLA).

    Within each row an entry's chance rises with the rank of its size from density - ε to density + ε (as in mergekit,
    where `epsilon` is half of the paper's). The paper divides each entry by its own chance; mergekit 0.1.5 rescales so
    that Σ|ΔW| of the parameter stays (`rescale=l1`, the default here). `consensus=none` adds all, which is mergekit's
    della_linear.

    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> member = {"w": DenseUpdate(np.arange(8, dtype=np.float32))}
    >>> merged = Della(density=0.5, epsilon=0.4, seed=3).compose([member], [1.0])["w"].dense()
    >>> round(float(merged.sum()), 4), bool((merged == 0).any())  # some entries are gone, Σ|ΔW| is that of the member
    (28.0, True)
    """

    name: ClassVar[str] = "della"
    weight_means: ClassVar[str] = (
        "a member's share among those that agree in sign; the sum of all weights is λ, as in ties"
    )
    source: ClassVar[str] = "DELLA-Merging, arXiv 2406.11617, section 3; rescaled as mergekit 0.1.5"
    takes: ClassVar[Takes] = "both"
    deterministic: ClassVar[bool] = False
    memory: ClassVar[str] = MEMORY + ", and the ranks of one parameter"
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = False

    density: float = 0.5
    """Mean chance of an entry to be kept; 1 keeps all."""
    epsilon: float = 0.15
    """How far the chance reaches to either side of the density."""
    seed: int = 0
    """The draw depends on it, the parameter's name and the member's own bytes: not on weights or other members."""
    consensus: str = "sum"
    """"none", "sum" or "count": how signs are elected."""
    rescale: str = "l1"
    """"l1" or "none"."""
    normalize: bool = True
    """Whether the members that agree are averaged; False adds them."""

    def __post_init__(self) -> None:
        check_density(self.density)
        check_choice("consensus", self.consensus, ("none", "sum", "count"))
        check_choice("rescale", self.rescale, ("l1", "none"))
        if self.epsilon < 0 or (
            self.density < 1 and not 0 < self.density - self.epsilon <= self.density + self.epsilon < 1
        ):
            raise ValueError(
                f"epsilon={self.epsilon:g} takes density={self.density:g} out of 0 to 1; give a smaller one"
            )

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """See `SparseComposition.sparsify`; kept at random, large entries of a row with a higher chance."""
        if self.density >= 1:
            return KEEP_ALL
        numbers = mask_generator(self.seed, name, update).random(update.shape, dtype=np.float32)
        return rescaled(numbers < self._chances(update), update, self.rescale, self.density)

    def consensus_method(self) -> str:
        """See `SparseComposition.consensus_method`; the parameter `consensus`."""
        return self.consensus

    def is_normalized(self) -> bool:
        """See `SparseComposition.is_normalized`; the parameter `normalize`, which counts only with an election."""
        return self.normalize

    def _chances(self, update: Update) -> NDArray[np.float32]:
        """Return the chance of each entry, in the shape of the update; a vector is one row."""
        height = update.shape[0] if len(update.shape) > 1 else 1
        rows = magnitudes_of(update).reshape(height, -1)
        width = rows.shape[1]
        rise = np.linspace(self.density - self.epsilon, self.density + self.epsilon, width, dtype=np.float32)
        if width == 1:  # linspace would give its start, the lowest chance
            rise[:] = self.density
        # A stable sort of each row in place of argsort, whose ties may fall another way on another machine. Floats of 0
        # or more order as their bits do, so magnitude and column fit in one uint64: the bits above, the column below.
        keys = rows.view(np.uint32).astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= np.arange(width, dtype=np.uint64)
        keys.sort(axis=1)
        keys &= np.uint64(0xFFFFFFFF)
        keys += (width * np.arange(height, dtype=np.uint64))[:, None]
        chances = np.empty(rows.size, dtype=np.float32)
        chances[keys.view(np.int64)] = rise
        return chances.reshape(update.shape)
