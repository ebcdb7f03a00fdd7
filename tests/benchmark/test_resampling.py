"""Interval and tests over families, against their definitions and against scipy."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor.benchmark.analysis import resampling

DIFFERENCES = st.lists(st.integers(-40, 40).map(lambda value: value / 8), min_size=1, max_size=9)


def ends_of(values: Sequence[float]) -> tuple[float, float]:
    """The interval of values that have one."""
    ends = resampling.bootstrap_interval(values)
    assert ends is not None
    return ends


@settings(deadline=None)
@given(DIFFERENCES)
def test_sign_flips_are_those_of_the_definition(values: list[float]) -> None:
    reached = abs(sum(values))
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product([-1, 1], repeat=len(values))
    ]
    assert resampling.sign_flip_test(values) == pytest.approx(np.mean([total >= reached - 1e-9 for total in sums]))


def test_many_families_are_flipped_by_chance_to_the_same_p() -> None:
    values = np.random.default_rng(4).normal(0.3, 1, resampling.EXACT)
    exact = resampling.sign_flip_test(values)
    drawn = resampling.sign_flip_test([*values, 0.0])  # a zero changes no sum, but makes one too many to count
    assert 0.01 < exact < 0.5 and drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / resampling.FLIPS))
    assert resampling.sign_flip_test([*values, 0.0], seed=1) != drawn


def test_signed_rank_is_wilcoxons() -> None:
    from scipy.stats import wilcoxon

    values = np.random.default_rng(6).normal(0.4, 1, 12)
    assert resampling.signed_rank_test(values) == pytest.approx(wilcoxon(values, method="exact").pvalue)
    assert resampling.signed_rank_test([*values, 0.0, 0.0]) == resampling.signed_rank_test(values)
    assert resampling.signed_rank_test([0.0, 0.0]) == 1.0


def test_holm_is_the_step_down_rule() -> None:
    assert resampling.holm_p_values([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert resampling.holm_p_values([0.6, 0.6]) == [1.0, 1.0]
    assert resampling.holm_p_values([]) == []


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES.filter(lambda values: len(values) > 1))
def test_the_interval_is_finite_holds_the_mean_and_mirrors(values: list[float]) -> None:
    low, high = ends_of(values)
    assert math.isfinite(high - low) and low <= np.mean(values) + 1e-12 and high >= np.mean(values) - 1e-12
    assert resampling.bootstrap_interval([-value for value in values]) == pytest.approx((-high, -low))
    shifted = resampling.bootstrap_interval([value + 64 for value in values])
    assert shifted == pytest.approx((low + 64, high + 64))


def test_intervals_without_spread_or_without_families() -> None:
    assert resampling.bootstrap_interval([0.0] * 7) == (0.0, 0.0)
    assert resampling.bootstrap_interval([1.1] * 7) == (1.1, 1.1)
    assert resampling.bootstrap_interval([1.1]) is None and resampling.bootstrap_interval([]) is None
    # resamples of two families know three ratios: Student's quantile, 12.7, is the honest one
    assert resampling.bootstrap_interval([1.0, 2.0]) == pytest.approx((1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2), rel=1e-4)
    low, high = ends_of([0.0] * 11 + [3.0])  # a third of the resamples have no spread at all
    assert low < 0 < high < 3


def test_the_interval_is_studentised() -> None:
    lopsided = [0.1, 0.2, 0.15, 0.1, 0.3, 0.2, 0.1, 4.0]
    student = 2 * 2.364624 * np.std(lopsided, ddof=1) / math.sqrt(8)
    low, high = ends_of(lopsided)
    assert high - low > 1.2 * student
    assert resampling.bootstrap_interval(lopsided, seed=1) == pytest.approx(
        resampling.bootstrap_interval(lopsided), rel=0.2
    )
