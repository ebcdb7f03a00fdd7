"""The coordinator: asks a sampler for a trial, measures it and keeps it in the study, until the budget is spent.

All it decides follows from (seed, finished trials), so that a search killed and started again goes on as if nothing had
happened; only a budget in seconds cannot.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from merge_advisor.errors import InputError, SpecError
from merge_advisor.json_form import digest_of, to_plain
from merge_advisor.tuning.density import without_density
from merge_advisor.tuning.goals import UNFIT, ParetoGoal, best_trial, unfit_reason
from merge_advisor.tuning.racing import row_order
from merge_advisor.tuning.settings import SearchProgress, SearchResult, SearchSettings
from merge_advisor.tuning.space import searched_parts
from merge_advisor.tuning.study import STUDY_FORMAT, Study, StudyPlace
from merge_advisor.tuning.trial_runner import TrialRunner
from merge_advisor.tuning.values import Ask, Goal, Point, Problem, Sampler, SearchSpace, Trial

FLAT_TRIALS = 20
"""Different merges of exactly one value, or unfit all of them, after which there is nothing to search."""
STUCK = 10
"""Asks in a row for merges that were tried before, after which the sampler has nothing new."""


def search(
    problem: Problem,
    space: SearchSpace,
    sampler: Sampler,
    settings: SearchSettings,
    *,
    study: StudyPlace | None = None,
    progress: SearchProgress | None = None,
) -> SearchResult:
    """Try merges until the budget is spent.

    A loss that is not finite makes its trial unfit. So does a broken guard, which is called for trials that would be
    the best so far (or on the front): its trial then counts as the best one's values plus the guard's excess.

    >>> from merge_advisor.tuning.goals import MeanGoal
    >>> from merge_advisor.tuning.samplers.cmaes import CmaEsSampler
    >>> from merge_advisor.tuning.settings import Budget
    >>> class Bowl:
    ...     members, tasks, forwards = ("math", "law"), (0,), 1
    ...     def losses(self, point, rows):
    ...         return [(point.weights[0] - 0.5) ** 2 + (point.weights[1] + 0.2) ** 2 for row in rows]
    >>> settings = SearchSettings(MeanGoal(), Budget(trials=60), seed=0)
    >>> result = search(Bowl(), SearchSpace(Point((0.0, 0.0), "exact")), CmaEsSampler(), settings)
    >>> result.stopped
    '60 trials done'
    >>> best_trial(result.trials).values[0] < 0.01
    True

    Args:
        problem: what is tuned.
        space: what may be varied.
        sampler: chooses what to try.
        settings: goal, budget, seed, starts, racing and guard.
        study: where the trials are kept, and gone on from; None keeps nothing.
        progress: called after each trial.

    Returns:
        All finished trials, those of earlier sessions included, and why the search ended.

    Raises:
        InputError: the problem has no rows.
        SpecError: the space holds what the sampler cannot search, or the sampler asks for what is no merge.
        RunError: the study cannot be used: see `Study`.
    """
    coordinator = Coordinator(problem, space, sampler, settings, progress)
    if study is None:
        return coordinator.run(None)
    with Study(study, coordinator.made_for(study), space, problem.members, coordinator.width) as opened:
        return coordinator.run(opened)


@dataclass
class Coordinator:
    """One search under way.

    >>> Coordinator.__dataclass_fields__["trials"].default_factory()
    []

    Raises:
        InputError: the problem has no rows.
        SpecError: the space holds what the sampler cannot search.
    """

    problem: Problem
    space: SearchSpace
    sampler: Sampler
    settings: SearchSettings
    """The starts in the order they are tried."""
    progress: SearchProgress | None = None
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_parts(self.sampler, self.space)
        if not self.problem.tasks:
            raise InputError("there are no rows to tune on; give the task more rows")
        self.settings = replace(self.settings, starts=_ordered(self.settings, self.space, len(self.problem.members)))

    @property
    def width(self) -> int:
        """Values of a trial."""
        return len(set(self.problem.tasks)) if isinstance(self.settings.goal, ParetoGoal) else 1

    def made_for(self, place: StudyPlace) -> dict[str, str]:
        """Return all that the search depends on, in words or digests.

        Args:
            place: says what the problem depends on.
        """
        settings = self.settings
        return {
            **place.made_for,
            "version of merge-advisor's studies": STUDY_FORMAT,
            "space": digest_of([self.space, self.problem.members]),
            "goal": _described(settings.goal),
            "sampler": _described(self.sampler),
            "seed": str(settings.seed),
            "starts": digest_of(settings.starts),
            "racing": digest_of(settings.racing),
            "guard": str(settings.guard is not None),
        }

    def run(self, study: Study | None) -> SearchResult:
        """Return all trials, and why the search ended; it goes on from those of the study.

        Args:
            study: where they are kept; None: nowhere.

        Raises:
            SpecError: the sampler asks for what is no merge.
            RunError: the study cannot be written.
        """
        self.trials = list(study.history) if study else []
        self._clock, self._old = time.monotonic(), len(self.trials)
        runner = TrialRunner(self.problem, self.settings, row_order(self.problem.tasks, self.settings.seed))
        while not (stopped := self._over()):
            label, ask = self._next()
            before = self._before(ask)
            if before is None and (stopped := self._over_budget(runner, ask)):
                break
            # RUNNING in the study from before the first row on: what a killed search leaves is seen, and asked again
            with study.trial(ask.point) if study else nullcontext():
                if before is None:
                    trial = runner.run(label, ask, self.trials, study.report if study else None)
                else:
                    trial = self._again(label, ask, before)
                if study:
                    study.finish(trial)
            self.trials.append(trial)
            self._report_progress()
        return SearchResult(tuple(self.trials), stopped)

    def _over(self) -> str:
        """Return why the search ends here; "" where it goes on."""
        done, budget = len(self.trials), self.settings.budget
        if budget.trials is not None and done >= budget.trials:
            return f"{budget.trials} trials done"
        if self._out_of_time():
            return f"{budget.seconds:g} seconds are over"
        if len({trial.point for trial in self.trials}) >= FLAT_TRIALS:
            if all(map(unfit_reason, self.trials)):
                return f"{FLAT_TRIALS} merges and none is fit: {unfit_reason(self.trials[0])}"
            if len({trial.values for trial in self.trials}) == 1:
                return f"the objective is constant: {FLAT_TRIALS} merges of value {self.trials[0].values[0]:g}"
        # a sampler that repeats itself costs nothing, so that no other limit would ever end the search
        searched = self.trials[len(self.settings.starts) :]
        if len(searched) >= STUCK and not any(trial.forwards for trial in searched[-STUCK:]):
            return "the sampler asks for nothing new"
        return ""

    def _out_of_time(self) -> bool:
        seconds = self.settings.budget.seconds
        return seconds is not None and time.monotonic() - self._clock >= seconds

    def _over_budget(self, runner: TrialRunner, ask: Ask, others: int = 0) -> str:
        """Return why a trial does not fit into the budget, beside others that may cost as much; "" where it does."""
        limit = self.settings.budget.forwards
        if limit is None:
            return ""
        # as if no row were saved by racing: that is not known before, and a budget is not to be exceeded
        cost = runner.cost(len(self.problem.tasks), len(ask.gradient)) + (self.settings.guard or 0)
        spent = sum(trial.forwards for trial in self.trials)
        if spent + cost * (1 + others) <= limit:
            return ""
        return f"{spent} of {limit} forwards done, and a trial takes up to {cost}"

    def _next(self) -> tuple[str, Ask]:
        """Return label and ask of the next trial: a start, or what the sampler wants."""
        number = len(self.trials)
        if number < len(self.settings.starts):
            label, point = self.settings.starts[number]
            return label, self._checked(Ask(point), f"start '{label}'")
        # only here, not in the study's digest of the space: rows and goal are signed on their own
        space = replace(self.space, tasks=tuple(self.problem.tasks), goal=self.settings.goal)
        ask = self.sampler.ask(space, tuple(self.trials), self.settings.seed)
        return self.sampler.name, self._checked(ask, f"sampler '{self.sampler.name}'")

    def _checked(self, ask: Ask, who: str) -> Ask:
        """Return the ask as it will be read back from a study: floats and JSON values, of a possible merge.

        A resumed search must see the same bits as an undisturbed one, so they are rounded to JSON before they are used.
        """
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
        rows, count = tuple(sorted({int(row) for row in ask.gradient})), len(self.problem.tasks)
        if rows and not 0 <= rows[0] <= rows[-1] < count:
            raise SpecError(f"{who}: it asks for the gradient on rows {rows} of {count}, from 0; correct it")
        return Ask(Point(weights, point.composition, layers), rows, notes)

    def _before(self, ask: Ask) -> Trial | None:
        """Return the first trial of the same merge, which need not be measured again; None without one."""
        same = (trial for trial in self.trials if trial.point == ask.point)
        return next((trial for trial in same if trial.sloped == ask.gradient or not ask.gradient), None)

    def _again(self, label: str, ask: Ask, before: Trial) -> Trial:
        """Return an earlier trial under a new number, at no cost."""
        reason = unfit_reason(before)
        notes = {**ask.notes, UNFIT: reason} if reason else ask.notes
        return replace(before, number=len(self.trials), label=label, forwards=0, notes=notes)

    def _report_progress(self) -> None:
        if self.progress is None:
            return
        done, budget = len(self.trials), self.settings.budget
        ahead = None if isinstance(self.settings.goal, ParetoGoal) else best_trial(self.trials)
        # rates are of this session alone: trials of earlier ones were measured at another time, perhaps elsewhere
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
    if wrong := [part for part in searched_parts(space) if part not in sampler.searches]:
        raise SpecError(f"sampler '{sampler.name}' cannot search {', '.join(wrong)}; fix that, or choose tpe or random")


def _ordered(settings: SearchSettings, space: SearchSpace, members: int) -> tuple[tuple[str, Point], ...]:
    """Return the starts, the base first (added where it is missing) for a goal that is relative to it."""
    if not settings.goal.relative:
        return tuple(settings.starts)
    bases = [start for start in settings.starts if not any(start[1].weights)]
    others = [start for start in settings.starts if any(start[1].weights)]
    return (*(bases or [("base", replace(space.start, weights=(0.0,) * members))]), *others)


def _described(thing: Sampler | Goal) -> str:
    """Return name and parameters of a sampler or a goal."""
    fields: Mapping[str, Any] = to_plain(thing) if dataclasses.is_dataclass(thing) else {}
    return ":".join([thing.name, ",".join(f"{key}={value}" for key, value in fields.items())]).rstrip(":")
