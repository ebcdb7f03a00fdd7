"""The coordinator: asks a sampler, measures, keeps the trial, until the budget is spent.

All it decides follows from (seed, finished trials), so that a search killed and started again goes on as if nothing had
happened; only a budget in seconds cannot.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.errors import InputError, SpecError
from merge_advisor.tuning.goals import UNFIT, ParetoGoal, best, clipped_losses, front, mean_losses, unfit
from merge_advisor.tuning.racing import RACING_LEVEL, Racing, row_order, standing
from merge_advisor.tuning.space import parts, without_density
from merge_advisor.tuning.study import FORMAT, Keep, Study
from merge_advisor.tuning.values import Ask, Goal, Point, Problem, Sampler, SearchSpace, Trial
from merge_advisor.types import BACKWARD, digest_of, to_plain

if TYPE_CHECKING:
    from merge_advisor.arrays import Float64Array

FLAT_TRIALS = 20
"""Different merges of exactly one value, or unfit all of them, after which there is nothing to search."""
STUCK = 10
"""Asks in a row for merges that were tried before, after which the sampler has nothing new."""

RACING = Racing()
"""When trials stop early unless told otherwise."""

SearchProgress = Callable[[int, int | None, float | None, float | None], None]
"""Called with the trials done, their total (None: not known), the least value so far (None: none, or several values)
and the seconds left (None: not known)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may cost; the first limit reached ends it.

    Raises:
        InputError: no limit, or one that is not above 0.
    """

    trials: int | None = None
    """Trials in all, the starts and those of earlier sessions included."""
    forwards: int | None = None
    """Forward passes in all; a trial is begun only if all its rows still fit."""
    seconds: float | None = None
    """Seconds of this session; no trial is begun after them."""

    def __post_init__(self) -> None:
        limits = {"trials": self.trials, "forwards": self.forwards, "seconds": self.seconds}
        if all(limit is None for limit in limits.values()):
            raise InputError("a search needs a budget; give trials, forwards or seconds")
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise InputError(f"a budget of {limit:g} {name} allows nothing; give more than 0")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found."""

    trials: tuple[Trial, ...]
    """All finished trials, by number."""
    stopped: str
    """Why it ended, in words."""


def starts(space: SearchSpace, members: int) -> tuple[tuple[str, Point], ...]:
    """Return the merges tried first: the plan, all members at equal weight, the anchor alone, the base alone.

    Args:
        space: holds the plan.
        members: k, the anchor first.
    """
    plan = space.start
    return (
        ("plan", plan),
        ("uniform", replace(plan, weights=(1 / members,) * members, layers=())),
        ("anchor", replace(plan, weights=(1.0,) + (0.0,) * (members - 1), layers=())),
        ("base", replace(plan, weights=(0.0,) * members, layers=())),
    )


def search(
    problem: Problem,
    space: SearchSpace,
    sampler: Sampler,
    *,
    goal: Goal,
    budget: Budget,
    seed: int,
    starts: Sequence[tuple[str, Point]] = (),
    keep: Keep | None = None,
    racing: Racing | None = RACING,
    guard: int | None = None,
    progress: SearchProgress | None = None,
) -> SearchResult:
    """Try merges until the budget is spent.

    A loss that is not finite makes its trial unfit. So does a broken guard, which is asked about for trials that would
    be the best so far (or on the front): its trial then counts as the best one's values plus the guard's excess.

    Args:
        problem: what is tuned.
        space: what may be varied.
        sampler: says what to try.
        goal: what a trial is worth.
        budget: what the search may cost.
        seed: of the sampler and of the order of rows.
        starts: (label, point) tried first, never raced; the base goes first where the goal is relative to it.
        keep: the study the trials are kept in, and gone on from; None keeps nothing.
        racing: when trials stop early; None: never. A Pareto search and trials with a gradient are never raced.
        guard: forward passes that a question to the guard costs; None: there is no guard.
        progress: called after each trial.

    Raises:
        InputError: the problem has no rows.
        SpecError: the space holds what the sampler cannot search, or the sampler asks for what is no merge.
        RunError: the study cannot be used: see `Study`.
    """
    _check_parts(sampler, space)
    if not problem.tasks:
        raise InputError("there are no rows to tune on; give the task more rows")
    first = _ordered(starts, space, goal, len(problem.members))
    coordinator = _Coordinator(problem, space, sampler, goal, budget, seed, first, racing, guard, progress)
    if keep is None:
        return coordinator.run(None)
    made_for = {
        **keep.made_for,
        "version of merge-advisor's studies": FORMAT,
        "space": digest_of([space, problem.members]),
        "goal": _described(goal),
        "sampler": _described(sampler),
        "seed": str(seed),
        "starts": digest_of(first),
        "racing": digest_of(racing),
        "guard": str(guard is not None),
    }
    width = len(set(problem.tasks)) if isinstance(goal, ParetoGoal) else 1
    with Study(keep, made_for, space, problem.members, width) as study:
        return coordinator.run(study)


@dataclass
class _Coordinator:
    """One search under way."""

    problem: Problem
    space: SearchSpace
    sampler: Sampler
    goal: Goal
    budget: Budget
    seed: int
    starts: tuple[tuple[str, Point], ...]
    racing: Racing | None
    guard: int | None
    progress: SearchProgress | None
    trials: list[Trial] = field(default_factory=list)

    def run(self, study: Study | None) -> SearchResult:
        """Go on from the study's trials until something ends the search."""
        self.trials = list(study.history) if study else []
        self._clock, self._old = time.monotonic(), len(self.trials)
        self._order = row_order(self.problem.tasks, self.seed)
        while not (stopped := self._over()):
            label, ask = self._next()
            before = self._before(ask)
            if before is None and (stopped := self._too_dear(ask)):
                break
            with study.trial(ask.point) if study else nullcontext():
                trial = self._measure(label, ask, study) if before is None else self._again(label, ask, before)
                if study:
                    study.finish(trial)
            self.trials.append(trial)
            self._tell()
        return SearchResult(tuple(self.trials), stopped)

    def _over(self) -> str:
        """Why the search ends here; "" where it goes on."""
        done, budget = len(self.trials), self.budget
        if budget.trials is not None and done >= budget.trials:
            return f"{budget.trials} trials done"
        if budget.seconds is not None and time.monotonic() - self._clock >= budget.seconds:
            return f"{budget.seconds:g} seconds are over"
        if len({trial.point for trial in self.trials}) >= FLAT_TRIALS:
            if all(map(unfit, self.trials)):
                return f"{FLAT_TRIALS} merges and none is fit: {unfit(self.trials[0])}"
            if len({trial.values for trial in self.trials}) == 1:
                return f"the objective is constant: {FLAT_TRIALS} merges of value {self.trials[0].values[0]:g}"
        searched = self.trials[len(self.starts) :]
        if len(searched) >= STUCK and not any(trial.forwards for trial in searched[-STUCK:]):
            return "the sampler asks for nothing new"
        return ""

    def _too_dear(self, ask: Ask) -> str:
        """Why a trial does not fit into the budget; "" where it does."""
        if self.budget.forwards is None:
            return ""
        cost = self._cost(len(self.problem.tasks), len(ask.gradient)) + (self.guard or 0)
        spent = sum(trial.forwards for trial in self.trials)
        if spent + cost <= self.budget.forwards:
            return ""
        return f"{spent} of {self.budget.forwards} forwards done, and a trial takes up to {cost}"

    def _cost(self, rows: int, sloped: int) -> int:
        return (rows + (BACKWARD - 1) * sloped) * self.problem.forwards

    def _next(self) -> tuple[str, Ask]:
        number = len(self.trials)
        if number < len(self.starts):
            label, point = self.starts[number]
            return label, self._plain(Ask(point), f"start '{label}'")
        told = replace(self.space, tasks=tuple(self.problem.tasks), goal=self.goal)
        ask = self.sampler.ask(told, tuple(self.trials), self.seed)
        return self.sampler.name, self._plain(ask, f"sampler '{self.sampler.name}'")

    def _plain(self, ask: Ask, who: str) -> Ask:
        """The ask as it will be read back from a study: floats and JSON values, of a merge there can be."""
        point, width = ask.point, len(self.problem.members)
        weights, layers = (tuple(float(x) for x in part) for part in (point.weights, point.layers))
        if (
            len(weights) != width
            or len(layers) not in (0, self.space.layers)
            or not all(math.isfinite(number) for number in (*weights, *layers))
        ):
            raise SpecError(f"{who}: {point} is no merge of {width} members; correct it")
        known = [without_density(spec) for spec in (self.space.start.composition, *self.space.compositions)]
        if without_density(point.composition) not in known:
            raise SpecError(f"{who}: composition '{point.composition}' is not in the space; choose: {', '.join(known)}")
        try:
            notes = json.loads(
                json.dumps({key: note for key, note in ask.notes.items() if key != UNFIT}, allow_nan=False)
            )
        except (TypeError, ValueError) as error:
            raise SpecError(f"{who}: its notes cannot be kept as JSON ({error}); correct them") from error
        sloped, rows = tuple(sorted({int(row) for row in ask.gradient})), len(self.problem.tasks)
        if sloped and not 0 <= sloped[0] <= sloped[-1] < rows:
            raise SpecError(f"{who}: it asks for the gradient on rows {sloped} of {rows}, from 0; correct it")
        return Ask(Point(weights, point.composition, layers), sloped, notes)

    def _before(self, ask: Ask) -> Trial | None:
        """The first trial of the same merge, which need not be measured again."""
        found = (trial for trial in self.trials if trial.point == ask.point)
        return next((trial for trial in found if trial.sloped == ask.gradient or not ask.gradient), None)

    def _again(self, label: str, ask: Ask, before: Trial) -> Trial:
        notes = {**ask.notes, UNFIT: unfit(before)} if unfit(before) else ask.notes
        return replace(before, number=len(self.trials), label=label, forwards=0, notes=notes)

    def _measure(self, label: str, ask: Ask, study: Study | None) -> Trial:
        losses: list[float | None] = [None] * len(self.problem.tasks)
        gradient = None
        if ask.gradient:
            losses[:], gradient, bad = self._gradient(ask)
        else:
            bad = self._race(ask.point, losses, study)
        trial = Trial(
            number=len(self.trials),
            label=label,
            point=ask.point,
            losses=tuple(losses),
            values=self._values(losses, ask.point),
            whole=None not in losses,
            forwards=self._cost(len(losses) - losses.count(None), len(ask.gradient)),
            gradient=gradient,
            sloped=ask.gradient,
            notes={**ask.notes, UNFIT: bad} if bad else ask.notes,
        )
        return self._guarded(trial)

    def _race(self, point: Point, losses: list[float | None], study: Study | None) -> str:
        """Fill in losses until the trial is through, lost or not finite; tell what makes it unfit."""
        ahead = best(self.trials) if self._raced() else None
        looks = self.racing.rungs(len(losses)) if self.racing and ahead else [len(losses)]
        seen = 0
        for look in looks:
            rows = self._order[seen:look]
            measured, good = clipped_losses(self.problem.losses(point, rows))
            for row, loss in zip(rows, measured, strict=True):
                losses[row] = loss
            seen = look
            if not good:
                return "a loss is not finite"
            if self.racing and ahead and look < len(losses):
                shown = standing(
                    self.goal, losses, ahead, self.problem.tasks, point.weights, self._base(), self.racing.level
                )
                if study:
                    study.report(seen, shown.value)
                if shown.lost:
                    break
        return ""

    def _raced(self) -> bool:
        return len(self.trials) >= len(self.starts) and not isinstance(self.goal, ParetoGoal)

    def _values(self, losses: Sequence[float | None], point: Point) -> tuple[float, ...]:
        """A trial's values: of its losses, or estimated from the best trial where it did not see all rows."""
        ahead = best(self.trials)
        if None in losses and ahead is not None:
            tasks = self.problem.tasks
            return (standing(self.goal, losses, ahead, tasks, point.weights, self._base(), RACING_LEVEL).value,)
        means = mean_losses(losses, self.problem.tasks)
        return self.goal.values(means, point.weights, self._base(means))

    def _base(self, means: Float64Array | None = None) -> Float64Array | None:
        """The base's mean losses, where the goal needs them: the first trial's, `means` while that is measured."""
        if not self.goal.relative:
            return None
        return mean_losses(self.trials[0].losses, self.problem.tasks) if self.trials else means

    def _gradient(self, ask: Ask) -> tuple[list[float], tuple[float, ...], str]:
        """Losses of all rows, the gradient on those asked for, and what makes the trial unfit."""
        others = [row for row in range(len(self.problem.tasks)) if row not in ask.gradient]
        steep, slope = self.problem.gradient(ask.point, ask.gradient)
        flat = self.problem.losses(ask.point, others) if others else []
        measured = dict(zip((*ask.gradient, *others), (*steep, *flat), strict=True))
        losses, good = clipped_losses(measured[row] for row in range(len(measured)))
        good = good and bool(np.isfinite(slope).all())
        told = np.nan_to_num(np.asarray(slope, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        return losses, tuple(told.tolist()), "" if good else "a loss or its gradient is not finite"

    def _guarded(self, trial: Trial) -> Trial:
        """The trial, worse than all the best ones where it would be one of them and breaks the guard."""
        if self.guard is None or not trial.whole or unfit(trial) or not any(trial.point.weights):
            return trial  # the base is what the guard measures from
        ahead = front(self.trials)
        if trial not in front([*ahead, trial]):
            return trial
        excess, good = clipped_losses([self.problem.guard(trial.point)])
        trial = replace(trial, forwards=trial.forwards + self.guard)
        if good and excess[0] <= 0:
            return trial
        worst = np.max([other.values for other in ahead] or [trial.values], axis=0)
        return replace(
            trial,
            values=tuple((worst + excess[0]).tolist()),
            notes={**trial.notes, UNFIT: f"the guard is broken by {excess[0]:.4g}"},
        )

    def _tell(self) -> None:
        if self.progress is None:
            return
        done, budget = len(self.trials), self.budget
        ahead = None if isinstance(self.goal, ParetoGoal) else best(self.trials)
        spent = time.monotonic() - self._clock
        here = self.trials[self._old :]
        forwards, left = sum(trial.forwards for trial in here), []
        if budget.trials is not None:
            left.append(spent / len(here) * (budget.trials - done))
        if budget.forwards is not None and forwards:
            left.append(spent / forwards * (budget.forwards - sum(trial.forwards for trial in self.trials)))
        if budget.seconds is not None:
            left.append(max(0.0, budget.seconds - spent))
        self.progress(done, budget.trials, ahead.values[0] if ahead else None, min(left, default=None))


def _check_parts(sampler: Sampler, space: SearchSpace) -> None:
    """Refuse a space with parts the sampler cannot search, before anything is measured."""
    if wrong := [part for part in parts(space) if part not in sampler.searches]:
        raise SpecError(f"sampler '{sampler.name}' cannot search {', '.join(wrong)}; fix that, or choose tpe or random")


def _ordered(
    starts: Sequence[tuple[str, Point]], space: SearchSpace, goal: Goal, members: int
) -> tuple[tuple[str, Point], ...]:
    """The starts, the base first (added where it is missing) for a goal that is relative to it."""
    if not goal.relative:
        return tuple(starts)
    bases = [start for start in starts if not any(start[1].weights)]
    others = [start for start in starts if any(start[1].weights)]
    return (*(bases or [("base", replace(space.start, weights=(0.0,) * members))]), *others)


def _described(thing: Any) -> str:
    """A sampler or a goal as name and parameters."""
    fields: Mapping[str, Any] = to_plain(thing) if dataclasses.is_dataclass(thing) else {}
    return ":".join([thing.name, ",".join(f"{key}={value}" for key, value in fields.items())]).rstrip(":")
