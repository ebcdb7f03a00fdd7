"""Gain by k, cost against gain, the table by task, and mean ranks with their cliques."""

from dataclasses import replace

import numpy as np
import pytest

from merge_advisor.benchmark.analysis.curves import cost_gain, k_sweep, task_table
from merge_advisor.benchmark.analysis.ranks import friedman_test, rank_arms
from merge_advisor.json_form import from_json, to_json
from tests.support.bench_results import a_result, ranked


def test_k_sweep_compares_sizes_on_the_same_units() -> None:
    base = [a_result("base", f"t{n}", accuracy=0.4, k=1) for n in range(3)]
    one = [a_result("a", f"t{n}", accuracy=0.5, k=1) for n in range(3)]
    eight = [a_result("a", f"t{n}", accuracy=0.4 + n / 10, k=8) for n in range(1, 3)]
    single = [a_result("b", "t0", accuracy=0.9)]
    (sweep,) = k_sweep([*base, *eight, *one, *single], "accuracy", "own-out")
    assert sweep.arm == "a" and [(p.k, p.mean, p.units) for p in sweep.points] == [(1, 10.0, 2), (8, 15.0, 2)]
    first, second = sweep.points
    assert first.lower == 10.0 and second.lower is not None and second.upper is not None
    assert second.lower < 15 < second.upper
    assert k_sweep([*one, *eight], "accuracy", "own-out") == () and k_sweep([], "loss", "own-in") == ()


def test_cost_is_averaged_as_gains_are() -> None:
    results = [
        *(a_result(arm, task, "f", accuracy=0.4) for arm in ("base",) for task in ("t0", "t1")),
        a_result("base", "t2", "g", accuracy=0.5),
        a_result("a", "t0", "f", accuracy=0.5, forwards=10),
        a_result("a", "t1", "f", accuracy=0.7, forwards=30),
        a_result("a", "t2", "g", accuracy=0.5, forwards=100),
        a_result("best-single-oracle", "t0", "f", accuracy=0.9, oracle=True),
        a_result("late", "t9", "g", accuracy=0.9),
    ]
    a, oracle = cost_gain(results, "accuracy", "own-out", 4)
    assert (a.arm, a.forwards, a.mean, a.families, a.units) == ("a", 60.0, 10.0, 2, 3) and not a.oracle
    assert oracle.oracle and oracle.lower is None and oracle.mean == 50.0


def test_task_table_has_holes_where_nothing_was_run() -> None:
    results = [
        a_result("a", "t1", "g", accuracy=0.5),
        a_result("a", "t0", "h", accuracy=0.25),
        a_result("b", "t0", "h", accuracy=1),
    ]
    found = task_table(results, "accuracy", "own-out", 4)
    assert found.arms == ("a", "b") and found.tasks == ("t1", "t0") and found.families == ("g", "h")
    assert found.values == ((50.0, None), (25.0, 100.0))


def test_ranks_and_cliques() -> None:
    rng = np.random.default_rng(2)
    table = [(50 + rng.normal(), 50.1 + rng.normal(), 30 + rng.normal(), 29.9 + rng.normal()) for _ in range(12)]
    found = rank_arms(ranked(table), "accuracy", "own-out", 4)
    assert {*found.arms[:2]} == {"a", "b"} and {*found.arms[2:]} == {"c", "d"}
    assert found.cliques == (found.arms[:2], found.arms[2:]) and found.friedman < 0.001
    assert sum(found.mean_ranks) == pytest.approx(10) and len(found.pairs) == 6
    apart = {(pair.better, pair.than) for pair in found.pairs if pair.adjusted < 0.05}
    assert apart == {(one, other) for one in found.arms[:2] for other in found.arms[2:]}
    assert from_json(type(found), to_json(found), "kept") == found


def test_equal_arms_share_a_rank_and_a_clique() -> None:
    found = rank_arms(ranked([(50, 50, 50)] * 8), "accuracy", "own-out", 4)
    assert found.arms == ("a", "b", "c") and found.mean_ranks == (2.0, 2.0, 2.0)
    assert found.friedman == 1.0 and found.cliques == (("a", "b", "c"),)


def test_cliques_may_overlap() -> None:
    table = [(50, 46.5, 48), (50, 51.5, 48)] * 8  # b is now behind both and now ahead of both
    found = rank_arms(ranked(table), "accuracy", "own-out", 4)
    apart = {(pair.better, pair.than) for pair in found.pairs if pair.adjusted < 0.05}
    assert apart == {(found.arms[0], found.arms[2])} and found.cliques == (found.arms[:2], found.arms[1:])


def test_ranks_leave_out_oracles_and_units_that_one_arm_lacks() -> None:
    results = ranked([(50, 40), (60, 50), (70, 20)])[:-1]
    results += [replace(one, arm="best-single-oracle", oracle=True, accuracy=1.0) for one in results if one.arm == "a"]
    found = rank_arms(results, "accuracy", "own-out", 4)
    assert found.arms == ("a", "b") and found.families == ("t0", "t1")
    assert "1 units left out" in found.reason and "too few families" in found.reason
    assert rank_arms(results[:1], "accuracy", "own-out", 4).arms == ()
    assert "nothing to rank" in rank_arms([], "loss", "own-in", 1).reason


def test_friedman_is_the_known_test() -> None:
    from scipy.stats import friedmanchisquare, rankdata

    table = np.random.default_rng(8).normal(size=(20, 5)) + np.arange(5) * 0.25
    expected = friedmanchisquare(*table.T).pvalue
    assert friedman_test(rankdata(-table, axis=1)) == pytest.approx(expected, abs=0.015)
    flat = [friedman_test(rankdata(np.random.default_rng(i).normal(size=(7, 3)), axis=1)) < 0.05 for i in range(100)]
    assert np.mean(flat) < 0.12
