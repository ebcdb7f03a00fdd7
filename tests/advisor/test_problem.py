"""The problem `tune` searches: losses of merges on rows, and their slopes in the weights."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.searching.problem import RowLossProblem, make_problem
from merge_advisor.compose.mask_cache import MaskCache
from merge_advisor.errors import SpecError, TaskError
from merge_advisor.merges import WeightedMerge
from merge_advisor.tuning import Point
from merge_advisor.types import Row

ROWS = [Row("say yes", "yes"), Row("the cat", "sat on the mat"), Row("a dog, no?", "no"), Row("fox", "jumps over")]


@pytest.fixture
def session(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> Iterator[Session]:
    with open_session(str(tiny_llama), str(tiny_pool), cache=tmp_path, template="plain") as found:
        yield found


def problem_of(session: Session, k: int = 3, **others: Any) -> RowLossProblem:
    return RowLossProblem(session.meter, session.pool.candidates[:k], ROWS, (0,) * len(ROWS), **others)


def test_losses_are_those_of_the_merge(session: Session) -> None:
    problem = problem_of(session)
    merge = WeightedMerge(tuple(zip(session.pool.candidates[:3], (0.5, 0.0, -0.25), strict=True)))
    wanted = session.meter.losses(merge, ROWS)
    assert problem.members == tuple(candidate.id for candidate in merge.candidates)
    assert problem.losses(Point((0.5, 0.0, -0.25), "exact"), [2, 0]) == pytest.approx([wanted[2], wanted[0]], rel=1e-5)
    base = problem.losses(Point((0.0, 0.0, 0.0), "exact"), [0, 1, 2, 3])
    assert base == pytest.approx(session.meter.losses(WeightedMerge(), ROWS), rel=1e-5)


def test_what_was_measured_is_not_measured_again(session: Session) -> None:
    problem, point = problem_of(session), Point((0.5, 0.1, 0.2), "exact")
    first = problem.losses(point, [0, 1]), problem.gradient(point, [0, 1])[1].tolist()
    hits, misses = session.memo.hits, session.memo.misses
    assert (problem.losses(point, [0, 1]), problem.gradient(point, [0, 1])[1].tolist()) == first
    assert (session.memo.hits, session.memo.misses) == (hits + 2, misses)
    problem.losses(Point((0.5, 0.1, 0.2), "exact", (1.0, 0.5)), [0, 1])
    problem.losses(Point((0.5, 0.1, 0.2), "lorahub"), [0, 1])
    assert session.memo.misses == misses + 2


def test_masks_of_two_compositions_are_kept_for_the_next_trial(session: Session) -> None:
    """A search over densities has a new composition for each trial and must not keep them all."""
    problem = problem_of(session)
    specs = [f"ties:density={density}" for density in (0.2, 0.4, 0.6)]
    found = [problem.losses(Point((0.5, 0.1, weight), spec), [0, 1]) for spec in specs for weight in (0.2, 0.3)]
    assert len({tuple(losses) for losses in found}) == 6
    assert list(session.weights._rules) == specs[1:]
    updates = [update for candidate in problem.candidates for update in session.weights.of(candidate).values()]
    kept = session.weights._rules[specs[2]]
    assert isinstance(kept, MaskCache)
    assert kept.bytes == sum(math.prod(update.shape) for update in updates) // 8
    merge = WeightedMerge(tuple(zip(problem.candidates, (0.5, 0.1, 0.3), strict=True)), specs[2])
    alone = session.weights.merged(merge)
    for name, update in session.weights.merged(merge, repeated=True).items():
        np.testing.assert_array_equal(update.dense(), alone[name].dense())


@pytest.mark.parametrize("composition", ["exact", "lorahub"])
@pytest.mark.parametrize("layers", [(), (1.0, 0.5)])
def test_slopes_are_finite_differences(session: Session, composition: str, layers: tuple[float, ...]) -> None:
    problem, rows, step = problem_of(session), [0, 1, 2, 3], 1e-2
    weights = (0.4, -0.2, 0.3)
    losses, slopes = problem.gradient(Point(weights, composition, layers), rows)
    assert losses == pytest.approx(problem.losses(Point(weights, composition, layers), rows), rel=1e-4)
    for place in range(3):
        ends = []
        for sign in (-1, 1):
            moved = [w + sign * step * (i == place) for i, w in enumerate(weights)]
            ends.append(np.mean(problem.losses(Point(tuple(moved), composition, layers), rows)))
        assert slopes[place] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=0.03, abs=2e-3)


def test_no_weight_has_a_slope_where_lorahub_starts(session: Session) -> None:
    """0 is a stationary point of a product of sums."""
    assert problem_of(session).gradient(Point((0.0, 0.0, 0.0), "lorahub"), [0, 1])[1].tolist() == [0, 0, 0]


def test_choices_have_losses_and_slopes_of_their_own(session: Session) -> None:
    choices = ("yes", "no")
    rows = [replace(row, output=choices[place % 2], choices=choices) for place, row in enumerate(ROWS)]
    problem = make_problem(session.meter, session.pool.candidates[:2], rows, (0,) * len(rows), "choices")
    point, step = Point((0.3, -0.2), "exact"), 1e-2
    losses, slopes = problem.gradient(point, range(len(rows)))
    np.testing.assert_allclose(losses, problem.losses(point, range(len(rows))), atol=1e-4)
    merge = WeightedMerge(tuple(zip(problem.candidates, point.weights, strict=True)))
    wanted = session.meter.losses(merge, rows, "choices")
    np.testing.assert_allclose(losses, wanted, atol=1e-4)
    for place in range(2):
        ends = []
        for sign in (1, -1):
            weights = list(point.weights)
            weights[place] += sign * step
            ends.append(np.mean(problem.losses(Point(tuple(weights), "exact"), range(len(rows)))))
        assert slopes[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.05, abs=2e-3)
    with pytest.raises(TaskError, match="has no choices to choose by"):
        make_problem(session.meter, session.pool.candidates[:2], ROWS, (0,) * len(ROWS), "choices")


def test_a_composition_without_a_gradient_says_so(session: Session) -> None:
    with pytest.raises(SpecError, match="no gradient"):
        problem_of(session).gradient(Point((0.4, 0.3, 0.3), "ties"), [0])


def test_weights_far_too_large_are_finite_and_bad(session: Session) -> None:
    losses = problem_of(session).losses(Point((1e30, 1e30, 0.0), "exact"), [0, 1])
    assert np.isfinite(losses).all()


def test_the_guard_is_what_the_merge_costs_elsewhere(session: Session) -> None:
    texts = ["the quick brown fox jumps over the lazy dog", "a cat sat on the mat"]
    point = Point((1.0, 1.0, 1.0), "exact")
    cost = problem_of(session, guard_texts=texts, allowed=0.0).guard(point)
    assert problem_of(session, guard_texts=texts, allowed=0.1).guard(point) == pytest.approx(cost - 0.1)
    base = Point((0.0, 0.0, 0.0), "exact")
    assert problem_of(session, guard_texts=texts, allowed=0.0).guard(base) == pytest.approx(0, abs=1e-6)
    assert problem_of(session).guard(point) == 0 != cost
