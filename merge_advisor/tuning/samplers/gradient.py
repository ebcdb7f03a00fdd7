"""`gradient`: descent on a surrogate that is fitted to losses of rows and to their gradients.

The loss is differentiable in the k weights. A row with its gradient costs `types.BACKWARD` forwards and gives k + 1
numbers; a row without costs one forward and gives one. The rows are dealt into `GRADIENT_PARTS` parts. A trial measures
the loss of all rows and the gradient of one part's mean, of each part in turn. The logarithms of the parts' losses go
into one Gaussian process (`surrogate`) in which the parts are strongly correlated, so that the gradient of one part
teaches something about all. The mean of the process gives every part's loss anywhere, and the goal's value follows by
the chain rule. The next trial is the minimum of that value inside a box around the best point so far; the box grows and
shrinks with how well the last trial was predicted.

Losses fall by factors as a merge comes to fit a task, so their logarithms are nearer to what a process of one
smoothness can follow. The search needs no line search, no initial curvature and no state: it is a function of the
history. (Quasi-Newton methods are such regressions on less data: Hennig and Kiefel, "Quasi-Newton methods: a new
direction", JMLR 14, 2013.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.errors import SpecError
from merge_advisor.tuning.goals import LARGEST_LOSS, MeanGoal, mean_losses
from merge_advisor.tuning.samplers.surrogate import KnownGradient, fit_surrogate
from merge_advisor.tuning.values import Ask, Point, SearchSpace, Trial

GoalValue = Callable[[Float64Array], tuple[float, Float64Array]]
"""Returns the goal's value at weights (k,), with its gradient (k,)."""

GRADIENT_PARTS = 5
"""Parts that the rows are dealt into: one a row where there are fewer, one a task where there are more tasks."""
_OBSERVED = 400
"""Numbers a surrogate is fitted to at most, about: the time of a fit grows with their cube."""
_SOFT = 0.01
"""Nats added to a loss before its logarithm is taken, so that differences between smaller losses hardly count."""
_SHORTEST = 1e-4
"""A step shorter than this in every weight changes no loss: the search has converged."""


class RowPart(NamedTuple):
    """Rows of one task whose mean loss is one output of the surrogate.

    >>> RowPart(rows=(0, 3), task=0, share=0.5).rows
    (0, 3)
    """

    rows: tuple[int, ...]
    task: int
    share: float
    """Of the task's rows."""


@dataclass(frozen=True)
class GradientSampler:
    """Follow the gradient of the loss in the weights, taken on a fifth of the rows in turn: few trials.

    >>> from merge_advisor.tuning.values import Point
    >>> space = SearchSpace(Point((0.5, 0.5), "exact"), tasks=(0,) * 10)
    >>> ask = GradientSampler(step=0.5).ask(space, history=(), seed=0)
    >>> ask.point.weights, len(ask.gradient)
    ((0.5, 0.5), 2)
    """

    step: float = 0.5
    """Most that one weight changes in the first step; later steps adapt."""

    name: ClassVar[str] = "gradient"
    searches: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "the rows of one merge, with a backward pass over a fifth of them: 1.4 forwards a row"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: a step that is not above 0.
        """
        if not 0 < self.step < math.inf:
            raise ValueError(f"step={self.step} is not above 0")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; first the best start with a gradient, then the surrogate's minimum in the box.

        Weights alone are searched; composition, members and layers stay as in the start, and so does a factor on all
        weights (`space.scale`): the weights go anywhere within their bounds. No point is asked twice, except the best
        start, which was tried without a gradient. Where steps are too short to matter, plain trials within a quarter of
        the range look for another valley (`notes["restart"]`).
        """
        _check(space)
        low, high = space.bounds
        known = [trial for trial in history if _usable(trial, space)]
        centres = [trial for trial in known if trial.whole and any(trial.point.weights)]  # not 0: see `_first`
        centre = min(centres, key=lambda trial: (trial.values[0], trial.number), default=None)
        parts = deal_rows(space.tasks, seed)
        turn = parts[sum(trial.gradient is not None for trial in history) % len(parts)]
        if centre is None:
            return self._first(space, history, seed, turn)
        start = np.clip(np.array(centre.point.weights), low, high)
        if not any(trial.gradient for trial in known):
            if _tried(start, [trial for trial in history if trial.gradient is not None]):
                return _elsewhere(space, start, history, seed, self.step)
            return _asked(space, start, turn, {"reach": self.step})
        last = next((trial for trial in reversed(history) if "reach" in trial.notes), centre)
        reach = _reach(last, self.step, high - low)
        value = _surrogate(space, parts, known, history, start)
        aim = _least(value, start, np.maximum(start - reach, low), np.minimum(start + reach, high))
        length = float(np.abs(aim - start).max())
        if length < _SHORTEST or _tried(aim, history):
            return _elsewhere(space, start, history, seed, self.step)
        notes = {"best": centre.values[0], "expected": value(aim)[0], "length": length, "reach": reach}
        return _asked(space, aim, turn, notes)

    def _first(self, space: SearchSpace, history: Sequence[Trial], seed: int, turn: RowPart) -> Ask:
        """Ask for the space's start, or where that was tried already, somewhere near it: no trial is finite yet."""
        k = len(space.start.weights)
        start = np.clip(np.array(space.start.weights), *space.bounds)
        if not start.any():  # 0 is a stationary point of a product of sums
            start = np.clip(np.full(k, 1 / k), *space.bounds)
        if _tried(start, history):
            return _elsewhere(space, start, history, seed, self.step)
        return _asked(space, start, turn, {"reach": self.step})


def deal_rows(tasks: Sequence[int], seed: int) -> tuple[RowPart, ...]:
    """Return the rows of each task dealt into parts of like size, at random, the parts in a random order.

    >>> [part.rows for part in deal_rows((0, 0, 0), seed=0)]
    [(1,), (2,), (0,)]

    Args:
        tasks: (n,) the task of each row.
        seed: of the search.
    """
    rng = np.random.default_rng([seed, 0xDEA1])
    names = sorted(set(tasks))
    parts = []
    for task in names:
        rows = rng.permutation([row for row, of in enumerate(tasks) if of == task])
        for piece in np.array_split(rows, min(len(rows), -(-GRADIENT_PARTS // len(names)))):
            parts.append(RowPart(tuple(sorted(piece.tolist())), task, len(piece) / len(rows)))
    return tuple(parts[place] for place in rng.permutation(len(parts)))


def _check(space: SearchSpace) -> None:
    varied = {
        "composition": len(set(space.compositions) - {space.start.composition}) > 0,
        "members": space.members,
        "density": space.density is not None,
        "layers": space.layers > 0,
    }
    if not space.smooth:
        raise SpecError(
            "sampler gradient: this objective has no gradient in the weights; choose `objective=loss` or `sampler=tpe`"
        )
    if wrong := ", ".join(name for name, asked in varied.items() if asked):
        raise SpecError(f"sampler gradient: it searches weights only, not {wrong}; use another sampler or fix these")
    ones = np.ones(max(space.tasks) + 1)
    (space.goal or MeanGoal()).loss_gradient(ones, ones)  # raises for a goal of several values


def _usable(trial: Trial, space: SearchSpace) -> bool:
    """Return whether a trial is an observation of the function that is searched: finite, weights alone varied."""
    same = (trial.point.composition, trial.point.layers) == (space.start.composition, space.start.layers)
    complete = len(trial.losses) == len(space.tasks)
    return same and complete and all(map(math.isfinite, (*trial.values, *(trial.gradient or ()))))


def _asked(space: SearchSpace, weights: Float64Array, part: RowPart | None, notes: Mapping[str, float]) -> Ask:
    point: Point = replace(space.start, weights=tuple(weights.tolist()))
    return Ask(point, gradient=part.rows if part else (), notes=notes)


def _tried(weights: Float64Array, history: Sequence[Trial]) -> bool:
    return any(np.abs(weights - trial.point.weights).max() < _SHORTEST / 10 for trial in history)


def _reach(last: Trial, first: float, widest: float) -> float:
    """Half the side of the box for the next step, from how the last step went."""
    reach = float(last.notes.get("reach", first))
    if "expected" not in last.notes:
        return reach
    best, length = float(last.notes["best"]), float(last.notes["length"])
    gain = (best - last.values[0]) / max(best - float(last.notes["expected"]), 1e-12)
    if not gain > 0.25:  # "not >" holds for NaN as well
        return max(length / 2, _SHORTEST)
    return min(2 * reach, widest) if gain > 0.75 and length > 0.8 * reach else reach


def _elsewhere(space: SearchSpace, start: Float64Array, history: Sequence[Trial], seed: int, reach: float) -> Ask:
    """Ask for a plain trial at a random point within a quarter of the range; the next step may be `reach` long."""
    low, high = space.bounds
    # a draw of its own for each number of trials, as `history.ask_generator` has it
    rng = np.random.default_rng([seed, len(history)])
    aim = start
    for _ in range(100):  # bounds without width hold one point only
        aim = np.clip(start + rng.uniform(-0.25, 0.25, len(start)) * (high - low), low, high)
        if not _tried(aim, history):
            break
    return _asked(space, aim, None, {"restart": 1.0, "reach": reach})


def _least(value: GoalValue, start: Float64Array, low: Float64Array, high: Float64Array) -> Float64Array:
    """Return the minimum that a descent from `start` finds inside a box."""
    from scipy.optimize import minimize

    result = minimize(value, start, jac=True, method="L-BFGS-B", bounds=list(zip(low, high, strict=True)))
    aim: Float64Array = np.clip(result.x, low, high)
    return aim


def _surrogate(
    space: SearchSpace, parts: Sequence[RowPart], known: Sequence[Trial], history: Sequence[Trial], start: Float64Array
) -> GoalValue:
    """Return the goal's value as a function, by the process fitted to the trials nearest to `start`."""
    place = {part.rows: number for number, part in enumerate(parts)}

    def nearest(trials: Sequence[Trial], most: int) -> list[Trial]:
        return sorted(trials, key=lambda t: (float(np.sum((start - t.point.weights) ** 2)), t.number))[: max(1, most)]

    with_gradient = nearest([t for t in known if t.gradient and t.sloped in place], _OBSERVED * 3 // 4 // len(start))
    near = nearest(known, _OBSERVED // 4 // len(parts))
    trials = sorted({trial.number: trial for trial in (*near, *with_gradient)}.values(), key=lambda trial: trial.number)
    losses = np.array([[np.mean(np.array(t.losses, np.float64)[list(p.rows)]) for p in parts] for t in trials])
    losses = np.maximum(losses, 0.0) + _SOFT  # (t, m), NaN where racing stopped before
    gradients = [
        KnownGradient(at, output := place[trial.sloped], np.array(trial.gradient) / losses[at, output])
        for at, trial in enumerate(trials)
        if trial in with_gradient
    ]
    surface = fit_surrogate(np.array([trial.point.weights for trial in trials]), np.log(losses), gradients)
    goal, of, shares = space.goal or MeanGoal(), np.array([p.task for p in parts]), np.array([p.share for p in parts])
    base = mean_losses(history[0].losses, space.tasks) if goal.relative else None

    def value(weights: Float64Array) -> tuple[float, Float64Array]:
        logs, part_gradients = surface(weights)
        raised = np.exp(np.minimum(logs, math.log(LARGEST_LOSS)))
        means = np.bincount(of, shares * (raised - _SOFT)).astype(np.float64)
        outer = goal.loss_gradient(means, base)[of] * shares * raised
        total: Float64Array = outer @ part_gradients + goal.weight_gradient(weights.tolist())
        return goal.values(means, weights.tolist(), base)[0], total

    return value
