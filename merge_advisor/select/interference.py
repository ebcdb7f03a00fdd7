"""How the chosen members get in each other's way: sign conflict and overlap, from their weight updates alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.types import Interference
from merge_advisor.weights.updates import LowRankUpdate, is_low_rank

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array, Float64Array
    from merge_advisor.weights.updates import WeightDelta

_ENTRIES = 1 << 14
"""Entries of one parameter that the sign conflict looks at; a larger parameter is sampled by rows (fixed seed)."""
_ROUNDING_SHARE = 1e-5
"""Singular values under this share of the largest are float32 rounding, not directions."""


def interference(members: Sequence[WeightDelta], weights: Sequence[float] | None = None) -> list[Interference | None]:
    """Say for each member how it gets in the way of those before it, from the LoRA factors.

    With c_i = w_i·ΔW_i and e_i = Σ over j < i of c_j:

    sign_conflict = Σ |c_i| over entries where c_i·e_i < 0, divided by Σ |c_i|, all parameters together. Parameters of
    more than 2^14 entries are represented by a seeded sample of their rows, scaled up.
    overlap = mean of φ over both sides (output and input space) of ΔW_i, parameters weighted by |ΔW_i|²_F; a parameter
    none of the earlier members changes counts 0. φ = |U_aᵀ·U_b|²_F / min(r_a, r_b) is the mean squared cosine of the
    principal angles between the span U_a of ΔW_i and the joint span U_b of the earlier ones (the measure of the LoRA
    paper, arXiv 2106.09685, section 7.2, on whole spans). Unrelated spans in d dimensions give about r_b / d, not 0.

    >>> from merge_advisor.weights.updates import LowRankUpdate
    >>> one = {"w": LowRankUpdate(a=np.ones((1, 2), np.float32), b=np.ones((3, 1), np.float32))}
    >>> opposed = {"w": LowRankUpdate(a=-np.ones((1, 2), np.float32), b=np.ones((3, 1), np.float32))}
    >>> measured = interference([one, opposed])[1]
    >>> round(measured.sign_conflict, 3), round(measured.overlap, 3)
    (1.0, 1.0)

    Args:
        members: weight deltas in the order they were chosen.
        weights: their weights; None, or all zero: one each. Only the sign conflict depends on them.

    Returns:
        One entry per member; None for the first, for a checkpoint (full-rank updates), and for those after one.
    """
    factors = list(weights) if weights is not None and any(weights) else [1.0] * len(members)
    adapters = 0
    while adapters < len(members) and is_low_rank(members[adapters]):
        adapters += 1
    tally = np.zeros((adapters, 4))  # opposed mass, mass, overlap·energy, energy
    for name in sorted({name for member in members[:adapters] for name in member}):
        updates = {i: members[i][name] for i in range(adapters) if name in members[i]}
        low_rank = {i: update for i, update in updates.items() if isinstance(update, LowRankUpdate)}
        _count_conflicts(low_rank, factors, tally)
        _count_overlaps(low_rank, tally)
    entries: list[Interference | None] = [None] * len(members)
    for i in range(1, adapters):
        opposed, mass, shared, energy = tally[i]
        entries[i] = Interference(  # at most 1: sums of float32 may round above it
            sign_conflict=min(1.0, float(opposed / mass)) if mass > 0 else 0.0,
            overlap=min(1.0, float(shared / energy)) if energy > 0 else 0.0,
        )
    return entries


def _sides(update: LowRankUpdate) -> tuple[Float32Array, Float32Array]:
    """Return left (out, r) and right (r, in) with ΔW = left @ right in the base's layout."""
    left, right = update.b * np.float32(update.scale), update.a
    return (right.T, left.T) if update.transposed else (left, right)


def _count_conflicts(updates: Mapping[int, LowRankUpdate], factors: Sequence[float], tally: Float64Array) -> None:
    """Add one parameter's opposed mass and mass to columns 0 and 1."""
    out, width = next(iter(updates.values())).shape
    rows = np.arange(out)
    wanted = max(1, _ENTRIES // width)
    if wanted < out:  # the seed is fixed: a plan of the same members says the same, whatever its own seed
        rows = np.sort(np.random.default_rng(0).choice(out, wanted, replace=False))
    earlier = np.zeros((len(rows), width), np.float32)
    for i, update in updates.items():
        left, right = _sides(update)
        own = (left[rows] * np.float32(factors[i])) @ right
        size = np.abs(own)
        scale = out / len(rows)
        tally[i, 0] += scale * float(size[own * earlier < 0].sum(dtype=np.float64))
        tally[i, 1] += scale * float(size.sum(dtype=np.float64))
        earlier += own


def _count_overlaps(updates: Mapping[int, LowRankUpdate], tally: Float64Array) -> None:
    """Add one parameter's overlap times energy, and its energy, to columns 2 and 3."""
    joint: list[Float64Array | None] = [None, None]
    last = max(updates)
    for i, update in updates.items():
        outputs, inputs, values = _spans(update)
        if not len(values):
            continue
        energy = float(values @ values)
        tally[i, 3] += energy
        for side, span in enumerate((outputs, inputs)):
            known = joint[side]
            if known is None:
                joint[side] = span
                continue
            cosines = known.T @ span  # (joint rank, own rank)
            tally[i, 2] += energy / 2 * float(np.sum(cosines**2)) / min(cosines.shape)
            if i != last:  # no member is compared with the span that includes the last
                joint[side] = _joined(known, span, cosines)


def _spans(update: LowRankUpdate) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return orthonormal bases of ΔW's column and row space, (out, r) and (in, r), and its r singular values."""
    left, right = _sides(update)
    # from the factors: an SVD of ΔW itself would cost out·in·min(out, in) instead of (out + in)·r²
    basis_left, core_left = np.linalg.qr(left.astype(np.float64))
    basis_right, core_right = np.linalg.qr(right.T.astype(np.float64))
    turn_left, values, turn_right = np.linalg.svd(core_left @ core_right.T)
    rank = int(np.sum(values > _ROUNDING_SHARE * values[0])) if len(values) and values[0] > 0 else 0
    return basis_left @ turn_left[:, :rank], basis_right @ turn_right[:rank].T, values[:rank]


def _joined(known: Float64Array, span: Float64Array, cosines: Float64Array) -> Float64Array:
    """Return an orthonormal basis of the sum of two spans."""
    # only what of the new span lies outside the known one is added, and of that no rounding
    basis, values, _ = np.linalg.svd(span - known @ cosines, full_matrices=False)
    return np.hstack([known, basis[:, values > _ROUNDING_SHARE]])
