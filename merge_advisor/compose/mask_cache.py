"""The same members merged again and again, as a search does: the masks of a sparse composition are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from merge_advisor.compose.sparse import KeptEntries, SparseComposition
from merge_advisor.weights.updates import Update

_MOST_BYTES = 1 << 27
"""Bytes of masks a composition keeps at most; what comes after that is computed at every merge."""


class _PackedMask(NamedTuple):
    name: str
    bits: NDArray[np.uint8] | None
    factor: float


@dataclass(eq=False)
class MaskCache(SparseComposition):
    """A sparse composition that computes each member's mask once; its merges are the same to the byte.

    Masks depend on no weight, so every trial of a search and every step of a line search can use them again. A bit for
    each entry of an update is kept for as long as the update itself is in memory.

    >>> from merge_advisor.compose.ties import Ties
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> member = {"w": DenseUpdate(np.float32(np.arange(16)))}
    >>> cache = MaskCache(Ties(density=0.5))
    >>> cache.compose([member], [1.0])["w"].dense()[:10]
    array([0., 0., 0., 0., 0., 0., 0., 0., 8., 9.], dtype=float32)
    >>> cache.bytes
    2
    """

    rule: SparseComposition
    most: int = _MOST_BYTES
    """Bytes of masks it may keep."""
    # weak keys: a member that leaves memory takes its masks with it
    _kept: WeakKeyDictionary[Update, _PackedMask] = field(default_factory=WeakKeyDictionary, init=False, repr=False)

    def __post_init__(self) -> None:
        self.name = self.rule.name  # type: ignore[misc]  # messages name the composition, not the cache

    @property
    def bytes(self) -> int:
        """Bytes of the masks it keeps now."""
        return sum(packed.bits.nbytes for packed in self._kept.values() if packed.bits is not None)

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """See `SparseComposition.sparsify`; computed by the rule once for each update."""
        known = self._kept.get(update)
        if known is not None and known.name == name:  # random masks depend on the parameter's name as well
            if known.bits is None:
                return KeptEntries(None, known.factor)
            mask = np.unpackbits(known.bits, count=math.prod(update.shape))
            return KeptEntries(mask.view(np.bool_).reshape(update.shape), known.factor)
        kept = self.rule.sparsify(name, update)
        size = 0 if kept.mask is None else -(-kept.mask.size // 8)
        if not size or self.bytes + size <= self.most:
            bits = None if kept.mask is None else np.packbits(kept.mask)
            self._kept[update] = _PackedMask(name, bits, kept.factor)
        return kept

    def consensus_method(self) -> str:
        """See `SparseComposition.consensus_method`; the rule's."""
        return self.rule.consensus_method()

    def is_normalized(self) -> bool:
        """See `SparseComposition.is_normalized`; the rule's."""
        return self.rule.is_normalized()
