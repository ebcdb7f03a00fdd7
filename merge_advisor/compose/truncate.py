"""Cutting a merged adapter to a rank that servers take, with the error stated."""

from __future__ import annotations

import numpy as np

from merge_advisor.errors import InputError
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta

SERVER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as `max_lora_rank` (1 is also taken there)."""
DEFAULT_RANK = 256
"""A merge of higher rank is cut to this unless told otherwise: the largest that servers have long taken."""


def truncate(delta: WeightDelta, rank: int) -> tuple[WeightDelta, float]:
    """Cut every matrix of higher rank to `rank`, the best such approximation (Eckart-Young); vectors stay.

    Returns:
        The cut delta, and the relative error sqrt(Σ‖cut away‖² / Σ‖all‖²) over all parameters (Frobenius).

    Raises:
        InputError: rank below 1.
    """
    if rank < 1:
        raise InputError(f"--rank {rank}: an adapter has at least rank 1")
    found: dict[str, Update] = {}
    lost = whole = 0.0
    for name in delta:
        found[name], away, energy = cut(delta[name], rank)
        lost, whole = lost + away, whole + energy
    return found, float(np.sqrt(lost / whole)) if whole > 0 else 0.0


def cut(update: Update, rank: int) -> tuple[Update, float, float]:
    """Cut one update to a rank by SVD; returns it, ‖what is cut away‖² and ‖the whole‖².

    Of factors the matrix is never formed: B = Q·R, Aᵀ = P·S, and only the (r, r) core R·Sᵀ is decomposed. Of a matrix
    the smaller side's Gram matrix is (in float64): its leading eigenvectors span the best subspace. A vector is kept.
    """
    if isinstance(update, LowRankUpdate):
        return _cut_factors(update, rank)
    matrix = update.dense()
    energy = float(np.sum(np.square(matrix, dtype=np.float64)))
    if matrix.ndim != 2:
        return update, 0.0, energy
    tall = matrix.shape[0] > matrix.shape[1]
    wide = np.asarray(matrix.T if tall else matrix, dtype=np.float64)
    values, vectors = np.linalg.eigh(wide @ wide.T)
    leading = vectors[:, ::-1][:, :rank]  # (small, rank)
    rest = leading.T @ wide  # (rank, large), rows orthogonal: the singular values are their lengths
    balance = np.sqrt(np.maximum(np.linalg.norm(rest, axis=1), np.finfo(np.float32).tiny))
    small = np.asarray(leading * balance, dtype=np.float32)
    large = np.asarray(rest / balance[:, None], dtype=np.float32)
    a, b = (np.ascontiguousarray(small.T), np.ascontiguousarray(large.T)) if tall else (large, small)
    return LowRankUpdate(a, b), float(np.sum(np.maximum(values[: max(0, len(values) - rank)], 0))), energy


def _cut_factors(update: LowRankUpdate, rank: int) -> tuple[Update, float, float]:
    left, upper = np.linalg.qr(update.b.astype(np.float64))
    right, lower = np.linalg.qr(update.a.T.astype(np.float64))
    u, values, v = np.linalg.svd(update.scale * (upper @ lower.T), full_matrices=False)
    energy = float(np.sum(values**2))
    if update.rank <= rank:
        return update, 0.0, energy
    root = np.sqrt(values[:rank])
    b = np.asarray(left @ (u[:, :rank] * root), dtype=np.float32)
    a = np.asarray((root[:, None] * v[:rank]) @ right.T, dtype=np.float32)
    return LowRankUpdate(a, b, 1.0, update.transposed), float(np.sum(values[rank:] ** 2)), energy
