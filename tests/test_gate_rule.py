"""The gate's rule: what passes, what fails, what cannot be told, and how many rows would tell."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom

from merge_advisor.errors import InputError
from merge_advisor.gate_options import GateOptions, WatchOptions
from merge_advisor.gate_rule import decide_gate
from merge_advisor.gate_values import GateCheck, GateOutcome, overall_outcome
from merge_advisor.statistics import paired_interval, strict_interval

PASSED, FAILED, CANNOT_TELL = GateOutcome.PASSED, GateOutcome.FAILED, GateOutcome.CANNOT_TELL


def counts(won: int, lost: int, rows: int) -> list[float]:
    return [1.0] * won + [-1.0] * lost + [0.0] * (rows - won - lost)


@pytest.mark.parametrize(
    ("values", "outcome", "said"),
    [
        (counts(0, 0, 80), PASSED, "passed: +0.0 points (-4.6 to +4.6) on 80 rows, above the margin, -5.0, beyond"),
        (counts(0, 0, 60), CANNOT_TELL, "about 73 rows would decide"),
        (counts(2, 30, 80), FAILED, "failed: worse, -35.0 points"),
        (counts(0, 20, 1000), PASSED, "it is worse beyond noise, by less than the margin"),
        (counts(9, 0, 20), CANNOT_TELL, "and at least 30 decide"),
        (counts(0, 4, 80), CANNOT_TELL, "at this difference no number of rows would decide"),
    ],
)
def test_one_bar_decides_right_or_wrong_rows(values: Sequence[float], outcome: GateOutcome, said: str) -> None:
    decided = decide_gate(values, "accuracy", GateOptions())
    assert decided.outcome == outcome and said in decided.reason


def test_a_gain_that_is_demanded_is_the_bar_of_tasks_and_of_no_guard() -> None:
    demands = GateOptions(min_gain=2.0)
    assert decide_gate(counts(0, 0, 800), "accuracy", demands).outcome == FAILED
    assert "no such gain" in decide_gate(counts(0, 0, 800), "accuracy", demands).reason
    assert decide_gate(counts(20, 0, 80), "accuracy", demands).outcome == PASSED
    assert decide_gate([0.0, 1e-4] * 40, "loss", demands, guard=True).outcome == PASSED
    assert decide_gate([0.0, 1e-4] * 40, "loss", GateOptions(min_gain=0.0)).outcome == PASSED


def test_losses_are_held_against_their_own_margin() -> None:
    rng = np.random.default_rng(0)
    worse = (rng.normal(0, 0.01, 60) - 0.1).tolist()
    assert decide_gate(worse, "loss", GateOptions()).outcome == FAILED
    assert decide_gate(worse, "loss", GateOptions(loss_margin=0.2)).outcome == PASSED
    assert decide_gate(worse, "loss", GateOptions(loss_margin=0.2)).bar == -0.2


def test_the_rows_it_names_do_decide() -> None:
    for won, lost in ((0, 0), (2, 3), (4, 4), (1, 9)):
        needed = decide_gate(counts(won, lost, 40), "accuracy", GateOptions()).rows_to_decide
        if needed is None:
            assert decide_gate(counts(won, lost, 40), "accuracy", GateOptions()).outcome != CANNOT_TELL
            continue
        often = -(-needed // 40)
        more = counts(won * often, lost * often, 40 * often)
        assert decide_gate(more, "accuracy", GateOptions()).outcome != CANNOT_TELL, (won, lost, needed)


@pytest.mark.parametrize(("rows", "telling"), list(product((40, 80, 150), (0.05, 0.2))))
def test_a_candidate_worse_by_the_margin_passes_once_in_forty_times_at_most(rows: int, telling: float) -> None:
    """Exactly: over all numbers of wins and losses. The adjusted Wald interval alone lets up to 6% through."""
    chance, margin = 0.0, 0.05
    for number in range(rows + 1):
        likely = float(binom.pmf(number, rows, telling))
        if likely < 1e-9:
            continue
        for won, share in enumerate(binom.pmf(np.arange(number + 1), number, (telling - margin) / (2 * telling))):
            if likely * share > 1e-9 and strict_interval(counts(won, number - won, rows), counts=True).lower > -margin:
                chance += likely * float(share)
    assert chance <= 0.026


def test_the_strict_interval_holds_the_paired_one() -> None:
    for won, lost in ((0, 0), (0, 12), (12, 0), (40, 0), (7, 5), (20, 20)):
        values = counts(won, lost, 40)
        strict, plain = strict_interval(values), paired_interval(values)
        assert strict.lower <= plain.lower <= plain.mean <= plain.upper <= strict.upper
        mirrored = strict_interval([-value for value in values])
        assert mirrored.lower == pytest.approx(-strict.upper) and mirrored.upper == pytest.approx(-strict.lower)
    real = [0.1, -0.2, 0.05, 0.4]
    assert strict_interval(real) == paired_interval(real)


@pytest.mark.parametrize(("won", "lost"), [(0, 1), (3, 14), (9, 2), (0, 20)])
def test_away_from_0_its_end_is_where_a_score_test_turns(won: int, lost: int) -> None:
    """With the likeliest shares under the truth found by search, not by Tango's formula."""
    rows = 44
    lower = strict_interval(counts(won, lost, rows)).lower

    def statistic(truth: float) -> float:
        def unlikely(share: float) -> float:
            parts = ((won, share + truth), (lost, share), (rows - won - lost, 1 - 2 * share - truth))
            return -sum(number * math.log(max(chance, 1e-300)) for number, chance in parts if number)

        ends = (max(0.0, -truth), (1 - truth) / 2)
        share = minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-10}).x
        return float((won - lost - rows * truth) / math.sqrt(rows * (2 * share + truth * (1 - truth))))

    score_end = brentq(lambda truth: statistic(truth) - 1.959964, -0.999, (won - lost) / rows - 1e-6)
    assert lower == pytest.approx(min(score_end, paired_interval(counts(won, lost, rows)).lower), abs=1e-4)


def test_a_failure_wins_over_what_cannot_be_told() -> None:
    def check(outcome: GateOutcome) -> GateCheck:
        return GateCheck("t", "task", "loss", 40, -0.05, outcome, "")

    assert overall_outcome([check(PASSED), check(CANNOT_TELL), check(FAILED)]).exit_code == 1
    assert overall_outcome([check(CANNOT_TELL), check(PASSED)]).exit_code == 4
    assert overall_outcome([check(PASSED)]).exit_code == 0


@pytest.mark.parametrize(
    "given", [{"margin": 0.0}, {"margin": 100.0}, {"loss_margin": -1.0}, {"min_gain": -1.0}, {"min_rows": 1},
              {"margin": float("nan")}],
)  # fmt: skip
def test_margins_that_mean_nothing_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        GateOptions(**given)  # type: ignore[arg-type]


def test_once_goes_with_a_pool() -> None:
    with pytest.raises(InputError, match="go with `watch`"):
        WatchOptions(once=True)
    with pytest.raises(InputError, match="every=0"):
        WatchOptions(watch="pool", every=0.0)
