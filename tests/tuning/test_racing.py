"""Racing: rows in a fixed balanced order, hopeless trials stop, nothing that may win is raced away for nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from merge_advisor.tuning import Point, Problem, Sampler, Trial
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import goal_named, may_win, mean_losses
from merge_advisor.tuning.racing import Race, Racing, row_order
from merge_advisor.tuning.settings import Budget, SearchSettings
from tests.support.coordinator_world import SPACE, STARTS, Bowls, Listed, Wander, best

LEVEL = Racing().level


def find(problem: Problem, sampler: Sampler, trials: int, goal: str = "mean", **more: Any) -> tuple[Trial, ...]:
    settings = SearchSettings(goal_named(goal, problem.tasks), Budget(trials=trials), 0, starts=STARTS, **more)
    return search(problem, SPACE, sampler, settings).trials


def whole(
    losses: Sequence[float] | NDArray[np.float64], values: Sequence[float], weights: tuple[float, ...] = (1.0, 0.0)
) -> Trial:
    return Trial(0, "plan", Point(weights, "exact"), tuple(losses), tuple(values), True, len(losses))


@given(some.lists(some.integers(1, 30), min_size=1, max_size=4), some.integers(0, 5))
def test_every_prefix_of_the_order_is_balanced(sizes: list[int], seed: int) -> None:
    tasks = [task for task, size in enumerate(sizes) for _ in range(size)]
    order = row_order(tasks, seed)
    assert sorted(order) == list(range(len(tasks))) and order == row_order(tasks, seed)
    for seen in range(1, len(order) + 1):
        counts = np.bincount([tasks[row] for row in order[:seen]], minlength=len(sizes))
        assert np.abs(counts - np.array(sizes) * seen / len(order)).max() <= len(sizes) / 2 + 0.5


def test_the_order_hangs_on_the_seed_within_a_task() -> None:
    assert row_order([0] * 20, 0) != row_order([0] * 20, 1)
    assert row_order([0] * 20, 0) != list(range(20))


@pytest.mark.parametrize(
    ("rows", "looks"), [(1, [1]), (5, [5]), (10, [5, 10]), (20, [5, 10, 20]), (23, [5, 10, 20, 23])]
)
def test_rungs(rows: int, looks: list[int]) -> None:
    assert Racing(first=5).rungs(rows) == looks


@given(some.sampled_from(["mean", "worst", "lorahub"]), some.integers(0, 1000))
@settings(deadline=None)
def test_an_estimate_from_all_rows_is_the_value(goal: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks = [0, 1, 0, 0, 1, 0]
    judged = goal_named(goal, tasks)
    base, other, own = rng.uniform(0.1, 3, (3, 6))
    base = mean_losses(base, tasks)
    ahead = whole(other, judged.values(mean_losses(other, tasks), (1, 0), base))
    shown = Race(judged, tasks, ahead, base).standing(own.tolist(), (0.5, 0.5), LEVEL)
    assert shown.value == pytest.approx(judged.values(mean_losses(own, tasks), (0.5, 0.5), base)[0])
    assert shown.lost == (shown.value > ahead.values[0])


def test_an_estimate_is_the_best_one_plus_the_paired_difference() -> None:
    other = np.array([1.0, 5.0, 2.0, 7.0, 3.0, 0.0])
    ahead = whole(other, [other.mean()])
    losses = [1.4, None, 2.6, None, 3.5, None]
    shown = Race(goal_named("mean", [0] * 6), [0] * 6, ahead).standing(losses, (0, 1), LEVEL)
    assert shown.value == pytest.approx(3.0 + 0.5) and shown.lost
    assert (
        not Race(goal_named("mean", [0] * 6), [0] * 6, ahead)
        .standing([0.4, None, 2.6, None, 3.5, None], (0, 1), LEVEL)
        .lost
    )


def test_tasks_weigh_the_same_however_many_rows_they_have() -> None:
    tasks = [0] * 8 + [1] * 2
    ahead = whole(np.ones(10), [1.0])
    losses = [1.1, 1.1, 1.1, 1.1, None, None, None, None, 3.0, None]
    shown = Race(goal_named("mean", tasks), tasks, ahead).standing(losses, (0, 1), LEVEL)
    assert shown.value == pytest.approx(1 + (0.1 + 2.0) / 2)


def test_a_hopeless_trial_stops_early_and_a_better_one_does_not() -> None:
    problem = Bowls(rows=40)
    far, near = (3.0, 3.0, -3.0), (0.9, -0.2, 0.4)
    points = (*(point.weights for _, point in STARTS), far, near)
    trials = find(problem, Listed(points), 6)
    assert [trial.whole for trial in trials] == [True, True, True, True, False, True]
    lost = trials[4]
    assert lost.forwards == 40 - lost.losses.count(None) == 5
    ahead = best(trials[:4])
    seen = [row for row, loss in enumerate(lost.losses) if loss is not None]
    assert seen == sorted(row_order(problem.tasks, 0)[:5])
    differences = np.subtract(np.array(lost.losses, np.float64), np.array(ahead.losses, np.float64))
    paired = differences[seen].mean()
    assert lost.values[0] == pytest.approx(ahead.values[0] + paired)
    assert not may_win(lost) and best(trials) == trials[5]
    assert lost.values[0] == pytest.approx(np.mean(Bowls(rows=40).losses(lost.point, range(40))), rel=0.2)


def test_racing_saves_forwards_and_finds_as_good_a_merge() -> None:
    raced, run_out = find(Bowls(rows=40), Wander(), 40), find(Bowls(rows=40), Wander(), 40, racing=None)
    assert sum(trial.forwards for trial in raced) < 0.6 * sum(trial.forwards for trial in run_out) == 0.6 * 40 * 40
    assert best(raced).values[0] < min(trial.values[0] for trial in raced[:4])


def test_starts_gradients_and_pareto_searches_are_not_raced() -> None:
    far = ((3.0, 3.0, -3.0),)
    assert all(trial.whole for trial in find(Bowls(rows=40), Listed(far, gradient=(3,)), 6))
    two = Bowls(tasks=[0, 1] * 20)
    assert all(trial.whole for trial in find(two, Wander(), 12, goal="pareto"))
    hard = tuple(("far", replace(SPACE.start, weights=(2.0 + n, 2.0, 2.0))) for n in range(4))
    settings = SearchSettings(goal_named("mean", [0] * 40), Budget(trials=4), seed=0, starts=hard)
    found = search(Bowls(rows=40), SPACE, Wander(), settings)
    assert all(trial.whole for trial in found.trials)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_are_not_raced(rows: int) -> None:
    problem = Bowls(rows=rows)
    assert all(trial.whole for trial in find(problem, Wander(), 15))
    assert all(len(seen) == rows for _, seen in problem.seen)


@pytest.mark.parametrize("goal", ["worst", "lorahub", "lorahub-clean"])
def test_other_goals_are_raced(goal: str) -> None:
    trials = find(Bowls(tasks=[0] * 20 + [1] * 10), Wander(), 30, goal=goal)
    assert any(not trial.whole for trial in trials)
    assert all(trial.values[0] > best(trials).values[0] for trial in trials if not trial.whole)
