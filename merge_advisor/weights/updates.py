"""Weight deltas: what a candidate adds to its base, parameter by parameter, in numpy float32.

A `WeightDelta` maps the base's parameter name (as in its safetensors files, e.g.
`model.layers.0.self_attn.q_proj.weight`) to a `LowRankUpdate` (from a LoRA adapter) or a `DenseUpdate` (from a full
checkpoint). The mapping may read lazily; its keys are cheap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from merge_advisor.arrays import Float32Array


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class LowRankUpdate:
    """ΔW = scale · b @ a, as LoRA defines it (arXiv 2106.09685, section 4.1).

    >>> update = LowRankUpdate(a=np.ones((1, 3), np.float32), b=np.ones((2, 1), np.float32), scale=0.5)
    >>> update.rank, update.shape, update.times(4).dense().tolist()
    (1, (2, 3), [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    """

    a: Float32Array
    """(r, in) float32."""
    b: Float32Array
    """(out, r) float32."""
    scale: float = 1.0
    """alpha / r, or alpha / sqrt(r) for rsLoRA."""
    transposed: bool = False
    """Whether the base stores the weight as (in, out) (GPT-2's Conv1D): then ΔW is the transpose."""

    @property
    def rank(self) -> int:
        """The inner dimension, PEFT's r."""
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ΔW as the base stores the weight."""
        shape = (int(self.b.shape[0]), int(self.a.shape[1]))
        return shape[::-1] if self.transposed else shape

    def dense(self) -> Float32Array:
        """Return ΔW in the base's layout, float32."""
        update = np.asarray(self.scale * (self.b @ self.a), dtype=np.float32)
        return update.T if self.transposed else update

    def as_stored(self) -> LowRankUpdate:
        """Return the same update with factors of the weight as it is stored: `transposed` is false."""
        return LowRankUpdate(self.b.T, self.a.T, self.scale) if self.transposed else self

    def times(self, factor: float) -> LowRankUpdate:
        """Return the same update times a number; factors are shared, only the scale changes.

        Args:
            factor: the number.
        """
        return LowRankUpdate(self.a, self.b, self.scale * factor, self.transposed)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class DenseUpdate:
    """ΔW itself, in the base's layout.

    >>> DenseUpdate(np.ones((1, 2), np.float32)).times(3).dense().tolist()
    [[3.0, 3.0]]
    """

    array: Float32Array
    """Of the weight's shape, float32."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ΔW."""
        return tuple(self.array.shape)

    def dense(self) -> Float32Array:
        """Return ΔW, float32."""
        return self.array

    def times(self, factor: float) -> DenseUpdate:
        """Return the same update times a number.

        Args:
            factor: the number.
        """
        return DenseUpdate(np.asarray(self.array * np.float32(factor), dtype=np.float32))


Update = LowRankUpdate | DenseUpdate
WeightDelta = Mapping[str, Update]


def inner(left: Update, right: Update) -> float:
    """Return ⟨left, right⟩ (Frobenius) of two updates of one parameter.

    Of two low-rank ones ⟨s·BA, t·DC⟩ = s·t·sum((BᵀD) ∘ (ACᵀ)), without the dense matrices.

    >>> one = DenseUpdate(np.ones((2, 2), np.float32))
    >>> inner(one, one.times(3))
    12.0

    Args:
        left: an update.
        right: an update of the same shape.
    """
    if isinstance(left, LowRankUpdate) and isinstance(right, LowRankUpdate) and left.transposed == right.transposed:
        core = (left.b.T.astype(np.float64) @ right.b) * (left.a.astype(np.float64) @ right.a.T)
        return float(left.scale * right.scale * core.sum())
    return float(np.vdot(left.dense().astype(np.float64), right.dense()))


def along(update: Update, gradient: Float32Array) -> float:
    """Return ⟨gradient, ΔW⟩ of one parameter: how fast the loss changes along the update.

    Of a low-rank one ⟨G, s·BA⟩ = s·sum((BᵀG) ∘ A), without the dense matrix.

    Args:
        update: an update.
        gradient: the gradient of a loss in the base's layout, of the update's shape, float32.
    """
    if isinstance(update, LowRankUpdate):
        laid = gradient.T if update.transposed else gradient
        return float(update.scale * np.sum((update.b.T @ laid) * update.a, dtype=np.float64))
    return float(np.vdot(gradient.astype(np.float64), update.dense()))


def inner_all(left: WeightDelta, right: WeightDelta) -> float:
    """Return ⟨left, right⟩ over the parameters that both change.

    Args:
        left: parameter name -> update.
        right: parameter name -> update.
    """
    return sum(inner(left[name], right[name]) for name in left if name in right)


def is_low_rank(delta: WeightDelta) -> bool:
    """Return whether every update is a `LowRankUpdate` (an adapter, not a checkpoint).

    Args:
        delta: parameter name -> update.
    """
    return all(isinstance(delta[name], LowRankUpdate) for name in delta)


def digest_of_delta(delta: WeightDelta) -> str:
    """Return a sha256 (hex) over names, factors and scales, in the order of the names: a merged model's identity.

    Args:
        delta: parameter name -> update.
    """
    state = hashlib.sha256()
    for name in sorted(delta):
        update = delta[name]
        state.update(name.encode())
        if isinstance(update, LowRankUpdate):
            state.update(repr((update.scale, update.transposed, update.a.shape, update.b.shape)).encode())
            state.update(np.ascontiguousarray(update.a).tobytes())
            state.update(np.ascontiguousarray(update.b).tobytes())
        else:
            state.update(repr(update.array.shape).encode())
            state.update(np.ascontiguousarray(update.array).tobytes())
    return state.hexdigest()
