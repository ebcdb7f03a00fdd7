"""Which known adapter a new one is nearly the same as: saved again in another dtype, or trained a step further."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from merge_advisor.advisor.measuring.pool_weights import PoolWeights
from merge_advisor.types import Candidate
from merge_advisor.weights.updates import inner_all, is_low_rank

NEAR = 0.02
"""Distance, as a share of the length, up to which an adapter is nearly the same. Saving one in bfloat16, 8 bits of
precision, moves it by about 0.003."""


def near_copy(weights: PoolWeights, candidate: Candidate, known: Sequence[Candidate]) -> tuple[Candidate, float] | None:
    """Return the known adapter whose weight delta is nearest, and ‖ΔW − ΔW'‖ / ‖ΔW‖; None where none is within `NEAR`.

    Adapters of the same modules alone are compared, by their factors, which takes milliseconds each; checkpoints would
    have to be read whole.

    Args:
        weights: of the pool.
        candidate: the new one.
        known: what it is compared with.

    Raises:
        PoolError: weights cannot be read.
    """
    if candidate.kind != "adapter":
        return None
    ours = weights.of(candidate)
    length = inner_all(ours, ours)
    if not (is_low_rank(ours) and length > 0):
        return None
    nearest: tuple[Candidate, float] | None = None
    for other in known:
        if other.kind != "adapter" or set(other.modules) != set(candidate.modules):
            continue
        theirs = weights.of(other)
        if not is_low_rank(theirs):
            continue
        squared = length + inner_all(theirs, theirs) - 2 * inner_all(ours, theirs)
        distance = sqrt(max(squared, 0.0) / length)
        if distance <= (NEAR if nearest is None else nearest[1]):
            nearest = other, distance
    return nearest
