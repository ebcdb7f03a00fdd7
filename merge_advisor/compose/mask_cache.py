"""The same members merged again and again, as a search does: what thinning left of them is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from merge_advisor.compose.sparse import KeptEntries, SparseComposition
from merge_advisor.weights.updates import Update

REMEMBERED = 1 << 27
"""Bytes of masks a composition keeps at most; what comes after that is computed at every merge."""


class _Packed(NamedTuple):
    name: str
    bits: NDArray[np.uint8] | None
    factor: float


@dataclass(eq=False)
class MaskCache(SparseComposition):
    """A composition that thins members out, to the byte, but once: masks depend on no weight.

    A bit an entry of each update is kept for as long as the update itself is in memory.
    """

    rule: SparseComposition
    most: int = REMEMBERED
    """Bytes of masks it may keep."""
    _kept: WeakKeyDictionary[Update, _Packed] = field(default_factory=WeakKeyDictionary, init=False, repr=False)

    def __post_init__(self) -> None:
        """Go by the rule's name."""
        self.name = self.rule.name  # type: ignore[misc]

    @property
    def bytes(self) -> int:
        """Of the masks it keeps."""
        return sum(packed.bits.nbytes for packed in self._kept.values() if packed.bits is not None)

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """What the rule says, or said before."""
        known = self._kept.get(update)
        if known is not None and known.name == name:
            if known.bits is None:
                return KeptEntries(None, known.factor)
            mask = np.unpackbits(known.bits, count=math.prod(update.shape))
            return KeptEntries(mask.view(np.bool_).reshape(update.shape), known.factor)
        found = self.rule.sparsify(name, update)
        size = 0 if found.mask is None else -(-found.mask.size // 8)
        if not size or self.bytes + size <= self.most:
            bits = None if found.mask is None else np.packbits(found.mask)
            self._kept[update] = _Packed(name, bits, found.factor)
        return found

    def vote(self) -> str:
        """The rule's."""
        return self.rule.vote()

    def share(self) -> bool:
        """The rule's."""
        return self.rule.share()
