"""Predicted against measured gains: Kendall's tau, its interval, bins."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor.benchmark.analysis.prediction import agreement, kendall_tau_b
from merge_advisor.benchmark.values import Unit
from merge_advisor.json_form import from_json, to_json
from tests.support.bench_results import promised


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_tau_b_is_scipys(points: list[tuple[float, float]]) -> None:
    from scipy.stats import kendalltau

    expected = kendalltau(*zip(*points, strict=True), variant="b", nan_policy="propagate").statistic
    found = kendall_tau_b(points)
    assert (found is None and math.isnan(expected)) or found == pytest.approx(expected)


def test_promises_kept_broken_and_turned_round() -> None:
    kept = agreement(promised([(i / 10, i / 20) for i in range(12)]), ["a"])
    assert kept.tau == 1 and (kept.lower, kept.upper) == (1, 1) and "more is gained" in kept.reason
    turned = agreement(promised([(i / 10, -i / 20) for i in range(12)]), ["a"])
    assert turned.tau == -1 and "less is gained" in turned.reason
    noise = agreement(promised(np.random.default_rng(1).normal(size=(12, 2)).tolist()), ["a"])
    assert noise.lower is not None and noise.upper is not None
    assert noise.lower < 0 < noise.upper and "not shown" in noise.reason


def test_bins_hold_equal_counts_in_order() -> None:
    found = agreement(promised([(i / 10, i / 20) for i in reversed(range(12))]), ["a"])
    assert [one.count for one in found.bins] == [2, 3, 2, 3, 2]
    assert found.bins[0].predicted == pytest.approx(0.05) and found.bins[0].measured == pytest.approx(0.025)
    assert found.bins[0].families == ("t10", "t11") and found.bins[-1].highest == 1.1
    assert from_json(type(found), to_json(found), "kept") == found


def test_promises_are_of_asked_arms_that_have_both_and_read_no_answers() -> None:
    results = promised([(0.1, 0.1), (0.2, 0.3)])
    results += [replace(one, arm="o", oracle=True) for one in results if one.arm == "a"]
    results += [replace(one, arm="other") for one in results if one.arm == "a"]
    results += [replace(one, unit=Unit("t7", "t7")) for one in results if one.arm == "a"]  # no base there
    results += [replace(one, view="own-in", k=8, loss=4.0) for one in results if one.arm == "a"]  # base serves any view
    found = agreement(results, ["a", "o", "missing"])
    assert found.arms == ("a",) and [(p.task, p.measured) for p in found.promises] == [("t0", 0.55), ("t1", 0.65)]


def test_telling_tasks_apart_is_not_telling_merges_apart() -> None:
    """Tasks differ in what there is to gain, and within each the larger promise gains less."""
    results = []
    for arm, more in (("a", 0.1), ("b", 0.0)):
        results += promised([(i + more, i - more) for i in range(8)], arm)
    found = agreement(results, ["a", "b"])
    assert (
        found.tau is not None
        and found.tau > 0.8
        and found.within == -1
        and (found.within_lower, found.within_upper) == (-1, -1)
    )
    assert agreement(results, ["a"]).within is None


@pytest.mark.parametrize(
    ("points", "said"), [([], "0 found"), ([(0.1, 0.2)], "1 found"), ([(0.1, 0.2), (0.1, 0.4)], "too equal")]
)
def test_too_few_promises_have_no_tau(points: list[tuple[float, float]], said: str) -> None:
    found = agreement(promised(points), ["a"])
    assert found.tau is None and found.lower is None and said in found.reason


def test_one_family_of_promises_has_no_interval() -> None:
    found = agreement(promised([(0.1, 0.1), (0.2, 0.3), (0.3, 0.2)], family="f"), ["a"])
    assert found.tau == pytest.approx(1 / 3) and found.lower is None and "one family" in found.reason
