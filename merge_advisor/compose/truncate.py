"""Cutting a merged adapter to a rank that servers take, with the error stated."""

from __future__ import annotations

import numpy as np

from merge_advisor.backbone.weights import LowRank, Update, WeightDelta
from merge_advisor.errors import InputError

SERVER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as `max_lora_rank` (1 is also taken there)."""
DEFAULT_RANK = 256
"""A merge of higher rank is cut to this unless told otherwise: the largest that servers have long taken."""


def truncate(delta: WeightDelta, rank: int) -> tuple[WeightDelta, float]:
    """Cut every LowRank of higher rank to `rank`, the best such approximation (Eckart-Young), by SVD of its factors.

    The dense matrix is never formed: B = Q·R, Aᵀ = P·S, and only the (r, r) core R·Sᵀ is decomposed.

    Returns:
        The cut delta, and the relative error sqrt(Σ‖cut away‖² / Σ‖all‖²) over all parameters (Frobenius); Dense
        updates are kept as they are and count in ‖all‖.

    Raises:
        InputError: rank below 1.
    """
    if rank < 1:
        raise InputError(f"--rank {rank}: an adapter has at least rank 1")
    found: dict[str, Update] = {}
    lost = whole = 0.0
    for name in delta:
        update = delta[name]
        if not isinstance(update, LowRank):
            found[name] = update
            whole += float(np.sum(np.square(update.array, dtype=np.float64)))
            continue
        left, upper = np.linalg.qr(update.b.astype(np.float64))
        right, lower = np.linalg.qr(update.a.T.astype(np.float64))
        u, values, v = np.linalg.svd(update.scale * (upper @ lower.T), full_matrices=False)
        whole += float(np.sum(values**2))
        if update.rank <= rank:
            found[name] = update
            continue
        lost += float(np.sum(values[rank:] ** 2))
        root = np.sqrt(values[:rank])
        b = np.asarray(left @ (u[:, :rank] * root), dtype=np.float32)
        a = np.asarray((root[:, None] * v[:rank]) @ right.T, dtype=np.float32)
        found[name] = LowRank(a, b, 1.0, update.transposed)
    return found, float(np.sqrt(lost / whole)) if whole > 0 else 0.0
