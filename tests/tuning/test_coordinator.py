"""The coordinator: starts, budgets, goals, the guard, and what is wrong with a problem, a space or a sampler."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from merge_advisor.errors import InputError, SpecError
from merge_advisor.tuning import Ask, Point, Problem, Sampler, SearchSpace, Trial
from merge_advisor.tuning.coordinator import FLAT_TRIALS, STUCK, search
from merge_advisor.tuning.goals import (
    LARGEST_LOSS,
    best_trial,
    best_trials,
    clipped_losses,
    goal_named,
    may_win,
    mean_losses,
    unfit_reason,
)
from merge_advisor.tuning.samplers.gradient import GradientSampler
from merge_advisor.tuning.settings import Budget, SearchProgress, SearchResult, SearchSettings, start_points
from tests.support.coordinator_world import MEMBERS, SPACE, STARTS, Bowls, Listed, Wander, best, losses_of

TWO = [0] * 6 + [1] * 3


def find(
    problem: Problem | None = None,
    sampler: Sampler | None = None,
    *,
    space: SearchSpace = SPACE,
    goal: str = "mean",
    budget: Budget | None = None,
    seed: int = 0,
    progress: SearchProgress | None = None,
    **more: Any,
) -> SearchResult:
    problem = problem or Bowls()
    settings = SearchSettings(
        goal_named(goal, problem.tasks), budget or Budget(trials=10), seed, **{"starts": STARTS, **more}
    )
    return search(problem, space, sampler or Wander(), settings, progress=progress)


class Fragile(Bowls):
    """Not finite where the first weight is beyond 1, or where the base is."""

    def __init__(self, value: float, always: bool = False) -> None:
        super().__init__()
        self.value, self.always = value, always

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        bad = self.always or point.weights[0] > 1
        return [
            self.value if bad and row == 3 else loss
            for row, loss in zip(rows, super().losses(point, rows), strict=True)
        ]


def test_the_starts() -> None:
    assert [label for label, _ in STARTS] == ["plan", "uniform", "anchor", "base"]
    assert [point.weights for _, point in STARTS] == [(0.5, 0.3, 0.2), (1 / 3,) * 3, (1, 0, 0), (0, 0, 0)]
    found = find()
    assert [trial.label for trial in found.trials] == ["plan", "uniform", "anchor", "base", *["wander"] * 6]
    assert [trial.number for trial in found.trials] == list(range(10)) and found.stopped == "10 trials done"
    assert found.trials[4].notes == {"step": 0.4}


def test_equal_starts_cost_once() -> None:
    alone = replace(SPACE, start=Point((1.0,), "exact"))
    problem = Bowls()
    problem.members, problem.bottoms = ("math",), problem.bottoms[:, :1]
    found = find(problem, space=alone, starts=start_points(alone, 1), budget=Budget(trials=4))
    assert [trial.forwards for trial in found.trials] == [20, 0, 0, 20]
    assert len({trial.values for trial in found.trials[:3]}) == 1


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, "needs a budget"),
        ({"trials": 0}, "a budget of 0 trials allows nothing"),
        ({"forwards": 0}, "a budget of 0 forwards"),
        ({"seconds": 0.0}, "a budget of 0 seconds"),
        ({"trials": -3}, "a budget of -3 trials"),
        ({"seconds": math.nan}, "a budget of nan seconds"),
    ],
)
def test_budgets_that_allow_nothing(limits: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Budget(**limits)


def test_a_trial_that_goes_over_the_forwards_is_not_begun() -> None:
    found = find(budget=Budget(forwards=119), racing=None)
    assert len(found.trials) == 5 and "100 of 119 forwards done, and a trial takes up to 20" in found.stopped
    found = find(budget=Budget(forwards=119), guard=25)
    spent = sum(trial.forwards for trial in found.trials)
    assert 74 < spent <= 119, "a question to the guard has to fit as well"
    for rows, cost in (((4,), 22), ((0, 5, 19), 26), (tuple(range(20)), 60)):
        asked = Listed(((0.1, 0.1, 0.1),), gradient=rows)
        assert len(find(sampler=asked, budget=Budget(forwards=79 + cost)).trials) == 4
        assert find(sampler=asked, budget=Budget(forwards=80 + cost)).trials[4].forwards == cost
    assert find(budget=Budget(forwards=19)).trials == ()


def test_seconds() -> None:
    found = find(Bowls(pause=0.02), budget=Budget(seconds=0.2))
    assert 1 <= len(found.trials) <= 12 and found.stopped == "0.2 seconds are over"


def test_forwards_count_what_a_row_costs() -> None:
    problem = Bowls()
    problem.forwards = 3
    assert find(problem).trials[0].forwards == 60


def test_the_same_seed_the_same_search() -> None:
    assert find() == find() != find(seed=1)


def test_progress() -> None:
    told = []
    find(budget=Budget(trials=6, forwards=10_000), progress=lambda *args: told.append(args))
    assert [args[:2] for args in told] == [(number, 6) for number in range(1, 7)]
    values = [args[2] for args in told]
    assert values == sorted(values, reverse=True) and all(args[3] >= 0 for args in told) and told[-1][3] == 0
    find(budget=Budget(seconds=30, trials=None, forwards=100), progress=lambda *args: told.append(args))
    assert told[-1][1] is None and 0 <= told[-1][3] <= 30
    find(Bowls(tasks=TWO), goal="pareto", progress=lambda *args: told.append(args))
    assert told[-1][2] is None


def test_mean_is_over_tasks_and_not_over_rows() -> None:
    trial = find(Bowls(tasks=TWO)).trials[0]
    assert trial.values[0] == pytest.approx((np.mean(losses_of(trial)[:6]) + np.mean(losses_of(trial)[6:])) / 2)


@pytest.mark.parametrize("given", [STARTS, STARTS[:2]])
def test_worst_is_relative_to_the_base_which_goes_first(given: Sequence[tuple[str, Point]]) -> None:
    found = find(Bowls(tasks=TWO), goal="worst", starts=given)
    first = found.trials[0]
    assert first.label == "base" and first.values == (1.0,) and found.trials[1].label == "plan"
    plan = found.trials[1]
    shares = mean_losses(plan.losses, TWO) / mean_losses(first.losses, TWO)
    assert plan.values == pytest.approx((shares.max(),))


def test_worst_does_not_divide_by_a_base_without_loss() -> None:
    assert goal_named("worst", [0, 1]).values(np.array([0.1, 1.0]), (1,), np.array([0.0, 2.0])) == (2.0,)


def test_lorahub_divides_twice_and_clean_once() -> None:
    weights, mean = (0.5, -1.0, 0.0), np.array([3.0])
    assert goal_named("lorahub", [0] * 5).values(mean, weights, None)[0] == pytest.approx(3 / 5 + 0.05 * 0.5)
    assert goal_named("lorahub-clean", [0] * 5).values(mean, weights, None)[0] == pytest.approx(3 + 0.05 * 0.5)


def test_pareto_has_a_value_for_each_task_and_a_front() -> None:
    found = find(Bowls(tasks=TWO), goal="pareto", budget=Budget(trials=30))
    for trial in found.trials:
        losses = losses_of(trial)
        assert trial.values == pytest.approx((np.mean(losses[:6]), np.mean(losses[6:])))
    able = best_trials(found.trials)
    for one in able:
        assert not any(a.values[0] < one.values[0] and a.values[1] < one.values[1] for a in found.trials)
    assert min(found.trials, key=lambda t: t.values[0]) in able and min(found.trials, key=lambda t: t.values[1]) in able


def test_goals_that_are_none() -> None:
    with pytest.raises(SpecError, match="goal 'pareto' weighs tasks against each other and there is one"):
        goal_named("pareto", [0, 0])
    with pytest.raises(SpecError, match="goal 'best' is unknown; choose one of: mean, worst, pareto"):
        goal_named("best", [0])
    with pytest.raises(SpecError, match="no one gradient"):
        find(Bowls(tasks=TWO), GradientSampler(), goal="pareto")


@pytest.mark.parametrize("goal", ["mean", "worst", "lorahub", "lorahub-clean", "pareto"])
def test_a_gradient_is_that_of_its_rows(goal: str) -> None:
    problem, at = Bowls(tasks=TWO), (0.7, -0.3, 0.2)
    found = find(problem, Listed((at,), gradient=(7, 1, 7)), goal=goal, budget=Budget(trials=5))
    trial = found.trials[4]
    plain = find(problem, Listed((at,)), goal=goal, budget=Budget(trials=5), racing=None).trials[4]
    assert trial.gradient == pytest.approx(problem.gradient(trial.point, [1, 7])[1]) and trial.sloped == (1, 7)
    assert trial.losses == plain.losses and trial.values == plain.values and trial.forwards == len(TWO) + 4
    assert (found.trials[0].gradient, found.trials[0].sloped) == (None, ())


@pytest.mark.parametrize("rows", [(-1,), (3, 20)])
def test_a_gradient_on_rows_there_are_not(rows: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=r"sampler 'listed': it asks for the gradient on rows \(.*\) of 20, from 0"):
        find(sampler=Listed(((0.1, 0.1, 0.1),), gradient=rows))


def test_samplers_are_told_what_rows_make_a_trial_worth() -> None:
    spaces = []

    class Curious(Listed):
        def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
            spaces.append(space)
            return super().ask(space, history, seed)

    find(Bowls(tasks=TWO), Curious(((0.1, 0.1, 0.1),)), goal="worst", budget=Budget(trials=5))
    assert spaces[0].tasks == tuple(TWO) and spaces[0].goal == goal_named("worst", TWO)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_never_wins(value: float) -> None:
    points = (*(point.weights for _, point in STARTS), (1.1, 0.0, 0.0), (0.9, -0.2, 0.4))
    found = find(Fragile(value), Listed(points), budget=Budget(trials=6), racing=None)
    broken = found.trials[4]
    assert unfit_reason(broken) == "a loss is not finite" and not may_win(broken)
    assert broken.losses[3] == LARGEST_LOSS and math.isfinite(broken.values[0]) and broken.values[0] > 100
    assert best_trial(found.trials) == found.trials[5]
    asked = find(Fragile(value), Listed(points, gradient=(0, 3)), budget=Budget(trials=6)).trials[4]
    assert unfit_reason(asked) and all(math.isfinite(slope) for slope in asked.gradient or (math.nan,))


def test_a_trial_that_is_not_finite_stops_at_once() -> None:
    points = (*(point.weights for _, point in STARTS), (1.1, 0.0, 0.0))
    trial = find(Fragile(math.nan), Listed(points), budget=Budget(trials=5), seed=4).trials[4]
    assert not trial.whole and trial.forwards < 20 and unfit_reason(trial) and math.isfinite(trial.values[0])


def test_finite() -> None:
    assert clipped_losses([1.5, -2.0]) == ([1.5, -2.0], True)
    assert clipped_losses([1e300, math.nan]) == ([LARGEST_LOSS, LARGEST_LOSS], False)


def test_nothing_is_finite() -> None:
    found = find(Fragile(math.nan, always=True), budget=Budget(trials=40))
    assert (
        found.stopped == f"{FLAT_TRIALS} merges and none is fit: a loss is not finite"
        and best_trial(found.trials) is None
    )


def test_a_constant_objective_ends_early() -> None:
    class Flat(Bowls):
        def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
            return [0.5] * len(rows)

    found = find(Flat(), budget=Budget(trials=60))
    assert found.stopped == f"the objective is constant: {FLAT_TRIALS} merges of value 0.5"
    assert len(found.trials) == FLAT_TRIALS


def test_a_sampler_that_asks_for_the_same_costs_nothing_and_ends() -> None:
    problem = Bowls()
    found = find(problem, Listed(((0.1, 0.1, 0.1),)), budget=Budget(forwards=10_000), racing=None)
    assert found.stopped == "the sampler asks for nothing new"
    assert len(found.trials) == len(STARTS) + 1 + STUCK and sum(trial.forwards for trial in found.trials) == 100
    assert found.trials[-1].values == found.trials[4].values


def test_a_gradient_is_measured_where_the_merge_was_tried_without() -> None:
    points = (*(point.weights for _, point in STARTS), (0.5, 0.3, 0.2))
    found = find(sampler=Listed(points, gradient=(2, 11)), budget=Budget(trials=6))
    assert [trial.forwards for trial in found.trials[4:]] == [24, 0]
    assert found.trials[4].gradient == found.trials[5].gradient != None  # noqa: E711
    assert found.trials[4].values == found.trials[0].values


class Guarded(Bowls):
    """The guard allows a first weight up to `limit`."""

    def __init__(self, limit: float, **more: Any) -> None:
        super().__init__(**more)
        self.limit = limit
        self.asked: list[Point] = []

    def guard(self, point: Point) -> float:
        self.asked.append(point)
        return point.weights[0] - self.limit


def test_the_guard_is_asked_for_the_best_so_far_only() -> None:
    problem = Guarded(0.6)
    found = find(problem, budget=Budget(trials=40), guard=7)
    rows = [sum(loss is not None for loss in trial.losses) for trial in found.trials]
    asked = [trial for trial, seen in zip(found.trials, rows, strict=True) if trial.forwards > seen]
    assert [trial.point for trial in asked] == problem.asked and 1 < len(asked) < 20
    assert all(trial.forwards == seen + 7 for trial, seen in zip(found.trials, rows, strict=True) if trial in asked)
    broken = [trial for trial in found.trials if unfit_reason(trial)]
    assert broken and all(trial.point.weights[0] > 0.6 for trial in broken)
    for trial in broken:
        ahead = best(found.trials[: trial.number])
        assert trial.values[0] == pytest.approx(ahead.values[0] + trial.point.weights[0] - 0.6)
        assert unfit_reason(trial).startswith("the guard is broken by 0.")
    assert best(found.trials).point.weights[0] <= 0.6
    assert find(problem, budget=Budget(trials=40)).trials[4].forwards <= 20


def test_a_plan_that_breaks_the_guard_and_the_base_that_cannot() -> None:
    problem = Guarded(-1.0)
    found = find(problem, guard=7, budget=Budget(trials=30))
    plan = found.trials[0]
    assert unfit_reason(plan) and plan.values[0] == pytest.approx(np.mean(losses_of(plan)) + 1.5)
    assert best_trial(found.trials) == found.trials[3] or best(found.trials).point.weights[0] <= -1
    assert found.trials[3].point not in problem.asked


def test_the_guard_on_a_front() -> None:
    problem = Guarded(0.4, tasks=TWO)
    found = find(problem, goal="pareto", guard=7, budget=Budget(trials=40))
    broken = [trial for trial in found.trials if unfit_reason(trial)]
    assert broken and all(trial.point.weights[0] <= 0.4 for trial in best_trials(found.trials))
    for trial in broken[1:]:
        worst = np.max([other.values for other in best_trials(found.trials[: trial.number])] or [trial.values], axis=0)
        assert (np.array(trial.values) >= worst).all()


@dataclass(frozen=True)
class Odd:
    """Asks for what it is made with."""

    what: Ask

    name: ClassVar[str] = "odd"
    searches: ClassVar[frozenset[str]] = frozenset({"density", "layers"})
    cost: ClassVar[str] = "nothing"

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        return self.what


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (Ask(Point((1.0,), "exact")), "sampler 'odd': .* is no merge of 3 members"),
        (Ask(Point((1.0, math.nan, 0.0), "exact")), "is no merge of 3 members"),
        (Ask(Point((1.0, 0.0, 0.0), "exact", (1.0,))), "is no merge of 3 members"),
        (Ask(Point((1.0, 0.0, 0.0), "ties")), "composition 'ties' is not in the space; choose: exact"),
        (Ask(Point((1.0, 0.5, 0.0), "exact"), notes={"x": object()}), "its notes cannot be kept as JSON"),
        (Ask(Point((1.0, 0.5, 0.0), "exact"), notes={"x": math.inf}), "its notes cannot be kept as JSON"),
    ],
)
def test_asks_that_are_no_merge(ask: Ask, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        find(sampler=Odd(ask))


def test_notes_and_numbers_are_as_read_back() -> None:
    ask = Ask(Point(tuple(np.array([0.1, 0.2, 0.3], np.float32)), "exact"), notes={"pair": (1, 2), "unfit": "no"})
    trial = find(sampler=Odd(ask)).trials[4]
    assert trial.notes == {"pair": [1, 2]} and all(type(weight) is float for weight in trial.point.weights)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"compositions": ("exact", "ties")}, "sampler 'wander' cannot search composition"),
        ({"members": True, "layers": 2}, "cannot search members, layers"),
        ({"density": (0.1, 0.9)}, "cannot search density"),
    ],
)
def test_a_space_the_sampler_cannot_search(change: dict[str, Any], told: str) -> None:
    problem = Bowls()
    with pytest.raises(SpecError, match=told):
        find(problem, space=replace(SPACE, **change))
    assert not problem.seen
    assert len(find(problem, space=replace(SPACE, compositions=("exact",), scale=(0.5, 2.0))).trials) == 10


def test_one_row_and_none() -> None:
    assert len(find(Bowls(rows=1)).trials) == 10
    with pytest.raises(InputError, match="no rows to tune on"):
        find(Bowls(tasks=[]))


def test_members_that_are_all_the_same() -> None:
    class Same(Bowls):
        def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
            gap = sum(point.weights) - 0.8
            return [gap * gap + 0.1 * row for row in rows]

    found = find(Same(), budget=Budget(trials=40))
    assert best(found.trials).values[0] < found.trials[0].values[0] and len(MEMBERS) == 3
