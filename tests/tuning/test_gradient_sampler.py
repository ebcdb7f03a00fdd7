"""The `gradient` sampler on functions whose minimum, slopes and cost are known."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from merge_advisor import registry
from merge_advisor.errors import SpecError
from merge_advisor.tuning import Point, Sampler, SearchSpace, Trial
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import goal_named, mean_losses
from merge_advisor.tuning.samplers.gradient import GradientSampler, deal_rows
from merge_advisor.tuning.settings import Budget, SearchSettings, start_points

Single = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]
"""A loss with its gradient."""
Rows = Callable[[NDArray[np.float64]], tuple[Any, Any]]
"""The losses of rows with their gradients; of one row, a loss with its gradient."""
Shape = Callable[[float], tuple[float, float]]
"""A function of a number with its slope."""

ES_TRIALS = 40


def parabola(k: int, condition: float, seed: int) -> Single:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(k, k)))
    curve = turn * np.geomspace(4, 4 / condition, k) @ turn.T
    least = np.clip(rng.normal(size=k) * 0.4, -1.4, 1.4)
    return lambda w: (1 + 0.5 * (w - least) @ curve @ (w - least), curve @ (w - least))


def valley(k: int, seed: int) -> Single:
    """Rosenbrock's, turned."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(k, k)))
    shift = 0.1 * rng.normal(size=k)

    def loss(w: NDArray[np.float64]) -> Any:
        z = 1.5 * turn.T @ (w - shift)
        bend, rest = z[1:] - z[:-1] ** 2, 0.8 - z[:-1]
        slope = np.zeros(k)
        slope[1:] += 10 * bend
        slope[:-1] -= 20 * bend * z[:-1] + 2 * rest
        return float(5 * bend @ bend + rest @ rest) / k, 1.5 * turn @ slope / k

    return loss


def product_of_sums(k: int, seed: int) -> Single:
    """LoraHub's composition, (Σ w b)(Σ w a), against a matrix: w and -w are equal, 0 is stationary."""
    rng = np.random.default_rng(seed)
    b, a = rng.normal(size=(k, 6, 3)), rng.normal(size=(k, 3, 6))
    wanted = np.zeros(k)
    wanted[rng.permutation(k)[:4]] = (0.6, 0.5, 0.4, 0.3)
    target = np.tensordot(wanted, b, 1) @ np.tensordot(wanted, a, 1) + 0.3 * rng.normal(size=(6, 6))

    def loss(w: NDArray[np.float64]) -> Any:
        left, right = np.tensordot(w, b, 1), np.tensordot(w, a, 1)
        off = left @ right - target
        slope = np.einsum("kcr,cr->k", b, off @ right.T) + np.einsum("krd,rd->k", a, left.T @ off)
        return float((off**2).mean()), slope * 2 / off.size

    return loss


def alike(make: Single, k: int, seed: int, *, rows: int = 5, shape: Shape = lambda value: (value, 1.0)) -> Rows:
    """Rows that differ in where they are least, by a tenth of a weight, and in how high they lie."""
    rng = np.random.default_rng([seed, 2])
    shifts, heights = 0.1 * rng.normal(size=(rows, k)), np.exp(0.5 * rng.normal(size=rows))

    def losses(w: NDArray[np.float64]) -> Any:
        found = [make(w - shift) for shift in shifts]
        shaped = [(*shape(value), slope) for value, slope in found]
        values = np.array([height * value for height, (value, _, _) in zip(heights, shaped, strict=True)])
        return values, np.array([h * outer * slope for h, (_, outer, slope) in zip(heights, shaped, strict=True)])

    return losses


def exponential(value: float) -> tuple[float, float]:
    """A loss that falls by factors: exp(2·(value - 1)) / 4, and its slope."""
    found = float(np.exp(2 * np.minimum(value - 1, 5.0))) / 4
    return found, 2 * found * (value < 6)


def space_of(k: int, **settings: Any) -> SearchSpace:
    return SearchSpace(Point((1 / k,) * k, "exact"), **settings)


def finished(
    history: Sequence[Trial],
    label: str,
    point: Point,
    loss: Rows,
    *,
    gradient: Sequence[int] = (),
    notes: Mapping[str, Any] | None = None,
    **fields: Any,
) -> list[Trial]:
    """The history with one more trial, on one row or on several."""
    told, slopes = loss(np.array(point.weights))
    told, slopes = np.atleast_1d(told), np.atleast_2d(slopes)
    slope = tuple(slopes[list(gradient)].mean(0).tolist()) if gradient else None
    new = Trial(
        len(history), label, point, tuple(told.tolist()), (float(told.mean()),), True, len(told) + 2 * len(gradient),
        gradient=slope, sloped=tuple(gradient), notes=notes or {},
    )  # fmt: skip
    return [*history, dataclasses.replace(new, **fields)]


def started(loss: Rows, space: SearchSpace) -> list[Trial]:
    k = len(space.start.weights)
    history = finished([], "plan", space.start, loss)
    history = finished(history, "anchor", Point((1.0,) + (0.0,) * (k - 1), "exact"), loss)
    return finished(history, "base", Point((0.0,) * k, "exact"), loss)


def searched(
    loss: Rows,
    space: SearchSpace,
    forwards: int,
    *,
    seed: int = 0,
    sampler: Sampler | None = None,
    history: list[Trial] | None = None,
    until: float = -np.inf,
) -> list[Trial]:
    """The history of a search that may spend so many forwards, starts not counted."""
    history = started(loss, space) if history is None else history
    sampler, spent = sampler or GradientSampler(), 0
    while spent < forwards and min((t.values[0] for t in history), default=np.inf) > until:
        ask = sampler.ask(space, history, seed)
        history = finished(history, "gradient", ask.point, loss, gradient=ask.gradient, notes=dict(ask.notes))
        spent += history[-1].forwards
    return history


def evolved(loss: Rows, space: SearchSpace, seed: int) -> float:
    """What a (1+1) evolution strategy reaches in 40 evaluations from the same best start."""
    rng = np.random.default_rng([seed, 1])
    best = min(started(loss, space), key=lambda t: t.values[0])
    x, value, width = np.array(best.point.weights), best.values[0], 0.3
    for _ in range(ES_TRIALS):
        y = np.clip(x + width * rng.normal(size=len(x)), *space.bounds)
        found = float(np.mean(loss(y)[0]))
        x, value, width = (y, found, 1.5 * width) if found < value else (x, value, width * 1.5**-0.25)
    return value


def softened(make: Any) -> Any:
    return lambda w: tuple(part / 5 + (place == 0) for place, part in enumerate(make(w)))


WORLDS = {
    "parabola 4": (4, lambda seed: alike(parabola(4, 1, seed), 4, seed), 40.0),
    "parabola 20": (20, lambda seed: alike(parabola(20, 1, seed), 20, seed), 33.8),
    "parabola 20/100": (20, lambda seed: alike(parabola(20, 100, seed), 20, seed), 30.0),
    "valley": (20, lambda seed: alike(valley(20, seed), 20, seed), 23.8),
    "products": (20, lambda seed: alike(product_of_sums(20, seed), 20, seed), 43.8),
    "exp. parabola": (20, lambda seed: alike(parabola(20, 100, seed), 20, seed, shape=exponential), 72.5),
    "exp. valley": (20, lambda seed: alike(softened(valley(20, seed)), 20, seed, shape=exponential), 25.0),
    "exp. products": (20, lambda seed: alike(softened(product_of_sums(20, seed)), 20, seed, shape=exponential), 95.0),
}
"""k, five rows, and the forwards that the gradient of all rows in every other trial took, in the mean of four seeds."""


@pytest.mark.parametrize(("k", "make", "before"), WORLDS.values(), ids=WORLDS)
def test_forwards_to_where_forty_evaluations_of_an_evolution_strategy_end(k: int, make: Any, before: float) -> None:
    needed = []
    for seed in range(4):
        loss, space = make(seed), space_of(k, tasks=(0,) * 5)
        aim = evolved(loss, space, seed)
        history = searched(loss, space, 60, seed=seed, until=aim)
        assert min(trial.values[0] for trial in history) <= aim
        needed.append(sum(trial.forwards for trial in history[3:]))
    assert np.mean(needed) <= min(0.15 * 5 * ES_TRIALS, before), needed


@pytest.mark.parametrize("k", [1, 4])
def test_a_parabola_is_solved(k: int) -> None:
    loss = parabola(k, 1 if k == 1 else 10, 3)
    assert min(t.values[0] for t in searched(loss, space_of(k), 40)) == pytest.approx(1, abs=1e-3)


def test_a_curved_valley_is_followed() -> None:
    history = searched(valley(4, 1), space_of(4), 60)
    assert min(t.values[0] for t in history) < 0.1 * min(t.values[0] for t in history[:3])


def test_the_gradient_at_the_best_start_comes_first_and_never_at_0() -> None:
    loss, space = parabola(4, 1, 0), space_of(4)
    history = [dataclasses.replace(t, values=(v,)) for t, v in zip(started(loss, space), (2.0, 1.5, 1.0), strict=True)]
    ask = GradientSampler().ask(space, history, 0)  # base has the least loss
    assert ask.gradient and ask.point == history[1].point


@pytest.mark.parametrize(("tasks", "sizes"), [((0,) * 5, [1] * 5), ((0,) * 12, [3, 3, 2, 2, 2]), ((0, 0), [1, 1])])
def test_parts_take_turns_and_no_point_comes_twice(tasks: tuple[int, ...], sizes: list[int]) -> None:
    loss = alike(product_of_sums(4, 0), 4, 0, rows=len(tasks))
    history = searched(loss, space_of(4, tasks=tasks), 8 * (len(tasks) + 2))
    own = [t for t in history if t.label == "gradient"]
    first = [t.sloped for t in own[: len(sizes)]]
    assert sorted(map(len, first), reverse=True) == sizes
    assert sorted(row for rows in first for row in rows) == list(range(len(tasks)))
    again = [t.sloped for t in own[len(sizes) :]]
    assert again[: len(sizes)] == first[: len(again)]
    points = [t.point for t in history[:3]] + [t.point for t in own[1:]]  # own[0] is a start, with its gradient
    assert len(set(points)) == len(points)


def test_parts_keep_to_their_task() -> None:
    tasks = (0, 1, 0, 0, 1, 0, 0, 0, 0, 0)
    parts = deal_rows(tasks, 3)
    assert sorted(len(part.rows) for part in parts) == [1, 1, 2, 3, 3] and parts != deal_rows(tasks, 4)
    assert all({tasks[row] for row in part.rows} == {part.task} for part in parts)
    assert [sum(part.share for part in parts if part.task == task) for task in (0, 1)] == pytest.approx([1, 1])
    assert len(deal_rows(tuple(range(8)), 0)) == 8


class Slanted:
    """Rows of two tasks whose best weights are apart."""

    members, forwards = ("math", "law", "code"), 1

    def __init__(self, tasks: tuple[int, ...]) -> None:
        self.tasks = tasks
        self.bottoms = np.array([[0.6, 0.0, 0.2], [0.0, 0.6, 0.2]])[list(tasks)]
        self.steep = np.array([1.0, 3.0])[list(tasks)]

    def losses(self, point: Point, rows: Sequence[int]) -> Any:
        return (0.2 + self.steep * ((np.array(point.weights) - self.bottoms) ** 2).sum(1))[list(rows)].tolist()

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], NDArray[np.float64]]:
        slopes = 2 * self.steep[:, None] * (np.array(point.weights) - self.bottoms)
        return self.losses(point, rows), slopes[list(rows)].mean(0)

    def guard(self, point: Point) -> float:
        return 0.0


def least(problem: Slanted, goal: str) -> float:
    """The goal's least value, by a search that knows no gradient."""
    from scipy.optimize import minimize

    judge, base = (
        goal_named(goal, problem.tasks),
        mean_losses(problem.losses(Point((0.0,) * 3, "exact"), range(5)), (0, 1, 0, 1, 0)),
    )

    def value(w: NDArray[np.float64]) -> float:
        weights = tuple(w.tolist())
        means = mean_losses(problem.losses(Point(weights, "exact"), range(5)), problem.tasks)
        return judge.values(means, weights, base)[0]

    found = minimize(
        value, [0.2, 0.3, 0.2], method="Nelder-Mead", options={"maxiter": 2000, "xatol": 1e-6, "fatol": 1e-9}
    )
    return float(found.fun)


@pytest.mark.parametrize("goal", ["mean", "worst", "lorahub", "lorahub-clean"])
def test_every_goal_of_one_value_is_met(goal: str) -> None:
    problem = Slanted((0, 1, 0, 1, 0))
    space = SearchSpace(Point((0.2, 0.2, 0.2), "exact"))
    start = start_points(space, 3)
    settings = SearchSettings(goal_named(goal, problem.tasks), Budget(trials=24), seed=0, starts=start, racing=None)
    found = search(problem, space, GradientSampler(), settings)
    assert min(trial.values[0] for trial in found.trials) == pytest.approx(least(problem, goal), abs=2e-3)


def test_an_ask_is_a_function_of_its_arguments_and_its_notes_are_json() -> None:
    space = space_of(4)
    history = searched(valley(4, 0), space, 12)
    for length in range(len(history)):
        one, two = (GradientSampler().ask(space, history[:length], 7) for _ in range(2))
        assert one == two and json.loads(json.dumps(dict(one.notes))) == one.notes


def test_bounds_hold_and_a_least_point_beyond_them_is_met_at_the_bound() -> None:
    def loss(w: NDArray[np.float64]) -> Any:
        return float(((w - 3) ** 2).sum()), 2 * (w - 3)

    history = searched(loss, space_of(4, bounds=(-0.5, 0.75)), 30)
    weights = np.array([t.point.weights for t in history[3:]])
    assert weights.min() >= -0.5 and weights.max() <= 0.75
    assert min(t.values[0] for t in history[3:]) == pytest.approx(4 * 2.25**2)


def test_nothing_but_weights_changes() -> None:
    start = Point((0.5, 0.5), "ties:density=0.4", (1.0, 0.5))
    history = searched(parabola(2, 1, 0), SearchSpace(start, scale=(0.5, 2.0)), 20, history=[])
    assert {(t.point.composition, t.point.layers) for t in history} == {(start.composition, start.layers)}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"compositions": ("exact", "lorahub")}, "composition"),
        ({"members": True}, "members"),
        ({"density": (0.1, 0.9)}, "density"),
        ({"layers": 4}, "layers"),
    ],
)
def test_what_it_cannot_search_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=f"not {told}"):
        GradientSampler().ask(space_of(2, **settings), [], 0)
    assert GradientSampler().ask(space_of(2, compositions=("exact",)), [], 0).gradient


def test_an_empty_history_begins_at_the_start_and_0_is_moved_off() -> None:
    assert GradientSampler().ask(space_of(4), [], 0).point == space_of(4).start
    zero = SearchSpace(Point((0.0,) * 4, "lorahub"))
    assert GradientSampler().ask(zero, [], 0).point.weights == (0.25,) * 4
    outside = SearchSpace(Point((2.0, -3.0), "exact"))
    assert GradientSampler().ask(outside, [], 0).point.weights == (1.5, -1.5)


def test_a_gradient_of_0_and_a_constant_loss_look_elsewhere() -> None:
    history = searched(lambda w: (1.0, np.zeros(4)), space_of(4), 12)
    own = history[3:]
    assert own[0].gradient == (0.0,) * 4
    assert all(t.notes.get("restart") for t in own[1:]) and len({t.point for t in own}) == len(own)


def test_a_saddle_is_left() -> None:
    def saddle(w: NDArray[np.float64]) -> Any:
        return float(w[0] ** 2 + (w[1] ** 2 - 0.5) ** 2), np.array([2 * w[0], 4 * w[1] * (w[1] ** 2 - 0.5)])

    space = SearchSpace(Point((0.5, 0.0), "exact"))
    history = searched(saddle, space, 40, history=finished([], "plan", space.start, saddle))
    assert min(t.values[0] for t in history) < 0.01


def test_a_converged_search_tries_other_places_and_finds_the_deeper_valley() -> None:
    def two(w: NDArray[np.float64]) -> Any:
        x = w[0]
        return float(1 + (x**2 - 0.25) ** 2 - 0.05 * x), np.array([4 * x * (x**2 - 0.25) - 0.05])

    space = SearchSpace(Point((-0.5,), "exact"))
    history = searched(two, space, 80, history=finished([], "plan", space.start, two))
    assert min(t.values[0] for t in history) == pytest.approx(two(np.array([0.525]))[0], abs=1e-3)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_stepped_back_from(wrong: float) -> None:
    inner = parabola(4, 1, 2)

    def loss(w: NDArray[np.float64]) -> Any:
        value, slope = inner(w)
        return (wrong, np.full(4, np.nan)) if abs(w).max() > 0.6 else (value, slope)

    history = searched(loss, space_of(4), 40)
    seen = [t.values[0] for t in history if np.isfinite(t.values[0])]
    assert min(seen) < history[0].values[0] - 0.2
    broken = searched(lambda w: (wrong, np.full(4, wrong)), space_of(4), 9)
    assert len({t.point for t in broken[4:]}) == len(broken[4:])


def test_a_gradient_that_is_not_finite_is_not_asked_for_again() -> None:
    history = searched(lambda w: (float(w @ w), np.full(4, np.nan)), space_of(4), 8)
    assert [t.gradient is not None for t in history[3:]].count(True) <= 2


def test_estimated_values_help_but_are_no_centre() -> None:
    loss, space = parabola(4, 1, 0), space_of(4)
    history = searched(loss, space, 3)
    lucky = Point((0.9, -0.9, 0.9, -0.9), "exact")
    raced = finished(history, "gradient", lucky, loss, whole=False, values=(-5.0,))
    aim = np.array(GradientSampler().ask(space, raced, 0).point.weights)
    best = min(history[:2], key=lambda t: t.values[0])
    assert np.abs(aim - best.point.weights).max() <= 0.5 + 1e-9
    assert not np.allclose(aim, GradientSampler().ask(space, history, 0).point.weights)


def test_a_step_that_made_it_worse_is_followed_by_a_shorter_one() -> None:
    loss, space = parabola(4, 1, 0), space_of(4)
    history = searched(loss, space, 3)
    ask = GradientSampler().ask(space, history, 0)
    worse = finished(history, "gradient", ask.point, loss, notes=dict(ask.notes), values=(9.0,))
    assert GradientSampler().ask(space, worse, 0).notes["reach"] == pytest.approx(ask.notes["length"] / 2)


def test_other_compositions_of_the_history_are_left_out() -> None:
    loss, space = parabola(4, 1, 0), space_of(4)
    history = searched(loss, space, 7)
    other = finished(history, "tpe", Point((0.3,) * 4, "ties"), loss, values=(0.0,))
    assert GradientSampler().ask(space, other, 0).point == GradientSampler().ask(space, history, 0).point


def test_a_long_history_is_cut_to_what_can_be_fitted() -> None:
    loss, space = valley(4, 0), space_of(4)
    rng = np.random.default_rng(0)
    history: list[Trial] = []
    for _ in range(400):
        history = finished(history, "x", Point(tuple(rng.uniform(-1, 1, 4).tolist()), "exact"), loss, gradient=(0,))
    assert GradientSampler().ask(space, history, 0).point not in {t.point for t in history}


def test_the_registry_builds_it() -> None:
    assert registry.build("sampler", "gradient:step=0.25") == GradientSampler(step=0.25)
    with pytest.raises(SpecError, match="above 0"):
        registry.build("sampler", "gradient:step=0")
