"""Interval and tests over families: numbers in, numbers out. The rules were chosen by `eval/bench_statistics.md`.

The interval is the symmetric studentised bootstrap (Hall 1988, "On symmetric bootstrap confidence intervals", J. R.
Statist. Soc. B 50:35): mean ± q·se, q the 95% quantile of |mean* - mean| / se*. Student's t covers too little where
differences are skewed, and the equal-tailed bootstrap where many are 0, as they are where two arms often choose the
same merge. Families are few, so that a resample may have next to no spread and its ratio no limit: se* is taken as at
least a quarter of se, and q as at least Student's quantile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from merge_advisor.arrays import Float64Array

LEVEL = 0.95
"""Confidence level of every interval."""
ALPHA = 0.05
"""Level of every test."""
RESAMPLES = 9_999
"""Bootstrap resamples and permutations: with 1 for the sample itself, a p is a multiple of 1/10,000."""
_LEAST_SPREAD = 0.25
"""Least share of the sample's standard error that a resample's is taken to have: without it up to 64% of simulated
samples had no interval, with a half of it skewed ones were covered too rarely (`eval/bench_statistics.md`)."""
EXACT = 32
"""Most families whose sign flips are all counted (two lists of 2^16 sums); beyond it `FLIPS` of them are drawn."""
FLIPS = 20_000
"""Sign patterns drawn where there are too many to count."""
ENOUGH_FAMILIES = 6
"""Fewest families with which a two-sided sign-flip test can fall below `ALPHA`: its least p is 2^(1-n)."""


@lru_cache(maxsize=8)
def bootstrap_counts(n: int, seed: int) -> Float64Array:
    """Return how often each of n families is in each resample.

    Args:
        n: number of families.
        seed: draws the resamples.

    Returns:
        (RESAMPLES, n) float64, rows sum to n; read-only, as all calls with the same arguments share it.

    >>> bootstrap_counts(5, seed=0).sum(axis=1)[:3]
    array([5., 5., 5.])
    """
    # a resample's mean and spread follow from the counts: products of matrices instead of 9,999 samples
    drawn = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def bootstrap_interval(differences: Sequence[float] | Float64Array, *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% studentised bootstrap interval of the mean of families' differences.

    Args:
        differences: (n,) finite, one a family.
        seed: draws the resamples.

    Returns:
        Lower and upper end; None with fewer than two families, whose spread is unknown. Differences that are all equal
        have an interval of no width.

    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 2.5, 1.5, 2.0])
    >>> round(low, 2), round(high, 2)
    (1.21, 2.79)
    """
    from scipy.special import stdtrit

    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 2:
        return None
    mean, error = float(values.mean()), float(values.std(ddof=1)) / np.sqrt(n)
    if np.ptp(values) == 0:  # the standard error of equal numbers may be 1e-17 instead of 0, and a ratio then anything
        return float(values[0]), float(values[0])
    away, shares = values - mean, bootstrap_counts(n, seed) / n
    shift = shares @ away
    spread = np.sqrt(np.maximum(shares @ away**2 - shift**2, 0) / (n - 1))
    ratios = np.abs(shift) / np.maximum(spread, _LEAST_SPREAD * error)
    half = max(float(np.quantile(ratios, LEVEL)), float(stdtrit(n - 1, (1 + LEVEL) / 2))) * error
    return float(mean - half), float(mean + half)


def sign_flip_test(differences: Sequence[float] | Float64Array, *, seed: int = 0) -> float:
    """Return the two-sided p of the sign-flip test of a mean of 0: the share of sign patterns with as large a sum.

    Args:
        differences: (n,) finite, one a family.
        seed: draws the patterns where there are too many to count.

    Returns:
        The exact share up to `EXACT` differences; beyond, (1 + hits) / (1 + `FLIPS`) of patterns drawn; 1.0 for none.

    >>> sign_flip_test([1.0, 2.0, 3.0, 2.5, 1.5, 2.0])  # 2 of 2^6 patterns
    0.03125
    """
    values = np.asarray(differences, dtype=np.float64)
    # sums of the same numbers in another order differ in their last digits: a little less counts as reached
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

    scipy's own is exact without ties only; this one is with ties as well, up to `EXACT` differences that are not 0.

    Args:
        differences: (n,) finite, one a family.
        seed: see `sign_flip_test`.

    >>> signed_rank_test([1.0, 1.0, 2.0, -0.5, 3.0, 0.0])
    0.125
    """
    from scipy.stats import rankdata

    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    return sign_flip_test(np.sign(values) * rankdata(np.abs(values)), seed=seed)


def holm_p_values(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down rule (1979, Scand. J. Statist. 6:65), in the order given.

    Args:
        p_values: one a test.

    >>> holm_p_values([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = so_far
    return adjusted
