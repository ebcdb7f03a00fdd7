"""`slerp`: two checkpoints, along the great circle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.compose import Takes
from merge_advisor.compose.lazy_delta import LazyDelta, parameter_names, weighted_members
from merge_advisor.errors import SpecError
from merge_advisor.weights.checkpoint import CheckpointDelta
from merge_advisor.weights.updates import DenseUpdate, Update, WeightDelta

_PARALLEL = 0.9995
"""From this cosine on the path is a straight line, as in mergekit's slerp (`dot_threshold`): sin θ is too near 0."""
_SMALLEST_NORM = 1e-8
"""An array shorter than this has no direction; it is treated as of length 1, as in mergekit."""


@dataclass(frozen=True)
class Slerp:
    """Go from one full checkpoint to another along the great circle through their whole weights, not their updates.

    With weights w₁ and w₂ it stops at t = w₂ / (w₁ + w₂), each parameter on its own, and applies the change from the
    base w₁ + w₂ times. Adapters are refused: beside the base's weights their updates are so small that the circle is a
    line, which is `exact`. Nearby checkpoints of one base come close to that too.

    >>> from merge_advisor.weights.updates import LowRankUpdate
    >>> adapter = {"w": LowRankUpdate(np.float32([[1]]), np.float32([[1]]))}
    >>> Slerp().compose([adapter, adapter], [0.5, 0.5])
    Traceback (most recent call last):
    merge_advisor.errors.SpecError: composition slerp: it turns whole checkpoints, one member is an adapter; use exact
    """

    name: ClassVar[str] = "slerp"
    weight_means: ClassVar[str] = (
        "a checkpoint's share of the way; the sum of both is how strongly the result is applied"
    )
    source: ClassVar[str] = "Shoemake, Animating rotation with quaternion curves (1985); as mergekit 0.1.5"
    takes: ClassVar[Takes] = "checkpoints"
    deterministic: ClassVar[bool] = True
    memory: ClassVar[str] = "one parameter six times"
    linear: ClassVar[bool] = False
    low_rank: ClassVar[bool] = False
    most: ClassVar[int] = 2

    def compose(self, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
        """See `MergeRule.compose`; one member alone is its update times its weight.

        Raises:
            SpecError: an adapter, more than two members, or weights of different signs.
        """
        pairs = weighted_members(self.name, members, weights)
        if len(pairs) > self.most:
            raise SpecError(f"composition slerp: it merges two checkpoints, not {len(pairs)}; give `k=2`, or use exact")
        checkpoints = [(member, w) for member, w in pairs if isinstance(member, CheckpointDelta)]
        if len(checkpoints) < len(pairs):
            raise SpecError("composition slerp: it turns whole checkpoints, one member is an adapter; use exact")
        # with two signs w₁ + w₂ may be 0, and t lies outside the path
        if len(pairs) == 2 and pairs[0][1] * pairs[1][1] < 0:
            raise SpecError("composition slerp: one weight is negative and one is not; give both the same sign")

        def merged(name: str) -> Update:
            if len(pairs) == 1:
                return pairs[0][0][name].times(pairs[0][1])
            (one, w), (other, v) = checkpoints
            before = one.base_weight(name)
            tuned = [before + member[name].dense() for member in (one, other)]
            return DenseUpdate((slerp(tuned[0], tuned[1], v / (w + v)) - before) * np.float32(w + v))

        return LazyDelta(parameter_names(pairs), merged)


def slerp(one: Float32Array, other: Float32Array, t: float) -> Float32Array:
    """Return the point at t of the way from one array to another along the great circle, as if both were vectors.

    sin((1 - t)·θ)/sin θ · one + sin(t·θ)/sin θ · other, θ the angle between them; 1 - t and t where they are parallel.

    Args:
        one: float32, any shape; t = 0.
        other: float32, the same shape; t = 1.
        t: 0 to 1.

    Returns:
        float32, the same shape.

    >>> slerp(np.float32([1, 0]), np.float32([0, 1]), 0.5).round(3)
    array([0.707, 0.707], dtype=float32)
    """
    # float64 for the angle: near cosine 1 its arc is the root of what float32 would round away
    left, right = one.astype(np.float64).reshape(-1), other.astype(np.float64).reshape(-1)
    norms = [float(np.linalg.norm(array)) for array in (left, right)]
    norms = [norm if norm > _SMALLEST_NORM else 1.0 for norm in norms]
    cosine = float(np.clip(left @ right / (norms[0] * norms[1]), -1, 1))
    if abs(cosine) > _PARALLEL:
        parts = 1 - t, t
    else:
        angle = np.arccos(cosine)
        parts = float(np.sin((1 - t) * angle) / np.sin(angle)), float(np.sin(t * angle) / np.sin(angle))
    return np.asarray(np.float32(parts[0]) * one + np.float32(parts[1]) * other, dtype=np.float32)
