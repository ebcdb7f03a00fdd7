import importlib.util
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.contrasts import contrast, holm_adjusted
from merge_advisor.benchmark.analysis.curves import cost_gain, k_sweep, task_table
from merge_advisor.benchmark.analysis.prediction import agreement, kendall_tau_b
from merge_advisor.benchmark.analysis.ranks import friedman_test, rank_arms
from merge_advisor.benchmark.values import Contrast, Question, Result, Unit
from merge_advisor.types import from_json, to_json

QUESTION = Question("a", "b")
SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "bench_statistics.py"
DIFFERENCES = st.lists(st.integers(-40, 40).map(lambda value: value / 8), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def world():
    """The simulation whose full run is kept in eval/."""
    spec = importlib.util.spec_from_file_location("bench_statistics", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def result(arm, task, family=None, draw=0, **fields):
    unit = Unit(task, family or task, draw)
    return Result(unit, arm, **{"view": "own-out", "k": 4, **fields})


def pairs(*differences, arm="a", metric="accuracy"):
    """Arm a against b, one task and one family for each difference (points, or nats)."""
    found = []
    for number, difference in enumerate(differences):
        for name, value in ((arm, difference), ("b", 0.0)):
            fields = {"accuracy": 0.5 + value / 100} if metric == "accuracy" else {"loss": 2.0 - value}
            found.append(result(name, f"t{number}", **fields))
    return found


# --- known truth --------------------------------------------------------------------------------------------------


def test_no_difference_is_found_where_there_is_none(world):
    found = list(world.benchmarks(400, world.ALL_TASKS, 0.0, world.SPREADS["typical"], seed=1))
    wrong = np.mean([one.standing in ("better", "worse") for _, one in found])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    covered = np.mean([low <= 0 <= high for low, high in (world.ends(one) for _, one in found)])
    assert 0.925 <= covered <= 0.985
    # the same benchmarks tell a wrong unit: tasks, draws and rows taken for independent
    assert np.mean([world.independent(each.mean(1)) < 0.05 for each, _ in found]) > 0.1
    assert np.mean([world.independent(each) < 0.05 for each, _ in found]) > 0.2
    rows = math.sqrt(2 * 0.45 * 0.55 / (59 * 6 * 40))
    assert np.mean([abs(each.mean() / 100) > 1.96 * rows for each, _ in found]) > 0.2


def test_a_real_gain_is_found_and_its_size_covered(world):
    said = [one for _, one in world.benchmarks(200, world.ALL_TASKS, 4.0, world.SPREADS["typical"], seed=2)]
    assert np.mean([one.standing == "better" for one in said]) > 0.8
    assert np.mean([one.lower <= 4.0 <= one.upper for one in said]) > 0.91
    assert np.mean([one.mean for one in said]) == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("shape", ["normal", "skewed (exponential)", "heavy tails (t, 3 d.f.)", "half are 0"])
@pytest.mark.parametrize("n", [6, 12, 24])
def test_the_interval_covers_the_truth_in_many_shapes(world, shape, n):
    drawn = world.SHAPES[shape](np.random.default_rng([n, 5]), (300, n))
    covered = np.mean([low <= 0 <= high for low, high in map(resampling.bootstrap_interval, drawn)])
    assert covered > 0.88 if "skewed" in shape else covered > 0.92


def test_the_interval_of_tau_covers_the_truth(world):
    truth = 2 * np.arcsin(0.4) / np.pi
    said = [agreement(world.promises(world.ALL_TASKS, 0.4, np.random.default_rng([3, i])), ["a"]) for i in range(100)]
    assert np.mean([one.lower <= truth <= one.upper for one in said]) > 0.87
    assert np.mean([one.tau for one in said]) == pytest.approx(truth, abs=0.03)


# --- interval and tests -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(DIFFERENCES)
def test_sign_flips_are_those_of_the_definition(values):
    reached = abs(sum(values))
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product([-1, 1], repeat=len(values))
    ]
    assert resampling.sign_flip_test(values) == pytest.approx(np.mean([total >= reached - 1e-9 for total in sums]))


def test_many_families_are_flipped_by_chance_to_the_same_p():
    values = np.random.default_rng(4).normal(0.3, 1, resampling.EXACT)
    exact = resampling.sign_flip_test(values)
    drawn = resampling.sign_flip_test([*values, 0.0])  # a zero changes no sum, but makes one too many to count
    assert 0.01 < exact < 0.5 and drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / resampling.FLIPS))
    assert resampling.sign_flip_test([*values, 0.0], seed=1) != drawn


def test_signed_rank_is_wilcoxons():
    from scipy.stats import wilcoxon

    values = np.random.default_rng(6).normal(0.4, 1, 12)
    assert resampling.signed_rank_test(values) == pytest.approx(wilcoxon(values, method="exact").pvalue)
    assert resampling.signed_rank_test([*values, 0.0, 0.0]) == resampling.signed_rank_test(values)
    assert resampling.signed_rank_test([0.0, 0.0]) == 1.0


def test_holm_is_the_step_down_rule():
    assert resampling.holm_p_values([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert resampling.holm_p_values([0.6, 0.6]) == [1.0, 1.0]
    assert resampling.holm_p_values([]) == []


@settings(max_examples=25, deadline=None)
@given(DIFFERENCES.filter(lambda values: len(values) > 1))
def test_the_interval_is_finite_holds_the_mean_and_mirrors(values):
    low, high = resampling.bootstrap_interval(values)
    assert math.isfinite(high - low) and low <= np.mean(values) + 1e-12 and high >= np.mean(values) - 1e-12
    assert resampling.bootstrap_interval([-value for value in values]) == pytest.approx((-high, -low))
    shifted = resampling.bootstrap_interval([value + 64 for value in values])
    assert shifted == pytest.approx((low + 64, high + 64))


def test_intervals_without_spread_or_without_families():
    assert resampling.bootstrap_interval([0.0] * 7) == (0.0, 0.0)
    assert resampling.bootstrap_interval([1.1] * 7) == (1.1, 1.1)
    assert resampling.bootstrap_interval([1.1]) is None and resampling.bootstrap_interval([]) is None
    # resamples of two families know three ratios: Student's quantile, 12.7, is the honest one
    assert resampling.bootstrap_interval([1.0, 2.0]) == pytest.approx((1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2), rel=1e-4)
    low, high = resampling.bootstrap_interval([0.0] * 11 + [3.0])  # a third of the resamples have no spread at all
    assert low < 0 < high < 3


def test_the_interval_is_studentised():
    lopsided = [0.1, 0.2, 0.15, 0.1, 0.3, 0.2, 0.1, 4.0]
    student = 2 * 2.364624 * np.std(lopsided, ddof=1) / math.sqrt(8)
    assert np.subtract(*reversed(resampling.bootstrap_interval(lopsided))) > 1.2 * student
    assert resampling.bootstrap_interval(lopsided, seed=1) == pytest.approx(
        resampling.bootstrap_interval(lopsided), rel=0.2
    )


# --- contrasts ----------------------------------------------------------------------------------------------------


def test_draws_count_within_tasks_and_tasks_within_families():
    found = contrast(
        QUESTION,
        [
            *(result("a", "big", "f", draw, accuracy=0.9) for draw in range(5)),  # five draws of one task,
            *(result("b", "big", "f", draw, accuracy=0.5) for draw in range(5)),
            result("a", "small", "f", accuracy=0.5),  # one of another in its family,
            result("b", "small", "f", accuracy=0.5),
            result("a", "other", "g", accuracy=0.3),  # and another family
            result("b", "other", "g", accuracy=0.4),
        ],
        1.0,
    )
    assert found.families == ("f", "g") and found.differences == (20.0, -10.0) and found.mean == 5.0
    assert (found.wins, found.ties, found.losses) == (1, 0, 1) and found.tasks == (1, 1, 1)
    assert (found.units, found.left_out) == (7, 0)


def test_only_units_with_both_arms_count_and_the_rest_is_told():
    results = pairs(*[2.0, 3.0, 2.5, 3.5, 2.0, 3.0, 2.2])
    results[0] = replace(results[0], status="failed", reason="out of memory")
    results.append(result("a", "t9", accuracy=0.9))
    found = contrast(QUESTION, results, 1.0)
    assert found.units == 6 and found.left_out == 2 and "t0" not in found.families and "t9" not in found.families
    assert "2 of 8 units left out" in found.reason


def test_other_views_sizes_and_arms_are_ignored():
    results = pairs(2.0, 3.0, 2.5, 3.5, 2.0, 3.0)
    noise = [
        replace(one, accuracy=0.0, **other) for one in results for other in ({"view": "own-in"}, {"k": 8}, {"arm": "c"})
    ]
    assert contrast(QUESTION, noise + results, 1.0) == contrast(QUESTION, results, 1.0)
    assert contrast(QUESTION, results[::-1], 1.0) == contrast(QUESTION, results, 1.0)


@pytest.mark.parametrize(
    ("differences", "standing", "said"),
    [
        ([2.0, 3.0, 2.5, 3.5, 2.0, 3.0], "better", "the whole interval is beyond the 1.00 points that matter"),
        ([-2.0, -3.0, -2.5, -3.5, -2.0, -3.0], "worse", "the whole interval is beyond the 1.00 points that matter"),
        ([0.9, 1.4, 0.7, 1.2, 1.5, 0.6], "better", "perhaps by less than the 1.00 points that matter"),
        ([0.2, 0.3, 0.25, 0.35, 0.2, 0.3], "better", "by less than the 1.00 points that matter"),
        ([0.2, -0.3, 0.25, -0.35, 0.0, 0.1], "equivalent", "are equivalent"),
        ([0.0] * 6, "equivalent", "+0.00 to +0.00"),
        ([9.0, -8.0, 5.0, -7.0, 3.0, 1.0], "undecided", "is undecided"),
        ([2.0, 3.0, 2.5, 3.5, 2.0], "undecided", "cannot fall below p = 0.0625, 6 are the least"),
        ([0.0] * 5, "undecided", "cannot fall below"),
    ],
)
def test_standings(differences, standing, said):
    found = contrast(QUESTION, pairs(*differences), 1.0)
    assert found.standing == standing and said in found.reason
    assert "\n" not in found.reason


def test_interval_and_test_that_disagree_leave_it_undecided():
    differences = [0.1, 0.2, 0.15, 0.1, 0.3, 0.2, 0.1, 4.0]  # always ahead, by one family mostly
    found = contrast(QUESTION, pairs(*differences), 1.0)
    assert found.sign_flip == 2 / 2**8 and found.lower < 0
    assert not found.agree and found.standing == "undecided" and "disagree" in found.reason


def test_no_smallest_gain_asks_for_no_equivalence():
    assert contrast(QUESTION, pairs(*[0.0] * 6), None).standing == "undecided"


def test_losses_are_turned_so_that_up_is_good():
    found = contrast(replace(QUESTION, metric="loss"), pairs(0.2, 0.3, 0.25, 0.35, 0.2, 0.3, metric="loss"), 0.05)
    assert found.standing == "better" and found.mean == pytest.approx(0.2666667, abs=1e-6) and "nats" in found.reason


def test_one_family_has_no_interval_and_none_has_nothing():
    one = contrast(QUESTION, pairs(2.0), 1.0)
    assert one.lower is None and one.upper is None and one.sign_flip == 1.0 and one.standing == "undecided"
    assert "one family says nothing about others" in one.reason
    none = contrast(QUESTION, [result("a", "t0", accuracy=0.5)], 1.0)
    assert none.families == () and none.left_out == 1 and "no unit in view own-out at k = 4" in none.reason
    for found in (one, none):
        assert from_json(Contrast, to_json(found), "kept") == found
    assert json.loads(to_json(one))["lower"] is None


def test_an_arm_without_the_metric_has_nothing_to_compare():
    results = [*pairs(0.5, 0.6, metric="loss"), result("majority", "t0", accuracy=0.5)]
    found = contrast(Question("a", "majority", "loss"), results, 0.05)
    assert found.units == 0 and found.left_out == 2 and "has the loss of both" in found.reason


def test_an_oracle_is_compared_with_nothing():
    results = [replace(one, oracle=one.arm == "a") for one in pairs(2.0, 3.0, 2.5, 3.5, 2.0, 3.0)]
    found = contrast(QUESTION, results, 1.0)
    assert found.standing == "undecided" and found.lower > 1 and "a reads held-out answers" in found.reason


def test_equal_arms_tie_whatever_the_order_of_adding():
    accuracies = [0.1, 0.2, 0.3, 0.7, 0.6]
    results = [
        result(arm, "t", "f", draw, accuracy=value)
        for arm, values in (("a", accuracies), ("b", accuracies[::-1]))
        for draw, value in enumerate(values)
    ]
    found = contrast(QUESTION, results, 1.0)
    assert found.differences == (0.0,) and found.ties == 1


def test_secondaries_stand_after_holm():
    sure = contrast(QUESTION, pairs(*[2.0, 3.0, 2.5, 3.5, 2.0, 3.0, 2.1, 2.2, 2.3]), 1.0)
    barely = contrast(Question("c", "b"), pairs(2.0, 3.0, 2.5, 3.5, 2.0, 3.0, arm="c"), 1.0)
    assert barely.standing == "better" and barely.sign_flip == 2 / 2**6
    found = holm_adjusted([barely, sure])
    assert [one.adjusted for one in found] == [2 / 2**6, 4 / 2**9] and [one.standing for one in found] == ["better"] * 2
    barely, _, _ = holm_adjusted([barely, sure, barely])
    assert barely.adjusted == 4 / 2**6 and barely.standing == "undecided"
    assert "c against b is undecided" in barely.reason and "not better after Holm" in barely.reason
    small = contrast(QUESTION, pairs(0.2, 0.3, 0.25, 0.35, 0.2, 0.3), 1.0)
    assert small.standing == "better" and holm_adjusted([small, small])[0].standing == "equivalent"
    assert holm_adjusted([]) == []


# --- promises, sweeps, costs, ranks -------------------------------------------------------------------------------


def promised(points, arm="a", family=None, **fields):
    """Results of base and an arm, one task each: (predicted, measured) drops of the loss."""
    found = []
    for number, (predicted, measured) in enumerate(points):
        found.append(result("base", f"t{number}", family, loss=5.0))
        found.append(result(arm, f"t{number}", family, loss=5.0 - measured, predicted=predicted, **fields))
    return found


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_tau_b_is_scipys(points):
    from scipy.stats import kendalltau

    expected = kendalltau(*zip(*points, strict=True), variant="b", nan_policy="propagate").statistic
    found = kendall_tau_b(points)
    assert (found is None and math.isnan(expected)) or found == pytest.approx(expected)


def test_promises_kept_broken_and_turned_round():
    kept = agreement(promised([(i / 10, i / 20) for i in range(12)]), ["a"])
    assert kept.tau == 1 and (kept.lower, kept.upper) == (1, 1) and "more is gained" in kept.reason
    turned = agreement(promised([(i / 10, -i / 20) for i in range(12)]), ["a"])
    assert turned.tau == -1 and "less is gained" in turned.reason
    noise = agreement(promised(np.random.default_rng(1).normal(size=(12, 2)).tolist()), ["a"])
    assert noise.lower < 0 < noise.upper and "not shown" in noise.reason


def test_bins_hold_equal_counts_in_order():
    found = agreement(promised([(i / 10, i / 20) for i in reversed(range(12))]), ["a"])
    assert [one.count for one in found.bins] == [2, 3, 2, 3, 2]
    assert found.bins[0].predicted == pytest.approx(0.05) and found.bins[0].measured == pytest.approx(0.025)
    assert found.bins[0].families == ("t10", "t11") and found.bins[-1].highest == 1.1
    assert from_json(type(found), to_json(found), "kept") == found


def test_promises_are_of_asked_arms_that_have_both_and_read_no_answers():
    results = promised([(0.1, 0.1), (0.2, 0.3)])
    results += [replace(one, arm="o", oracle=True) for one in results if one.arm == "a"]
    results += [replace(one, arm="other") for one in results if one.arm == "a"]
    results += [replace(one, unit=Unit("t7", "t7")) for one in results if one.arm == "a"]  # no base there
    results += [replace(one, view="own-in", k=8, loss=4.0) for one in results if one.arm == "a"]  # base serves any view
    found = agreement(results, ["a", "o", "missing"])
    assert found.arms == ("a",) and [(p.task, p.measured) for p in found.promises] == [("t0", 0.55), ("t1", 0.65)]


def test_telling_tasks_apart_is_not_telling_merges_apart():
    """Tasks differ in what there is to gain, and within each the larger promise gains less."""
    results = []
    for arm, more in (("a", 0.1), ("b", 0.0)):
        results += promised([(i + more, i - more) for i in range(8)], arm)
    found = agreement(results, ["a", "b"])
    assert found.tau > 0.8 and found.within == -1 and (found.within_lower, found.within_upper) == (-1, -1)
    assert agreement(results, ["a"]).within is None


@pytest.mark.parametrize(
    ("points", "said"), [([], "0 found"), ([(0.1, 0.2)], "1 found"), ([(0.1, 0.2), (0.1, 0.4)], "too equal")]
)
def test_too_few_promises_have_no_tau(points, said):
    found = agreement(promised(points), ["a"])
    assert found.tau is None and found.lower is None and said in found.reason


def test_one_family_of_promises_has_no_interval():
    found = agreement(promised([(0.1, 0.1), (0.2, 0.3), (0.3, 0.2)], family="f"), ["a"])
    assert found.tau == pytest.approx(1 / 3) and found.lower is None and "one family" in found.reason


def test_k_sweep_compares_sizes_on_the_same_units():
    base = [result("base", f"t{n}", accuracy=0.4, k=1) for n in range(3)]
    one = [result("a", f"t{n}", accuracy=0.5, k=1) for n in range(3)]
    eight = [result("a", f"t{n}", accuracy=0.4 + n / 10, k=8) for n in range(1, 3)]
    single = [result("b", "t0", accuracy=0.9)]
    (sweep,) = k_sweep([*base, *eight, *one, *single], "accuracy", "own-out")
    assert sweep.arm == "a" and [(p.k, p.mean, p.units) for p in sweep.points] == [(1, 10.0, 2), (8, 15.0, 2)]
    assert sweep.points[0].lower == 10.0 and sweep.points[1].lower < 15 < sweep.points[1].upper
    assert k_sweep([*one, *eight], "accuracy", "own-out") == () and k_sweep([], "loss", "own-in") == ()


def test_cost_is_averaged_as_gains_are():
    results = [
        *(result(arm, task, "f", accuracy=0.4) for arm in ("base",) for task in ("t0", "t1")),
        result("base", "t2", "g", accuracy=0.5),
        result("a", "t0", "f", accuracy=0.5, forwards=10),
        result("a", "t1", "f", accuracy=0.7, forwards=30),
        result("a", "t2", "g", accuracy=0.5, forwards=100),
        result("best-single-oracle", "t0", "f", accuracy=0.9, oracle=True),
        result("late", "t9", "g", accuracy=0.9),
    ]
    a, oracle = cost_gain(results, "accuracy", "own-out", 4)
    assert (a.arm, a.forwards, a.mean, a.families, a.units) == ("a", 60.0, 10.0, 2, 3) and not a.oracle
    assert oracle.oracle and oracle.lower is None and oracle.mean == 50.0


def test_task_table_has_holes_where_nothing_was_run():
    results = [
        result("a", "t1", "g", accuracy=0.5),
        result("a", "t0", "h", accuracy=0.25),
        result("b", "t0", "h", accuracy=1),
    ]
    found = task_table(results, "accuracy", "own-out", 4)
    assert found.arms == ("a", "b") and found.tasks == ("t1", "t0") and found.families == ("g", "h")
    assert found.values == ((50.0, None), (25.0, 100.0))


def ranked(table, **fields):
    return [
        result(arm, f"t{number}", accuracy=value / 100, **fields)
        for number, row in enumerate(table)
        for arm, value in zip("abcd", row, strict=False)
    ]


def test_ranks_and_cliques():
    rng = np.random.default_rng(2)
    table = [(50 + rng.normal(), 50.1 + rng.normal(), 30 + rng.normal(), 29.9 + rng.normal()) for _ in range(12)]
    found = rank_arms(ranked(table), "accuracy", "own-out", 4)
    assert {*found.arms[:2]} == {"a", "b"} and {*found.arms[2:]} == {"c", "d"}
    assert found.cliques == (found.arms[:2], found.arms[2:]) and found.friedman < 0.001
    assert sum(found.mean_ranks) == pytest.approx(10) and len(found.pairs) == 6
    apart = {(pair.better, pair.than) for pair in found.pairs if pair.adjusted < 0.05}
    assert apart == {(one, other) for one in found.arms[:2] for other in found.arms[2:]}
    assert from_json(type(found), to_json(found), "kept") == found


def test_equal_arms_share_a_rank_and_a_clique():
    found = rank_arms(ranked([(50, 50, 50)] * 8), "accuracy", "own-out", 4)
    assert found.arms == ("a", "b", "c") and found.mean_ranks == (2, 2, 2)
    assert found.friedman == 1.0 and found.cliques == (("a", "b", "c"),)


def test_cliques_may_overlap():
    table = [(50, 46.5, 48), (50, 51.5, 48)] * 8  # b is now behind both and now ahead of both
    found = rank_arms(ranked(table), "accuracy", "own-out", 4)
    apart = {(pair.better, pair.than) for pair in found.pairs if pair.adjusted < 0.05}
    assert apart == {(found.arms[0], found.arms[2])} and found.cliques == (found.arms[:2], found.arms[1:])


def test_ranks_leave_out_oracles_and_units_that_one_arm_lacks():
    results = ranked([(50, 40), (60, 50), (70, 20)])[:-1]
    results += [replace(one, arm="best-single-oracle", oracle=True, accuracy=1.0) for one in results if one.arm == "a"]
    found = rank_arms(results, "accuracy", "own-out", 4)
    assert found.arms == ("a", "b") and found.families == ("t0", "t1")
    assert "1 units left out" in found.reason and "too few families" in found.reason
    assert rank_arms(results[:1], "accuracy", "own-out", 4).arms == ()
    assert "nothing to rank" in rank_arms([], "loss", "own-in", 1).reason


def test_friedman_is_the_known_test():
    from scipy.stats import friedmanchisquare

    table = np.random.default_rng(8).normal(size=(20, 5)) + np.arange(5) * 0.25
    expected = friedmanchisquare(*table.T).pvalue
    assert friedman_test(rankdata(-table, axis=1)) == pytest.approx(expected, abs=0.015)
    flat = [friedman_test(rankdata(np.random.default_rng(i).normal(size=(7, 3)), axis=1)) < 0.05 for i in range(100)]
    assert np.mean(flat) < 0.12
