"""Cutting a merged adapter to a rank that servers take, with the error stated."""

from __future__ import annotations

import numpy as np

from merge_advisor.errors import InputError
from merge_advisor.weights.updates import LowRankUpdate, Update, WeightDelta

DEFAULT_RANK = 256
"""A merge of higher rank is cut to this unless another rank is given: the largest that servers have long taken (vLLM's
`max_lora_rank` is one of 8, 16, 32, 64, 128, 256, 320, 512)."""


def truncate(delta: WeightDelta, rank: int) -> tuple[WeightDelta, float]:
    """Return a delta with every matrix of higher rank cut to `rank`, the best such approximation; vectors stay.

    Args:
        delta: of adapters, checkpoints or a merge.
        rank: 1 or more.

    Returns:
        The cut delta, and the relative error sqrt(Σ‖cut away‖² / Σ‖all‖²) over all parameters (Frobenius).

    Raises:
        InputError: rank below 1.

    >>> delta = {"w": LowRankUpdate(np.float32([[4, 0], [0, 3]]), np.eye(2, dtype=np.float32))}
    >>> cut, error = truncate(delta, 1)
    >>> cut["w"].rank, error
    (1, 0.6)
    """
    if rank < 1:
        raise InputError(f"`rank={rank}`: an adapter has at least rank 1; give 1 or more")
    cut: dict[str, Update] = {}
    lost = whole = 0.0
    for name in delta:
        cut[name], away, energy = truncated_svd(delta[name], rank)
        lost, whole = lost + away, whole + energy
    return cut, float(np.sqrt(lost / whole)) if whole > 0 else 0.0


def truncated_svd(update: Update, rank: int) -> tuple[Update, float, float]:
    """Return one update cut to a rank by SVD, the best approximation of that rank (Eckart-Young).

    Args:
        update: of one parameter; a vector is kept as it is.
        rank: 1 or more.

    Returns:
        The cut update (factors; what has that rank already stays), ‖what is cut away‖² and ‖the whole‖² (Frobenius).
    """
    if isinstance(update, LowRankUpdate):
        return _truncate_factors(update, rank)
    matrix = update.dense()
    energy = float(np.sum(np.square(matrix, dtype=np.float64)))
    if matrix.ndim != 2:
        return update, 0.0, energy
    # The leading eigenvectors of the smaller side's Gram matrix span the best subspace; no full
    # SVD is needed. A Gram matrix squares the condition number, so it is formed in float64: float32 would lose all
    # singular values below a 3000th of the largest.
    tall = matrix.shape[0] > matrix.shape[1]
    wide = np.asarray(matrix.T if tall else matrix, dtype=np.float64)
    values, vectors = np.linalg.eigh(wide @ wide.T)
    leading = vectors[:, ::-1][:, :rank]  # (small, rank); eigh sorts upwards
    rest = leading.T @ wide  # (rank, large), rows orthogonal: the singular values are their lengths
    # the root of each singular value goes on either factor, so that neither is far larger than the other
    balance = np.sqrt(np.maximum(np.linalg.norm(rest, axis=1), np.finfo(np.float32).tiny))
    small = np.asarray(leading * balance, dtype=np.float32)
    large = np.asarray(rest / balance[:, None], dtype=np.float32)
    a, b = (np.ascontiguousarray(small.T), np.ascontiguousarray(large.T)) if tall else (large, small)
    return LowRankUpdate(a, b), float(np.sum(np.maximum(values[: max(0, len(values) - rank)], 0))), energy


def _truncate_factors(update: LowRankUpdate, rank: int) -> tuple[Update, float, float]:
    """Cut factors without forming their matrix: B = Q·R, Aᵀ = P·S, and only the (r, r) core R·Sᵀ is decomposed."""
    left, upper = np.linalg.qr(update.b.astype(np.float64))
    right, lower = np.linalg.qr(update.a.T.astype(np.float64))
    u, values, v = np.linalg.svd(update.scale * (upper @ lower.T), full_matrices=False)
    energy = float(np.sum(values**2))
    if update.rank <= rank:  # checked only here: the energy of all parameters enters the stated error
        return update, 0.0, energy
    root = np.sqrt(values[:rank])
    b = np.asarray(left @ (u[:, :rank] * root), dtype=np.float32)
    a = np.asarray((root[:, None] * v[:rank]) @ right.T, dtype=np.float32)
    return LowRankUpdate(a, b, 1.0, update.transposed), float(np.sum(values[rank:] ** 2)), energy
