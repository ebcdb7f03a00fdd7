"""Measuring one trial: its rows until racing prunes it, its values, and the guard where it would be the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.tuning.goals import (
    UNFIT,
    ParetoGoal,
    best_trial,
    best_trials,
    clipped_losses,
    mean_losses,
    unfit_reason,
)
from merge_advisor.tuning.racing import Race
from merge_advisor.tuning.settings import SearchSettings
from merge_advisor.tuning.values import Ask, Point, Problem, Trial
from merge_advisor.types import BACKWARD

if TYPE_CHECKING:
    from merge_advisor.arrays import Float64Array

ReportValue = Callable[[int, float], None]
"""Called with the rows seen so far and the value estimated from them, as `optuna.Trial.report` with step and value."""


@dataclass(frozen=True, slots=True, eq=False)
class TrialRunner:
    """Turns an ask into a finished trial.

    >>> from merge_advisor.tuning.goals import MeanGoal
    >>> from merge_advisor.tuning.settings import Budget
    >>> class Bowl:
    ...     members, tasks, forwards = ("math", "law"), (0, 0, 0), 1
    ...     def losses(self, point, rows):
    ...         return [(point.weights[0] - 0.5) ** 2 + point.weights[1] ** 2 for row in rows]
    >>> runner = TrialRunner(Bowl(), SearchSettings(MeanGoal(), Budget(trials=9), seed=0), order=(0, 1, 2))
    >>> trial = runner.run("random", Ask(Point((1.0, 0.0), "exact")), history=())
    >>> trial.values, trial.forwards
    ((0.25,), 3)
    """

    problem: Problem
    settings: SearchSettings
    """Its goal, starts, racing and guard count here."""
    order: Sequence[int]
    """The rows, in the order they are run: see `racing.row_order`."""

    def cost(self, rows: int, gradient_rows: int) -> int:
        """Return the forward passes of a trial, the guard's left out.

        Args:
            rows: how many it is run on.
            gradient_rows: how many of them need a backward pass as well.
        """
        return (rows + (BACKWARD - 1) * gradient_rows) * self.problem.forwards

    def run(self, label: str, ask: Ask, history: Sequence[Trial], report: ReportValue | None = None) -> Trial:
        """Measure what was asked for.

        Args:
            label: of the trial.
            ask: its point, the rows a gradient is wanted of, and its notes.
            history: the finished trials; the new one is compared with the best of them.
            report: called after each look of the race.

        Returns:
            The finished trial. Where racing pruned it, or a loss is not finite, it did not see all rows.
        """
        if ask.gradient:
            losses, gradient, bad = self._with_gradient(ask)
        else:
            losses, bad = self._raced(ask.point, history, report)
            gradient = None
        trial = Trial(
            number=len(history),
            label=label,
            point=ask.point,
            losses=tuple(losses),
            values=self._values(losses, ask.point, history),
            whole=None not in losses,
            forwards=self.cost(len(losses) - losses.count(None), len(ask.gradient)),
            gradient=gradient,
            sloped=ask.gradient,
            notes={**ask.notes, UNFIT: bad} if bad else ask.notes,
        )
        return self._guarded(trial, history)

    def _raced(
        self, point: Point, history: Sequence[Trial], report: ReportValue | None
    ) -> tuple[list[float | None], str]:
        """Return the losses of the rows until the trial is pruned or not finite, and why it is unfit, or ""."""
        racing = self.settings.racing if self._may_prune(history) else None
        race = self._race(history) if racing else None
        losses: list[float | None] = [None] * len(self.problem.tasks)
        seen = 0
        for look in racing.rungs(len(losses)) if racing and race else [len(losses)]:
            rows = self.order[seen:look]
            measured, good = clipped_losses(self.problem.losses(point, rows))
            for row, loss in zip(rows, measured, strict=True):
                losses[row] = loss
            seen = look
            if not good:
                return losses, "a loss is not finite"
            if racing and race and look < len(losses):
                standing = race.standing(losses, point.weights, racing.level)
                if report:
                    report(seen, standing.value)
                if standing.lost:
                    break
        return losses, ""

    def _may_prune(self, history: Sequence[Trial]) -> bool:
        # the starts are what the winner is compared with, so all their rows are needed
        return len(history) >= len(self.settings.starts) and not isinstance(self.settings.goal, ParetoGoal)

    def _race(self, history: Sequence[Trial]) -> Race | None:
        """Return the race against the best trial; None where there is none yet."""
        ahead = best_trial(history)
        if ahead is None:
            return None
        return Race(self.settings.goal, self.problem.tasks, ahead, self._base(history))

    def _values(self, losses: Sequence[float | None], point: Point, history: Sequence[Trial]) -> tuple[float, ...]:
        """Return a trial's values: of its losses, or estimated from the best trial where it did not see all rows."""
        if None in losses and (race := self._race(history)):
            return (race.standing(losses, point.weights).value,)
        means = mean_losses(losses, self.problem.tasks)
        return self.settings.goal.values(means, point.weights, self._base(history, means))

    def _base(self, history: Sequence[Trial], means: Float64Array | None = None) -> Float64Array | None:
        """Return the base's mean losses, where the goal needs them: the first trial's, or `means` while it is run."""
        if not self.settings.goal.relative:
            return None
        return mean_losses(history[0].losses, self.problem.tasks) if history else means

    def _with_gradient(self, ask: Ask) -> tuple[list[float | None], tuple[float, ...], str]:
        """Return the losses of all rows, the gradient on those asked for, and why the trial is unfit, or ""."""
        others = [row for row in range(len(self.problem.tasks)) if row not in ask.gradient]
        of_gradient_rows, gradient = self.problem.gradient(ask.point, ask.gradient)
        of_others = self.problem.losses(ask.point, others) if others else []
        measured = dict(zip((*ask.gradient, *others), (*of_gradient_rows, *of_others), strict=True))
        losses, good = clipped_losses(measured[row] for row in range(len(measured)))
        good = good and bool(np.isfinite(gradient).all())
        # a study keeps JSON, which has no NaN
        finite = np.nan_to_num(np.asarray(gradient, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        return list(losses), tuple(finite.tolist()), "" if good else "a loss or its gradient is not finite"

    def _guarded(self, trial: Trial, history: Sequence[Trial]) -> Trial:
        """Return the trial, made worse than all the best ones where it would be one of them and breaks the guard.

        The guard is not called for other trials: it costs forward passes, and they cannot win anyway.
        """
        guard = self.settings.guard
        if guard is None or not trial.whole or unfit_reason(trial) or not any(trial.point.weights):
            return trial  # the base is what the guard measures from
        ahead = best_trials(history)
        if trial not in best_trials([*ahead, trial]):
            return trial
        excess, good = clipped_losses([self.problem.guard(trial.point)])
        trial = replace(trial, forwards=trial.forwards + guard)
        if good and excess[0] <= 0:
            return trial
        # worse than the best, by the excess: samplers see where it gets better, and no such trial can win
        worst = np.max([other.values for other in ahead] or [trial.values], axis=0)
        return replace(
            trial,
            values=tuple((worst + excess[0]).tolist()),
            notes={**trial.notes, UNFIT: f"the guard is broken by {excess[0]:.4g}"},
        )
