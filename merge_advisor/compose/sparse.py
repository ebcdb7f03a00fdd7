"""What ties, dare, magnitude, breadcrumbs and della share: sparsify each update, agree on signs, add.

Every step follows mergekit 0.1.5 (`sparsify.py`, `merge_methods/generalized_task_arithmetic.py`), as that is what
people run, except that a weight keeps its size where the sum is normalised: mergekit divides by the weights of those
that agree and multiplies by its `lambda`; here lambda is Σ|wᵢ|, so that twice the weights is twice the update. A
parameter is worked off in blocks of rows: beside its members a merge holds one mask a member, two copies of one
parameter and some blocks.
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
from merge_advisor.compose.lazy_delta import LazyDelta, check_shapes, parameter_names, weighted_members
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta

MEMORY = "one parameter twice, and for each member a byte an entry of it"
_BLOCK = 1 << 16
"""Entries of a block: those of a few members stay in the processor's cache."""
_TINY = 1e-7
"""Below this sum of magnitudes nothing is rescaled, as in mergekit (`eps` of `rescaled_masked_tensor`)."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptEntries:
    """What is left of one update: entries where `mask` is True (None: all), times `factor`.

    >>> half = KeptEntries(np.array([[True, False]]), factor=2.0)
    >>> half.mask, half.factor
    (array([[ True, False]]), 2.0)
    """

    mask: NDArray[np.bool_] | None
    """In the shape of the update."""
    factor: float = 1.0


KEEP_ALL = KeptEntries(None)


class SparseComposition:
    """Base of the compositions that sparsify updates; a subclass says what is kept and how signs are elected.

    >>> class Positive(SparseComposition):
    ...     name = "positive"
    ...     def sparsify(self, name, update):
    ...         return KeptEntries(update.dense() > 0)
    >>> members = [{"w": DenseUpdate(np.float32(values))} for values in ([1, -1], [2, 2])]
    >>> Positive().compose(members, [1.0, 0.5])["w"].dense()
    array([2., 1.], dtype=float32)
    """

    name: ClassVar[str]

    def sparsify(self, name: str, update: Update) -> KeptEntries:
        """Return which entries of one member's update of a parameter are kept.

        Args:
            name: name of the parameter; random masks depend on it.
            update: the member's, without its weight: masks do not depend on weights.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError

    def consensus_method(self) -> str:
        """Return how a sign is elected entry by entry: "sum" of the weighted updates, "count" of members, "none"."""
        return "none"

    def is_normalized(self) -> bool:
        """Return whether the sum is divided by the weights of the members that agree, and multiplied by all weights."""
        return False

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """See `MergeRule.compose`; every merged update is a `DenseUpdate`."""
        pairs = weighted_members(self.name, members, weights)

        def merged(name: str) -> Update:
            updates = [member[name] for member, _ in pairs if name in member]
            check_shapes(self.name, name, updates)
            total = np.zeros(updates[0].shape, dtype=np.float32)
            for rows, parts in self.row_blocks(name, pairs):
                for part in parts:
                    np.atleast_1d(total)[rows] += part
            return DenseUpdate(total)

        return LazyDelta(parameter_names(pairs), merged)

    def row_blocks(
        self, name: str, pairs: Sequence[tuple[WeightDelta, float]]
    ) -> Iterator[tuple[slice, list[Float32Array]]]:
        """Yield one parameter in blocks of rows, with what is left there of each member that changes it.

        Args:
            name: name of the parameter.
            pairs: members with their weights, none of them 0.

        Yields:
            Rows of the parameter, and for each member that changes it its part of the merge in these rows: the parts
            add up to the merge.
        """
        total = sum(abs(weight) for _, weight in pairs)
        updates = [(member[name], weight) for member, weight in pairs if name in member]
        weights = [weight for _, weight in updates]
        readers = [_row_reader(update, self.sparsify(name, update), weight) for update, weight in updates]
        shape = updates[0][0].shape or (1,)
        step = max(1, _BLOCK * shape[0] // max(1, math.prod(shape)))
        for start in range(0, shape[0], step):
            rows = slice(start, start + step)
            yield rows, self._with_consensus([read(rows) for read in readers], weights, total)

    def _with_consensus(self, parts: list[Float32Array], weights: Sequence[float], total: float) -> list[Float32Array]:
        """Zero, in place, what opposes the elected sign (+ where there is none), and normalise what is left."""
        method = self.consensus_method()
        if method == "none":
            return parts
        election = np.zeros_like(parts[0])
        for part in parts:
            election += np.sign(part) if method == "count" else part
        # copysign and not sign: of a tie, which is 0, + is elected, as in mergekit's get_mask (>= 0)
        sign = np.copysign(np.float32(1), election)
        agreeing = np.zeros_like(sign)
        for part, weight in zip(parts, weights, strict=True):
            # times the sign what agrees is positive: one maximum drops the rest without a mask of its own
            part *= sign
            np.maximum(part, 0, out=part)
            if self.is_normalized():
                agreeing += np.float32(abs(weight)) * (part > 0)
        if self.is_normalized():
            agreeing[agreeing == 0] = 1
            sign *= np.float32(total) / agreeing
        for part in parts:
            part *= sign
        return parts


def _row_reader(update: Update, kept: KeptEntries, weight: float) -> Callable[[slice], Float32Array]:
    """Return rows -> what is kept of the weighted update there, in memory of its own."""
    factor = np.float32(weight * kept.factor)
    if isinstance(update, LowRankUpdate):
        left, right = np.asarray(update.b * np.float32(update.scale), dtype=np.float32), update.a
        if update.transposed:
            left, right = right.T, left.T
    else:
        whole = np.atleast_1d(update.dense())

    def read(rows: slice) -> Float32Array:
        # copied: the caller multiplies in place, and a dense update is the member's own array
        part: Float32Array = left[rows] @ right if isinstance(update, LowRankUpdate) else whole[rows].copy()
        part *= factor
        if kept.mask is not None:
            part *= kept.mask[rows]
        return part

    return read


def check_density(density: float) -> None:
    """Refuse a density that is no share of entries.

    Args:
        density: share of entries that are kept.

    Raises:
        ValueError: not above 0 and at most 1.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density={density:g} is no share of entries; give more than 0 and at most 1")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices.

    Args:
        key: name of the parameter, for the message.
        value: what was given.
        choices: what is allowed.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{key}={value} is unknown; choose one of: {', '.join(choices)}")


def largest_mask(magnitudes: Float32Array, keep: int) -> NDArray[np.bool_]:
    """Return the mask of the largest magnitudes; of equal ones those that come first, on any machine.

    Args:
        magnitudes: (n,) float32, none below 0.
        keep: how many; all where n are not more.

    Returns:
        (n,) True where a magnitude is kept.

    >>> largest_mask(np.float32([1, 3, 2, 2]), 2)
    array([False,  True,  True, False])
    """
    if keep <= 0:
        return np.zeros(magnitudes.size, dtype=np.bool_)
    if keep >= magnitudes.size:
        return np.ones(magnitudes.size, dtype=np.bool_)
    place = magnitudes.size - keep
    threshold = np.partition(magnitudes, place)[place]
    mask: NDArray[np.bool_] = magnitudes >= threshold
    surplus = int(np.count_nonzero(mask)) - keep
    if surplus:  # argsort would keep any of the equal ones
        mask[np.flatnonzero(magnitudes == threshold)[-surplus:]] = False
    return mask


def magnitudes_of(update: Update) -> Float32Array:
    """Return |ΔW| as a vector, in memory of its own.

    Args:
        update: of n entries.

    Returns:
        (n,) float32, in the order of the base's layout.
    """
    magnitudes = _row_reader(update, KEEP_ALL, 1.0)(slice(None))
    return np.abs(magnitudes, out=magnitudes).reshape(-1)


def mask_generator(seed: int, name: str, update: Update) -> np.random.Generator:
    """Return random numbers for a mask that depend on the seed, the parameter and the update's bytes alone.

    A member so keeps its mask whatever its weight and whoever it is merged with: a search over weights compares merges
    of the same entries, and a member can be added without drawing the others anew.

    Args:
        seed: of the composition.
        name: name of the parameter.
        update: of one member.
    """
    state = hashlib.sha256(f"{seed}|{name}|".encode())
    for array in (update.a, update.b) if isinstance(update, LowRankUpdate) else (update.dense(),):
        state.update(np.ascontiguousarray(array).tobytes())
    return np.random.default_rng(int.from_bytes(state.digest()[:16], "little"))


def rescaled(mask: NDArray[np.bool_], update: Update, rescale: str, density: float) -> KeptEntries:
    """Return what a random mask keeps, with the factor that makes up for what it drops.

    Args:
        mask: in the shape of the update.
        update: of one member.
        rescale: "l1" keeps Σ|ΔW| of the parameter (mergekit), "density" divides by it (the paper), "none" does neither.
        density: mean share that masks of this kind keep.
    """
    if rescale == "none":
        return KeptEntries(mask)
    if rescale == "density":
        return KeptEntries(mask, 1 / density)
    magnitudes = magnitudes_of(update).reshape(mask.shape)
    # sums in float64: added up in float32, millions of entries would round the factor visibly
    before = float(magnitudes.sum(dtype=np.float64))
    magnitudes *= mask
    after = float(magnitudes.sum(dtype=np.float64))
    return KeptEntries(mask, before / after if min(before, after) >= _TINY else 1.0)
