"""The directions in which adapters of a base move its weights: what a pool knows of how this base is finetuned.

Of one weight, with canonical factors ΔW_j = U_j S_j V_jᵀ: Σ_out = Σ_j w_j ΔW_j ΔW_jᵀ and Σ_in = Σ_j w_j ΔW_jᵀ ΔW_j.
Their leading eigenvectors span what the pool has in common; everything follows from the factors, no dense ΔW is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge_advisor.arrays import Float32Array, Float64Array
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta, inner

CHECKPOINT_RANK = 32
"""Directions kept of a full checkpoint's update, by randomised SVD."""


@dataclass(frozen=True, slots=True, eq=False)
class Canonical:
    """ΔW = U S Vᵀ with orthonormal columns, as the base stores the weight.

    >>> update = LowRankUpdate(np.ones((1, 3), np.float32), np.ones((2, 1), np.float32))
    >>> [round(float(value), 3) for value in canonical(update).singular]
    [2.449]
    """

    u: Float64Array
    """(out, r)."""
    singular: Float64Array
    """(r,) falling, above 0."""
    v: Float64Array
    """(in, r)."""


def canonical(update: Update, rank: int = CHECKPOINT_RANK) -> Canonical:
    """Return an update's singular vectors: exact for factors, of the leading ones for a full matrix.

    Of B A by a QR of each and an SVD of the small core. Of a full matrix by the randomised range finder with two power
    steps (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.3 and 5.1).

    Args:
        update: the change of a two-dimensional weight.
        rank: of a full matrix's update.

    Returns:
        The factors; of r below the rank where the update has less, and r = 0 of no change at all.
    """
    if isinstance(update, LowRankUpdate):
        stored = update.as_stored()
        q_left, r_left = np.linalg.qr(stored.b.astype(np.float64))
        q_right, r_right = np.linalg.qr(stored.a.T.astype(np.float64))
        u, singular, vt = np.linalg.svd(update.scale * (r_left @ r_right.T))
        return _positive(q_left @ u, singular, q_right @ vt.T)
    return _positive(*_randomised(update, rank))


def _randomised(update: DenseUpdate, rank: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    dense = update.dense().astype(np.float64)
    if min(dense.shape) <= 2 * rank:
        u, singular, vt = np.linalg.svd(dense, full_matrices=False)
        return u[:, :rank], singular[:rank], vt[:rank].T
    # a fixed seed: the same checkpoint has the same directions wherever it is
    sketch = np.random.default_rng(0).normal(size=(dense.shape[1], 2 * rank))
    found = np.linalg.qr(dense @ sketch)[0]
    for _ in range(2):
        found = np.linalg.qr(dense @ np.linalg.qr(dense.T @ found)[0])[0]
    u, singular, vt = np.linalg.svd(found.T @ dense, full_matrices=False)
    return (found @ u)[:, :rank], singular[:rank], vt[:rank].T


def _positive(u: Float64Array, singular: Float64Array, v: Float64Array) -> Canonical:
    kept = singular > singular.max(initial=0.0) * 1e-7
    return Canonical(u[:, kept], singular[kept], v[:, kept])


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Eigenvectors of Σ_out and Σ_in of one weight, each with its eigenvalues as shares of their sum.

    >>> update = LowRankUpdate(np.ones((1, 3), np.float32), np.ones((2, 1), np.float32))
    >>> spectrum({"q": [update]}, [1.0])["q"].out_shares.tolist()
    [1.0]
    """

    out: Float64Array
    """(out, n) orthonormal columns, leading first."""
    out_shares: Float64Array
    """(n,)"""
    width: Float64Array
    """(in, m) orthonormal columns, leading first."""
    width_shares: Float64Array
    """(m,)"""
    shape: tuple[int, int]
    """(out, in) of the weight; of one that the base stores (in, out), "out" stands for its rows all the same."""

    def leading(self, count: int) -> tuple[Float32Array, Float32Array]:
        """Return U (out, ≤ count) and V (≤ count, in) of the leading directions."""
        u = np.ascontiguousarray(self.out[:, :count], dtype=np.float32)
        v = np.ascontiguousarray(self.width[:, :count].T, dtype=np.float32)
        return u, v

    def leading_inputs(self, count: int, *, turned: bool) -> Float32Array:
        """Return the leading directions of what the module is given, (≤ count, in).

        Args:
            count: how many.
            turned: whether the base stores the weight (in, out).
        """
        u, v = self.leading(count)
        return np.ascontiguousarray(u.T) if turned else v

    def roots(self, shrinkage: float) -> tuple[Float32Array, Float32Array]:
        """Return Σ_out^½ and Σ_in^½ of the shrunk covariances, each of mean squared row norm 1.

        Σ(ρ) = (1 - ρ) Σ̂ + ρ · tr(Σ̂)/d · I: at ρ = 1 no direction is preferred (Ledoit and Wolf 2004).

        Args:
            shrinkage: ρ, above 0 so that no direction is forbidden, at most 1.
        """
        sides = ((self.out, self.out_shares, self.shape[0]), (self.width, self.width_shares, self.shape[1]))
        roots = []
        for vectors, shares, size in sides:
            # eigenvalues of d · Σ(ρ) / tr(Σ̂), so that the mean over directions is 1
            lowest = np.sqrt(shrinkage)
            stretched = np.sqrt((1 - shrinkage) * shares * size + shrinkage) - lowest
            root = lowest * np.eye(size) + (vectors * stretched) @ vectors.T
            roots.append(np.asarray(root, dtype=np.float32))
        return roots[0], roots[1]


def spectrum(updates: Mapping[str, Sequence[Update]], weights: Sequence[float]) -> dict[str, Spectrum]:
    """Return the spectrum of each weight.

    Args:
        updates: by parameter name, one of each of n adapters.
        weights: (n,) w_j, what each counts; 0 leaves it out.
    """
    found = {}
    for name, of_weight in updates.items():
        parts = [(canonical(update), np.sqrt(w)) for update, w in zip(of_weight, weights, strict=True) if w > 0]
        out, out_shares = _principal([part.u * part.singular * w for part, w in parts])
        width, width_shares = _principal([part.v * part.singular * w for part, w in parts])
        shape = of_weight[0].shape
        found[name] = Spectrum(out, out_shares, width, width_shares, (int(shape[0]), int(shape[1])))
    return found


def principal_inputs(moments: Mapping[str, Float32Array], count: int) -> dict[str, Float32Array]:
    """Return the principal directions of what modules are given, by the name of their weight.

    Where A of a LoRA begins in them it sees most of its input from the first step (EVA, arXiv 2410.07170).

    Args:
        moments: by name E[x xᵀ], (in, in).
        count: how many, the leading ones.

    Returns:
        By name (≤ count, in) orthonormal rows, leading first.

    >>> principal_inputs({"q.weight": np.diag(np.float32([1, 9, 4]))}, 1)["q.weight"].tolist()
    [[0.0, 1.0, 0.0]]
    """
    found = {}
    for name, moment in moments.items():
        vectors = np.linalg.eigh(moment.astype(np.float64))[1]
        # eigh leaves the sign open, and another machine's LAPACK may choose the other one
        vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), np.arange(len(vectors))] < 0, -1.0, 1.0)
        found[name] = np.ascontiguousarray(vectors[:, : -count - 1 : -1].T, dtype=np.float32)
    return found


def _principal(columns: Sequence[Float64Array]) -> tuple[Float64Array, Float64Array]:
    vectors, singular, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    energy = np.square(singular)
    return vectors, energy / max(energy.sum(), np.finfo(np.float64).tiny)


def by_weight(deltas: Sequence[WeightDelta], names: Sequence[str]) -> Mapping[str, list[Update]]:
    """Return each weight's updates, adapter by adapter, each adapter scaled to norm 1 over all weights.

    Scaled, since one that was trained for longer would else outweigh many. One that lacks a weight counts there with
    nothing; a weight that nobody changes is left out. Those of a weight are taken from the deltas when it is looked at.

    Args:
        deltas: the adapters' weight deltas.
        names: the weights wanted.
    """
    norms = tuple(float(np.sqrt(sum(inner(one, one) for one in delta.values()))) or 1.0 for delta in deltas)
    changed = tuple(name for name in names if any(name in delta for delta in deltas))
    return _ByWeight(tuple(deltas), norms, changed)


@dataclass(frozen=True, eq=False)
class _ByWeight(Mapping[str, list[Update]]):
    """Each weight's updates, scaled; see `by_weight`."""

    deltas: tuple[WeightDelta, ...]
    norms: tuple[float, ...]
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> list[Update]:
        if name not in self.names:
            raise KeyError(name)
        pairs = zip(self.deltas, self.norms, strict=True)
        updates = [delta[name].times(1 / norm) if name in delta else None for delta, norm in pairs]
        shape = next(update.shape for update in updates if update is not None)
        nothing = LowRankUpdate(np.zeros((1, shape[1]), np.float32), np.zeros((shape[0], 1), np.float32))
        return [nothing if update is None else update for update in updates]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
