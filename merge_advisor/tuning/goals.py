"""Goals: what a trial's losses make it worth, and which trial is the best. Less is better.

| spec | value |
|---|---|
| `mean` | mean over the tasks of the mean loss over a task's rows |
| `worst` | the largest share of the base's loss that is left on any task: max over tasks of loss / base's loss |
| `pareto` | one value for each task, its mean loss; two tasks or more |
| `lorahub` | mean loss / number of rows + 0.05 × mean abs(w), as LoraHub's code has it (arXiv 2307.13269) |
| `lorahub-clean` | mean loss + 0.05 × mean abs(w): the loss divided once |

`worst` takes the ratio because losses of two tasks have no common scale: 0.3 nats are a third of one task's loss and a
twentieth of another's. 1 is as bad as the base; a base's loss below `_FLOOR` counts as `_FLOOR`.

A trial that may not win carries the reason in its notes under "unfit".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from merge_advisor.errors import SpecError
from merge_advisor.tuning.values import Goal, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float64Array

LARGEST_LOSS = 1e4
"""What a loss that is not finite becomes; larger ones are cut to it."""
_FLOOR = 0.05
"""Smallest loss of the base that a ratio is taken to: the smallest gain that matters in a verdict."""
_PENALTY = 0.05
"""LoraHub's weight of the mean |w|."""
UNFIT = "unfit"
"""Key of a trial's notes: why it may not win."""


class _NoPenalty:
    """Base of the goals that the weights enter through the losses alone."""

    __slots__ = ()

    def weight_gradient(self, weights: Sequence[float]) -> Float64Array:
        """See `Goal.weight_gradient`."""
        return np.zeros(len(weights))


@dataclass(frozen=True, slots=True)
class MeanGoal(_NoPenalty):
    """Mean over the tasks of their mean losses.

    >>> MeanGoal().values(np.array([1.0, 3.0]), (0.5,), None)
    (2.0,)
    """

    name: ClassVar[str] = "mean"
    relative: ClassVar[bool] = False

    def values(self, means: Float64Array, weights: Sequence[float], base: Float64Array | None) -> tuple[float, ...]:
        """See `Goal.values`."""
        return (float(means.mean()),)

    def loss_gradient(self, means: Float64Array, base: Float64Array | None) -> Float64Array:
        """See `Goal.loss_gradient`."""
        return np.full(len(means), 1 / len(means))


@dataclass(frozen=True, slots=True)
class WorstGoal(_NoPenalty):
    """Largest share of the base's loss that is left on any task.

    >>> WorstGoal().values(np.array([1.0, 3.0]), (0.5,), np.array([4.0, 4.0]))
    (0.75,)
    """

    name: ClassVar[str] = "worst"
    relative: ClassVar[bool] = True

    def values(self, means: Float64Array, weights: Sequence[float], base: Float64Array | None) -> tuple[float, ...]:
        """See `Goal.values`."""
        return (float((means / _scales(base)).max()),)

    def loss_gradient(self, means: Float64Array, base: Float64Array | None) -> Float64Array:
        """See `Goal.loss_gradient`; that of the worst task, the first of equals."""
        scales, gradient = _scales(base), np.zeros(len(means))
        worst = int(np.argmax(means / scales))
        gradient[worst] = 1 / scales[worst]
        return gradient


@dataclass(frozen=True, slots=True)
class ParetoGoal(_NoPenalty):
    """One value for each task.

    >>> ParetoGoal().values(np.array([1.0, 3.0]), (0.5,), None)
    (1.0, 3.0)
    """

    name: ClassVar[str] = "pareto"
    relative: ClassVar[bool] = False

    def values(self, means: Float64Array, weights: Sequence[float], base: Float64Array | None) -> tuple[float, ...]:
        """See `Goal.values`."""
        return tuple(float(mean) for mean in means)

    def loss_gradient(self, means: Float64Array, base: Float64Array | None) -> Float64Array:
        """See `Goal.loss_gradient`; there is none, which is an error."""
        raise SpecError("goal 'pareto' has a value for each task and so no one gradient; choose the goal mean or worst")


@dataclass(frozen=True, slots=True)
class LoraHubGoal:
    """LoraHub's objective: mean loss / `divisor` + 0.05 × mean |w|.

    >>> LoraHubGoal(divisor=1).values(np.array([2.0]), (1.0, 0.0), None)
    (2.025,)
    """

    divisor: int
    """Number of rows in `lorahub`, 1 in `lorahub-clean`."""

    name: ClassVar[str] = "lorahub"
    relative: ClassVar[bool] = False

    def values(self, means: Float64Array, weights: Sequence[float], base: Float64Array | None) -> tuple[float, ...]:
        """See `Goal.values`."""
        return (float(means.mean() / self.divisor + _PENALTY * np.abs(weights).mean()),)

    def loss_gradient(self, means: Float64Array, base: Float64Array | None) -> Float64Array:
        """See `Goal.loss_gradient`."""
        return np.full(len(means), 1 / len(means) / self.divisor)

    def weight_gradient(self, weights: Sequence[float]) -> Float64Array:
        """See `Goal.weight_gradient`."""
        return _PENALTY * np.sign(weights) / len(weights)


PENALISED = ("lorahub", "lorahub-clean")
"""LoraHub's goals, of the loss and the weights."""
GOALS = ("mean", "worst", "pareto", *PENALISED)


def goal_named(spec: str, tasks: Sequence[int]) -> Goal:
    """Return the goal of a name.

    >>> goal_named("lorahub", tasks=(0, 0, 0))
    LoraHubGoal(divisor=3)

    Args:
        spec: one of `GOALS`.
        tasks: (n,) the task of each row; `lorahub` divides by their number.

    Raises:
        SpecError: no such goal, or `pareto` with one task.
    """
    if spec == "pareto" and len(set(tasks)) < 2:
        raise SpecError("goal 'pareto' weighs tasks against each other and there is one; choose the goal mean")
    goals: dict[str, Goal] = {
        "mean": MeanGoal(),
        "worst": WorstGoal(),
        "pareto": ParetoGoal(),
        "lorahub": LoraHubGoal(len(tasks)),
        "lorahub-clean": LoraHubGoal(1),
    }
    if spec not in goals:
        raise SpecError(f"goal '{spec}' is unknown; choose one of: {', '.join(GOALS)}")
    return goals[spec]


def mean_losses(
    losses: Sequence[float | None] | Float64Array, tasks: Sequence[int] | NDArray[np.int64]
) -> Float64Array:
    """Return the mean loss of each task, (t,) float64.

    >>> mean_losses((1.0, 3.0, 5.0), (0, 0, 1)).tolist()
    [2.0, 5.0]

    Args:
        losses: (n,) by row; a None makes its task's mean NaN.
        tasks: (n,) the task of each row, numbered from 0.
    """
    counts = np.bincount(tasks)
    return np.bincount(tasks, np.asarray(losses, dtype=np.float64)) / np.maximum(counts, 1)


def clipped_losses(losses: Iterable[float]) -> tuple[list[float], bool]:
    """Return the losses, none above `LARGEST_LOSS` or below its negative, and whether all were finite.

    >>> clipped_losses([0.5, float("nan")])
    ([0.5, 10000.0], False)

    Args:
        losses: as measured; what is not finite becomes `LARGEST_LOSS`.
    """
    array = np.asarray(list(losses), dtype=np.float64)
    good = np.isfinite(array)
    cut = np.where(good, np.clip(np.where(good, array, 0.0), -LARGEST_LOSS, LARGEST_LOSS), LARGEST_LOSS)
    return [float(loss) for loss in cut], bool(good.all())


def unfit_reason(trial: Trial) -> str:
    """Return why a trial may not win, "" where it may: a loss was not finite, or the guard is broken.

    Args:
        trial: a finished one.
    """
    return str(trial.notes.get(UNFIT, ""))


def may_win(trial: Trial) -> bool:
    """Return whether a trial saw all rows and is fit.

    Args:
        trial: a finished one.
    """
    return trial.whole and not unfit_reason(trial)


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial of least first value among those that may win, the earliest of equals; None without one.

    As `optuna.Study.best_trial`.

    Args:
        trials: finished ones.
    """
    return min(filter(may_win, trials), key=lambda trial: (trial.values[0], trial.number), default=None)


def best_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Return the Pareto front: those that may win and that no other dominates, in their order.

    As `optuna.Study.best_trials`.

    Args:
        trials: finished ones.
    """
    able = [trial for trial in trials if may_win(trial)]
    return [one for one in able if not any(dominates(other.values, one.values) for other in able)]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether `one` is nowhere worse than `other` and somewhere better.

    >>> dominates((1.0, 2.0), (1.0, 3.0)), dominates((1.0, 2.0), (2.0, 1.0))
    (True, False)

    Args:
        one: values of a trial.
        other: as many of another.
    """
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _scales(base: Float64Array | None) -> Float64Array:
    if base is None:
        raise ValueError("the goal 'worst' needs the base's losses")
    return np.maximum(base, _FLOOR)
