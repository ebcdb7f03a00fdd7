"""How much members get in each other's way in a merge: cross terms, sign conflicts, overlap; entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.compose.lazy_delta import LazyDelta
from merge_advisor.errors import SpecError
from merge_advisor.weights.updates import Update, WeightDelta

if TYPE_CHECKING:
    from merge_advisor.compose import Composition


@dataclass(frozen=True, slots=True)
class Crossing:
    """Interference among the parts c₁ … c_k of one merge, over all parameters together."""

    cross_terms: float
    """2·Σ_{i<j}⟨cᵢ, cⱼ⟩ / ‖Σ cᵢ‖²: share of the merge's squared norm that no part has by itself; below 0 where parts
    cancel more than they add."""
    sign_conflict: float
    """Share of Σ|cᵢ| at entries where the part's sign opposes that of the sum, 0..1."""
    overlap: float
    """Share of Σ|cᵢ| at entries that two parts or more change, 0..1."""
    norm: float
    """‖Σ cᵢ‖, Frobenius."""


def parts_of(composition: Composition, members: Sequence[WeightDelta], weights: Sequence[float]) -> list[WeightDelta]:
    """Return what a composition leaves of each member: k weight deltas that add up to the merge.

    Raises:
        SpecError: its result is no sum over the members (it multiplies sums, or cuts the sum).
    """
    if composition.linear:
        return [_times(member, weight) for member, weight in zip(members, weights, strict=True)]
    parts: Any = getattr(composition, "parts", None)
    if parts is None:
        raise SpecError(f"composition {composition.name}: its result is no sum over the members; choose another one")
    found: list[WeightDelta] = parts(members, weights)
    return found


def _times(member: WeightDelta, weight: float) -> WeightDelta:
    def read(name: str) -> Update:
        return member[name].times(weight)

    return LazyDelta(list(member), read)


def crossing(parts: Sequence[WeightDelta]) -> Crossing:
    """Measure the interference of parts that are added; of one part alone, or of none, all is 0."""
    squares = own = opposed = shared = mass = 0.0
    for name in sorted({name for part in parts for name in part}):
        arrays = [part[name].dense() for part in parts if name in part]
        total = np.sum(arrays, axis=0, dtype=np.float32)
        many = np.sum([array != 0 for array in arrays], axis=0) > 1
        squares += float(np.sum(np.square(total, dtype=np.float64)))
        for array in arrays:
            sizes = np.abs(array)
            own += float(np.sum(np.square(array, dtype=np.float64)))
            mass += float(sizes.sum(dtype=np.float64))
            opposed += float(sizes[array * total < 0].sum(dtype=np.float64))
            shared += float(sizes[many].sum(dtype=np.float64))
    return Crossing(
        cross_terms=(squares - own) / squares if squares else 0.0,
        sign_conflict=opposed / mass if mass else 0.0,
        overlap=shared / mass if mass else 0.0,
        norm=squares**0.5,
    )
