"""Interval and tests over families: numbers in, numbers out. The rules were chosen by `eval/bench_statistics.md`.

The interval is the symmetric studentised bootstrap (Hall 1988, "On symmetric bootstrap confidence intervals", J. R.
Statist. Soc. B 50:35): mean ± q·se, q the 95% quantile of |mean* - mean| / se*. Families are often few, and many of
their differences are 0, so that a resample may have next to no spread and its ratio no limit: se* is taken as a quarter
of se at least, and q as Student's quantile at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from merge_advisor.arrays import Float64Array

LEVEL = 0.95
ALPHA = 0.05
RESAMPLES = 9_999
LEAST_SPREAD = 0.25
"""Share of the sample's standard error that a resample's is taken to have at least."""
EXACT = 32
"""Most families whose sign flips are all counted; beyond it `FLIPS` of them are drawn."""
FLIPS = 20_000
ENOUGH_FAMILIES = 6
"""Fewest families with which a two-sided sign-flip test can fall below `ALPHA`: its least p is 2^(1-n)."""


@lru_cache(maxsize=8)
def bootstrap_counts(n: int, seed: int) -> Float64Array:
    """How often each of n families is in each resample: (RESAMPLES, n), rows sum to n."""
    drawn = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def bootstrap_interval(differences: Sequence[float] | Float64Array, *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% interval of the mean of families' differences.

    Args:
        differences: (n,) finite, one a family.
        seed: draws the resamples.

    Returns:
        Lower and upper end; None with fewer than two families, whose spread is unknown. Differences that are all equal
        have an interval of no width.
    """
    from scipy.special import stdtrit

    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        return None
    mean, error = float(values.mean()), float(values.std(ddof=1)) / np.sqrt(n)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    away, shares = values - mean, bootstrap_counts(n, seed) / n
    shift = shares @ away
    spread = np.sqrt(np.maximum(shares @ away**2 - shift**2, 0) / (n - 1))
    ratios = np.abs(shift) / np.maximum(spread, LEAST_SPREAD * error)
    half = max(float(np.quantile(ratios, LEVEL)), float(stdtrit(n - 1, (1 + LEVEL) / 2))) * error
    return float(mean - half), float(mean + half)


def sign_flip_test(differences: Sequence[float] | Float64Array, *, seed: int = 0) -> float:
    """Return the two-sided p of the sign-flip test of a mean of 0: the share of sign patterns with as large a sum.

    Exact up to `EXACT` differences; beyond, (1 + hits) / (1 + `FLIPS`) of patterns drawn from `seed`. 1.0 for none.
    """
    values = np.asarray(differences, dtype=np.float64)
    n, reached = len(values), abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())
    if reached <= 0:
        return 1.0
    if n > EXACT:
        signs = np.random.default_rng([seed, n]).choice([-1.0, 1.0], size=(FLIPS, n))
        return float(1 + (np.abs(signs @ values) >= reached).sum()) / (1 + FLIPS)
    # a pattern is one of the left half with one of the right half: two short lists instead of 2^n sums
    left, right = _all_sums(values[: n // 2]), np.sort(_all_sums(values[n // 2 :]))
    above = len(right) - np.searchsorted(right, reached - left, side="left")
    below = np.searchsorted(right, -reached - left, side="right")
    return float(above.sum() + below.sum()) / 2.0**n


def _all_sums(values: Float64Array) -> Float64Array:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def signed_rank_test(differences: Sequence[float] | Float64Array, *, seed: int = 0) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test: the sign-flip test on mid-ranks, zeros dropped.

    Exact with ties as well, up to `EXACT` differences that are not 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    return sign_flip_test(np.sign(values) * midranks(np.abs(values)), seed=seed)


def midranks(values: Float64Array) -> Float64Array:
    """Rank along the last axis from 1, smallest first; equal values share the mean of their ranks."""
    below: Float64Array = (values[..., None, :] < values[..., :, None]).sum(-1, dtype=np.float64)
    equal: Float64Array = (values[..., None, :] == values[..., :, None]).sum(-1, dtype=np.float64)
    return below + (equal + 1) / 2


def holm_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down rule (1979, Scand. J. Statist. 6:65), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = so_far
    return adjusted
