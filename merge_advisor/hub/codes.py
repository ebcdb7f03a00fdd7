"""Codes of vectors: a few bits each, by which the nearest of a million are found without reading all of them.

A code is on which side of fixed random planes a vector lies, taken around the mean of all. Two vectors are about as far
apart as their codes: of b bits a share θ/π differs, where θ is the angle between them around the mean. A search takes
three steps: `NEAR` bits of all rows leave one in twenty, `FAR` bits of these leave some thousand, and the rows
themselves say the rest. Nothing is trained, so rows are added without a rebuild, and the same rows give the same codes.
"""

from __future__ import annotations

import hashlib
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array

NEAR_BYTES, FAR_BYTES = 32, 128
"""Bytes of the short code, which is compared with all, and of the long one."""
KEPT_SHARE, KEPT_LEAST = 20, 20_000
"""One row in so many goes on from the short codes to the long ones, so many at least."""
READ = 2_000
"""Rows that are read after the long codes."""
_CHUNK = 2**15


class Coder:
    """Codes of vectors of length 1 around a mean.

    >>> coder = Coder(np.zeros(64, np.float32))
    >>> near, far, terms = coder.encode(np.eye(2, 64, dtype=np.float32))
    >>> near.shape, far.shape, terms.shape
    ((2, 4), (2, 16), (2, 2))

    Args:
        mean: (d,) float32, what they are taken around.
    """

    def __init__(self, mean: Float32Array) -> None:
        self.mean = mean

    @cached_property
    def _planes(self) -> Float32Array:
        """(d, bits) of ±1, from a hash: the same on every machine and with every version of numpy."""
        size = len(self.mean) * FAR_BYTES
        bits = np.unpackbits(np.frombuffer(hashlib.shake_128(b"planes of a hub").digest(size), np.uint8))
        return (bits.astype(np.float32) * 2 - 1).reshape(len(self.mean), 8 * FAR_BYTES)

    def encode(self, rows: Float32Array) -> tuple[NDArray[np.uint64], NDArray[np.uint64], Float32Array]:
        """Return short codes, long codes, and of each row its distance from the mean and its product with that.

        Args:
            rows: (n, d) float32, of length 1.
        """
        moved = rows - self.mean
        far = np.packbits(moved @ self._planes > 0, axis=1)
        terms = np.stack([np.linalg.norm(moved, axis=1), rows @ self.mean], axis=1).astype(np.float32)
        near = np.ascontiguousarray(far[:, :NEAR_BYTES])
        return near.view(np.uint64), far.view(np.uint64), terms

    def candidates(
        self, codes: tuple[NDArray[np.uint64], NDArray[np.uint64], Float32Array], query: Float32Array,
        places: NDArray[np.int64] | None, most: int,
    ) -> NDArray[np.int64]:  # fmt: skip
        """Return the places of the rows that are worth reading, rising.

        Args:
            codes: of n rows, as `encode` gives them.
            query: (d,) float32, of length 1.
            places: only these rows; None: all.
            most: how many are looked for in the end.
        """
        near, far, terms = codes
        own_near, own_far, own_terms = (part[0] for part in self.encode(query[None]))
        if places is not None:
            near = near[places]
        kept = _smallest(_differing(near, own_near), max(KEPT_LEAST, len(near) // KEPT_SHARE, 4 * most))
        kept = kept if places is None else places[kept]
        angle = _differing(far[kept], own_far).astype(np.float32) * (np.pi / (8 * FAR_BYTES))
        estimated = terms[kept, 0] * own_terms[0] * np.cos(angle) + terms[kept, 1]
        count = max(READ, 4 * most)
        if len(kept) > count:
            kept = kept[np.argpartition(-estimated, count)[:count]]
        return np.sort(kept)


def _differing(codes: NDArray[np.uint64], own: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """In how many bits each code differs from one."""
    counts = np.empty(len(codes), np.uint16)
    for start in range(0, len(codes), _CHUNK):
        part = codes[start : start + _CHUNK]
        total = counts[start : start + _CHUNK]
        total[:] = 0
        for column in range(codes.shape[1]):
            total += _ones(part[:, column] ^ own[column])
    return counts


def _ones(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words))
    # numpy before 2.0
    counts: NDArray[np.uint8] = _table()[words[:, None].view(np.uint16)].sum(axis=1, dtype=np.uint8)
    return counts


@cache
def _table() -> NDArray[np.uint8]:
    """How many bits are set in each number of 16 bits."""
    bits = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
    return np.asarray(bits.sum(axis=1, dtype=np.uint8))


def _smallest(counts: NDArray[np.uint16], most: int) -> NDArray[np.int64]:
    """Places of the smallest, all of those that tie with the last."""
    if len(counts) <= most:
        return np.arange(len(counts))
    histogram = np.bincount(counts, minlength=8 * FAR_BYTES + 1)
    limit = int(np.searchsorted(np.cumsum(histogram), most))
    return np.flatnonzero(counts <= limit)
