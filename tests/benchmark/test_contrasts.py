"""One arm against another: what counts, what is left out, and what is said of the difference."""

import json
from dataclasses import replace

import pytest

from merge_advisor.benchmark.analysis.contrasts import contrast, holm_adjusted
from merge_advisor.benchmark.values import Contrast, Question
from merge_advisor.json_form import from_json, to_json
from tests.support.bench_results import a_result, pairs

QUESTION = Question("a", "b")


def test_draws_count_within_tasks_and_tasks_within_families() -> None:
    found = contrast(
        QUESTION,
        [
            *(a_result("a", "big", "f", draw, accuracy=0.9) for draw in range(5)),  # five draws of one task,
            *(a_result("b", "big", "f", draw, accuracy=0.5) for draw in range(5)),
            a_result("a", "small", "f", accuracy=0.5),  # one of another in its family,
            a_result("b", "small", "f", accuracy=0.5),
            a_result("a", "other", "g", accuracy=0.3),  # and another family
            a_result("b", "other", "g", accuracy=0.4),
        ],
        1.0,
    )
    assert found.families == ("f", "g") and found.differences == (20.0, -10.0) and found.mean == 5.0
    assert (found.wins, found.ties, found.losses) == (1, 0, 1) and found.tasks == (1, 1, 1)
    assert (found.units, found.left_out) == (7, 0)


def test_only_units_with_both_arms_count_and_the_rest_is_told() -> None:
    results = pairs(*[2.0, 3.0, 2.5, 3.5, 2.0, 3.0, 2.2])
    results[0] = replace(results[0], status="failed", reason="out of memory")
    results.append(a_result("a", "t9", accuracy=0.9))
    found = contrast(QUESTION, results, 1.0)
    assert found.units == 6 and found.left_out == 2 and "t0" not in found.families and "t9" not in found.families
    assert "2 of 8 units left out" in found.reason


def test_other_views_sizes_and_arms_are_ignored() -> None:
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
def test_standings(differences: list[float], standing: str, said: str) -> None:
    found = contrast(QUESTION, pairs(*differences), 1.0)
    assert found.standing == standing and said in found.reason
    assert "\n" not in found.reason


def test_interval_and_test_that_disagree_leave_it_undecided() -> None:
    differences = [0.1, 0.2, 0.15, 0.1, 0.3, 0.2, 0.1, 4.0]  # always ahead, by one family mostly
    found = contrast(QUESTION, pairs(*differences), 1.0)
    assert found.sign_flip == 2 / 2**8 and found.lower is not None and found.lower < 0
    assert not found.agree and found.standing == "undecided" and "disagree" in found.reason


def test_no_smallest_gain_asks_for_no_equivalence() -> None:
    assert contrast(QUESTION, pairs(*[0.0] * 6), None).standing == "undecided"


def test_losses_are_turned_so_that_up_is_good() -> None:
    found = contrast(replace(QUESTION, metric="loss"), pairs(0.2, 0.3, 0.25, 0.35, 0.2, 0.3, metric="loss"), 0.05)
    assert found.standing == "better" and found.mean == pytest.approx(0.2666667, abs=1e-6) and "nats" in found.reason


def test_one_family_has_no_interval_and_none_has_nothing() -> None:
    one = contrast(QUESTION, pairs(2.0), 1.0)
    assert one.lower is None and one.upper is None and one.sign_flip == 1.0 and one.standing == "undecided"
    assert "one family says nothing about others" in one.reason
    none = contrast(QUESTION, [a_result("a", "t0", accuracy=0.5)], 1.0)
    assert none.families == () and none.left_out == 1 and "no unit in view own-out at k = 4" in none.reason
    for found in (one, none):
        assert from_json(Contrast, to_json(found), "kept") == found
    assert json.loads(to_json(one))["lower"] is None


def test_an_arm_without_the_metric_has_nothing_to_compare() -> None:
    results = [*pairs(0.5, 0.6, metric="loss"), a_result("majority", "t0", accuracy=0.5)]
    found = contrast(Question("a", "majority", "loss"), results, 0.05)
    assert found.units == 0 and found.left_out == 2 and "has the loss of both" in found.reason


def test_an_oracle_is_compared_with_nothing() -> None:
    results = [replace(one, oracle=one.arm == "a") for one in pairs(2.0, 3.0, 2.5, 3.5, 2.0, 3.0)]
    found = contrast(QUESTION, results, 1.0)
    assert (
        found.standing == "undecided"
        and found.lower is not None
        and found.lower > 1
        and "a reads held-out answers" in found.reason
    )


def test_equal_arms_tie_whatever_the_order_of_adding() -> None:
    accuracies = [0.1, 0.2, 0.3, 0.7, 0.6]
    results = [
        a_result(arm, "t", "f", draw, accuracy=value)
        for arm, values in (("a", accuracies), ("b", accuracies[::-1]))
        for draw, value in enumerate(values)
    ]
    found = contrast(QUESTION, results, 1.0)
    assert found.differences == (0.0,) and found.ties == 1


def test_secondaries_stand_after_holm() -> None:
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
