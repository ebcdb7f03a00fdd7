"""What ties, dare, magnitude, breadcrumbs and della share: thin each update out, agree on signs, add.

Every step follows mergekit 0.1.5 (`sparsify.py`, `generalized_task_arithmetic.py`), as that is what people run, except
that a weight keeps its size where the sum is normalised: mergekit divides by the weights of those that agree and
multiplies by its `lambda`; here lambda is Σ|wᵢ|, so that twice the weights is twice the update. A parameter is worked
off in blocks of rows: beside its members a merge holds one mask a member, two copies of one parameter and some blocks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from merge_advisor.arrays import Float32Array
from merge_advisor.compose.lazy_delta import LazyDelta, active, names_of, same_shape
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta

MEMORY = "one parameter twice, and for each member a byte an entry of it"
BLOCK = 1 << 16
"""Entries of a block: those of a few members stay in the processor's cache."""
_TINY = 1e-7
"""Below this sum of magnitudes nothing is rescaled, as in mergekit."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptEntries:
    """What is left of one update: entries where `mask` is True (None: all), times `factor`."""

    mask: NDArray[np.bool_] | None
    factor: float = 1.0


KEEP_ALL = KeptEntries(None)


class SparseComposition:
    """Base of the compositions that thin updates out; `vote` and `share` are the consensus and the normalising."""

    name: ClassVar[str]

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """Say which entries of one member's update of a parameter are kept."""
        raise NotImplementedError

    def vote(self) -> str:
        """How a sign is elected entry by entry: "sum" of the weighted updates, "count" of members, "none"."""
        return "none"

    def share(self) -> bool:
        """Whether the sum is divided by the weights of the members that agree, and multiplied by all weights."""
        return False

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """Thin out, elect, add; see the class.

        Raises:
            SpecError: members of different bases, or a weight that is no number.
        """
        pairs = active(self.name, members, weights)

        def merged(name: str) -> Update:
            found = np.zeros(_shape(self.name, name, pairs), dtype=np.float32)
            for rows, parts in self._blocks(name, pairs):
                for part in parts:
                    np.atleast_1d(found)[rows] += part
            return DenseUpdate(found)

        return LazyDelta(names_of(pairs), merged)

    def parts(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> list[WeightDelta]:
        """What the composition leaves of each member: updates that add up to `compose`'s (weight 0: an empty one)."""
        pairs = active(self.name, members, weights)
        kept = [index for index, weight in enumerate(weights) if weight]

        def left(index: int) -> Callable[[str], Update]:
            def read(name: str) -> Update:
                found = np.zeros(_shape(self.name, name, pairs), dtype=np.float32)
                place = [i for i, (member, _) in enumerate(pairs) if name in member].index(index)
                for rows, parts in self._blocks(name, pairs):
                    np.atleast_1d(found)[rows] = parts[place]
                return DenseUpdate(found)

            return read

        found: list[WeightDelta] = [{} for _ in members]
        for index, position in enumerate(kept):
            found[position] = LazyDelta(sorted(members[position]), left(index))
        return found

    def _blocks(
        self, name: str, pairs: Sequence[tuple[WeightDelta, float]]
    ) -> Iterator[tuple[slice, list[Float32Array]]]:
        """Rows of one parameter, and there what is left of each member that changes it."""
        total = sum(abs(weight) for _, weight in pairs)
        updates = [(member[name], weight) for member, weight in pairs if name in member]
        weights = [weight for _, weight in updates]
        read = [_rows_of(update, self.sparsify(name, update), weight) for update, weight in updates]
        shape = updates[0][0].shape or (1,)
        step = max(1, BLOCK * shape[0] // max(1, math.prod(shape)))
        for start in range(0, shape[0], step):
            rows = slice(start, start + step)
            yield rows, self._agreed([part(rows) for part in read], weights, total)

    def _agreed(self, parts: list[Float32Array], weights: Sequence[float], total: float) -> list[Float32Array]:
        """Zero, in place, what opposes the elected sign (+ where there is none), and normalise what is left."""
        vote = self.vote()
        if vote == "none":
            return parts
        election = np.zeros_like(parts[0])
        for part in parts:
            election += np.sign(part) if vote == "count" else part
        sign = np.copysign(np.float32(1), election)
        agreeing = np.zeros_like(sign)
        for part, weight in zip(parts, weights, strict=True):
            part *= sign
            np.maximum(part, 0, out=part)
            if self.share():
                agreeing += np.float32(abs(weight)) * (part > 0)
        if self.share():
            agreeing[agreeing == 0] = 1
            sign *= np.float32(total) / agreeing
        for part in parts:
            part *= sign
        return parts


def _shape(composition: str, name: str, pairs: Sequence[tuple[WeightDelta, float]]) -> tuple[int, ...]:
    updates = [member[name] for member, _ in pairs if name in member]
    same_shape(composition, name, updates)
    return tuple(updates[0].shape)


def _rows_of(update: Update, kept: KeptEntries, weight: float) -> Callable[[slice], Float32Array]:
    """Return rows -> what is kept of the weighted update there, in memory of its own."""
    factor = np.float32(weight * kept.factor)
    if isinstance(update, LowRankUpdate):
        left, right = np.asarray(update.b * np.float32(update.scale), dtype=np.float32), update.a
        if update.transposed:
            left, right = right.T, left.T
    else:
        whole = np.atleast_1d(update.dense())

    def read(rows: slice) -> Float32Array:
        part: Float32Array = left[rows] @ right if isinstance(update, LowRankUpdate) else whole[rows].copy()
        part *= factor
        if kept.mask is not None:
            part *= kept.mask[rows]
        return part

    return read


def check_density(density: float) -> None:
    """Refuse a density that is no share.

    Raises:
        ValueError: not above 0 and at most 1.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density={density:g} is no share of entries; give more than 0 and at most 1")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{key}={value} is unknown; choose one of: {', '.join(choices)}")


def largest(sizes: Float32Array, keep: int) -> NDArray[np.bool_]:
    """Mask of the `keep` largest of (n,) magnitudes; of equal ones those that come first."""
    if keep <= 0:
        return np.zeros(sizes.size, dtype=np.bool_)
    if keep >= sizes.size:
        return np.ones(sizes.size, dtype=np.bool_)
    threshold = _kth_largest(sizes, keep)
    mask: NDArray[np.bool_] = sizes >= threshold
    surplus = int(np.count_nonzero(mask)) - keep
    if surplus:
        mask[np.flatnonzero(sizes == threshold)[-surplus:]] = False
    return mask


def _kth_largest(sizes: Float32Array, keep: int) -> np.float32:
    """The keep-th largest value, exactly: a sorted sample brackets it, and only what lies between is partitioned."""
    sample = np.sort(sizes[:: sizes.size // 4096 + 1])
    middle, apart = len(sample) * (1 - keep / sizes.size), 2 * math.sqrt(len(sample))
    low = sample[max(0, int(middle - apart))]
    high = sample[min(len(sample) - 1, int(middle + apart))]
    above = int(np.count_nonzero(sizes > high))
    between = sizes[(sizes >= low) & (sizes <= high)]
    if not above < keep <= above + between.size:
        above, between = 0, sizes
    place = between.size - (keep - above)
    found: np.float32 = np.partition(between, place)[place]
    return found


def sizes_of(update: Update) -> Float32Array:
    """|ΔW|, (n,) float32, in the order of the base's layout, in memory of its own."""
    sizes = _rows_of(update, KEEP_ALL, 1.0)(slice(None))
    return np.abs(sizes, out=sizes).reshape(-1)


def generator_of(seed: int, name: str, update: Update) -> np.random.Generator:
    """Random numbers that depend on the seed, the parameter's name and the update's own bytes, and on nothing else."""
    state = hashlib.sha256(f"{seed}|{name}|".encode())
    for array in (update.a, update.b) if isinstance(update, LowRankUpdate) else (update.dense(),):
        state.update(np.ascontiguousarray(array).tobytes())
    return np.random.default_rng(int.from_bytes(state.digest()[:16], "little"))


def drawn(mask: NDArray[np.bool_], update: Update, rescale: str, density: float) -> KeptEntries:
    """What a random mask keeps, rescaled: "l1" keeps Σ|ΔW| (mergekit), "density" divides by it (the paper)."""
    if rescale == "none":
        return KeptEntries(mask)
    if rescale == "density":
        return KeptEntries(mask, 1 / density)
    sizes = sizes_of(update).reshape(mask.shape)
    before = float(sizes.sum(dtype=np.float64))
    sizes *= mask
    after = float(sizes.sum(dtype=np.float64))
    return KeptEntries(mask, before / after if min(before, after) >= _TINY else 1.0)
