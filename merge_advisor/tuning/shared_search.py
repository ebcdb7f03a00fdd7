"""A search by several processes at once, in one study: each asks for trials of its own, and all end with all of them.

Unlike a search of one process it does not end the same each time: what a sampler proposes depends on which trials have
finished by then. It is sane in that the starts come first, the budget is kept to the trial, and the winner follows from
all trials by the same rule, in every process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from merge_advisor.json_form import digest_of
from merge_advisor.tuning.coordinator import Coordinator
from merge_advisor.tuning.racing import row_order
from merge_advisor.tuning.samplers.at_random import RandomSampler
from merge_advisor.tuning.settings import SearchProgress, SearchResult, SearchSettings
from merge_advisor.tuning.shared_study import RunningTrial, SharedStudy
from merge_advisor.tuning.study import StudyPlace
from merge_advisor.tuning.trial_runner import TrialRunner
from merge_advisor.tuning.values import Ask, Problem, Sampler, SearchSpace

_POLL = 0.5
"""Seconds between two looks at what others do, where there is nothing to do here."""


def search_shared(
    problem: Problem,
    space: SearchSpace,
    sampler: Sampler,
    settings: SearchSettings,
    *,
    study: StudyPlace,
    progress: SearchProgress | None = None,
) -> SearchResult:
    """Try merges until the budget is spent, beside other processes that do the same.

    Args:
        problem: what is tuned.
        space: what may be varied.
        sampler: chooses what to try.
        settings: goal, budget, seed, starts, racing and guard; the trials of the budget are those of all processes.
        study: where the trials are.
        progress: called after each trial.

    Returns:
        All finished trials, those of others included, and why the search ended.

    Raises:
        InputError: the problem has no rows.
        SpecError: the space holds what the sampler cannot search, or the sampler asks for what is no merge.
        RunError: the study cannot be used.
    """
    coordinator = SharedCoordinator(problem, space, sampler, settings, progress)
    made_for = {**coordinator.made_for(study), "way of sharing": "several processes at once"}
    with SharedStudy(study, made_for, space, problem.members, coordinator.width) as opened:
        return coordinator.run_beside(opened)


@dataclass
class SharedCoordinator(Coordinator):
    """One process of such a search.

    >>> SharedCoordinator.__mro__[1].__name__
    'Coordinator'
    """

    _left: deque[tuple[str, Ask]] = field(default_factory=deque)
    """What was taken over from processes that are gone, to be measured here."""

    def run_beside(self, study: SharedStudy) -> SearchResult:
        """Return all trials once something has ended the search and no other process has one under way.

        Args:
            study: the study.

        Raises:
            SpecError: the sampler asks for what is no merge.
            RunError: the study cannot be written.
        """
        self._clock, self._old = time.monotonic(), len(study.history)
        runner = TrialRunner(self.problem, self.settings, row_order(self.problem.tasks, self.settings.seed))
        while True:
            others = self._look(study)
            stopped = self._over()
            if not stopped and not self._must_wait(others):
                stopped = self._try_one(study, runner, others)
                if not stopped:
                    continue
                others = self._look(study)
            if stopped and (not others or self._out_of_time()):
                return SearchResult(tuple(self.trials), stopped)
            time.sleep(_POLL)

    def _look(self, study: SharedStudy) -> list[RunningTrial]:
        """Read the trials anew; return those under way elsewhere."""
        finished, others, left = study.look()
        labels = [label for label, _ in self.settings.starts]
        first = {label: number for number, label in enumerate(labels)}
        # the starts first, in their order, whoever finished when: goals are measured from the first
        ordered = sorted(finished, key=lambda trial: (first.get(trial.label, len(first)), trial.number))
        self.trials = [replace(trial, number=number) for number, trial in enumerate(ordered)]
        self._left += [(one.label, one.ask) for one in left if one.ask is not None]
        return others

    def _must_wait(self, others: Sequence[RunningTrial]) -> bool:
        """Whether what others have under way has to finish first."""
        budget = self.settings.budget.trials
        if budget is not None and len(self.trials) + len(others) >= budget:
            return True
        done = {trial.label for trial in self.trials}
        labels = [label for label, _ in self.settings.starts]
        if self.settings.goal.relative and labels[0] not in done and others:
            return True
        # a sampler is asked when all starts are known; until then there are starts to measure, or to wait for
        under_way = {one.label for one in others}
        return not set(labels) <= done and set(labels) <= done | under_way

    def _try_one(self, study: SharedStudy, runner: TrialRunner, others: Sequence[RunningTrial]) -> str:
        """Measure one trial, unless another process was faster; return why the search ends, or ""."""
        starts = {name for name, _ in self.settings.starts}
        with study.begun() as number:
            budget = self.settings.budget.trials
            if budget is not None and study.rank(number) >= budget:
                return ""
            label, ask = self._ask(number, others)
            before = self._before(ask)
            if before is None and (stopped := self._over_budget(runner, ask, len(others))):
                return stopped
            study.note_ask(label, ask)
            if label in starts and self._twice(study, number, label):
                return ""
            trial = runner.run(label, ask, self.trials) if before is None else self._again(label, ask, before)
            study.finish(trial)
        self.trials.append(trial)
        self._report_progress()
        return ""

    def _ask(self, number: int, others: Sequence[RunningTrial]) -> tuple[str, Ask]:
        """Return label and ask of the trial: taken over, a start, or what the sampler wants."""
        done = {trial.label for trial in self.trials} | {one.label for one in others}
        while self._left:
            label, ask = self._left.popleft()
            if label not in done or label not in {name for name, _ in self.settings.starts}:
                return label, self._checked(ask, f"trial {number}")
        for label, point in self.settings.starts:
            if label not in done:
                return label, self._checked(Ask(point), f"start '{label}'")
        space = replace(self.space, tasks=tuple(self.problem.tasks), goal=self.settings.goal)
        # of this trial alone: two processes that see the same trials must not ask the same
        seed = int(digest_of([self.settings.seed, number])[:8], 16)
        ask = self._checked(self.sampler.ask(space, tuple(self.trials), seed), f"sampler '{self.sampler.name}'")
        if all(one.ask is None or one.ask.point != ask.point for one in others):
            return self.sampler.name, ask
        # a sampler without chance: another process measures that already
        chance = RandomSampler()
        return chance.name, self._checked(chance.ask(space, tuple(self.trials), seed), f"sampler '{chance.name}'")

    def _twice(self, study: SharedStudy, number: int, label: str) -> bool:
        """Whether another process took the same start a moment before: of two the smaller number measures it."""
        finished, others, left = study.look()
        self._left += [(one.label, one.ask) for one in left if one.ask is not None]
        # one that has not said yet what it asks may ask the same
        before = any(one.label in ("", label) and one.number < number for one in others)
        return before or any(trial.label == label for trial in finished)
