"""Tuning the weights of what an arm chose, as `tune` does it; LoraHub's protocol is one of its ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.searching.problem import make_problem
from merge_advisor.advisor.searching.tune_run import winner_of
from merge_advisor.errors import SpecError
from merge_advisor.merges import WeightedMerge
from merge_advisor.tuning import Point, SearchSpace
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import PENALISED, best_trial, goal_named
from merge_advisor.tuning.racing import RACING
from merge_advisor.tuning.settings import Budget, SearchSettings, start_points
from merge_advisor.tuning.winner import confirmation_rows

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.benchmark.values import Tuner
    from merge_advisor.types import Row


@dataclass(frozen=True, slots=True)
class TunedMerge:
    """What tuning made of a merge.

    >>> TunedMerge(WeightedMerge(), forwards=0, reason="best of 40 trials").forwards
    0
    """

    merge: WeightedMerge
    forwards: int
    """Forward passes over one row that the search cost."""
    reason: str
    """Why it ended in this merge."""


def tune_weights(meter: MergeMeter, merge: WeightedMerge, tuner: Tuner, rows: Sequence[Row], seed: int) -> TunedMerge:
    """Return a merge with its members' weights searched on the choosing rows.

    Objective "lorahub" or "lorahub-clean" is the loss with LoraHub's penalty as the goal. With the sampler lorahub the
    search begins at weights 0, looks at all rows in every trial and ends in the best one, as LoraHub's own does (arXiv
    2307.13269); any other sampler begins with the starts of `tune` and ends by its rule for the winner.

    Args:
        meter: puts merges on the base.
        merge: the members, their weights and the composition.
        tuner: sampler, trials, objective.
        rows: the choosing rows.
        seed: of the search.

    Raises:
        SpecError: a sampler or objective that this composition or these rows do not allow, or no trial that is fit.
    """
    protocol = tuner.begins_at_zero
    # LoraHub looks at all its rows and keeps none aside
    kept = () if protocol else confirmation_rows([0] * len(rows), seed)
    seen, unseen = ([row for place, row in enumerate(rows) if (place in kept) == late] for late in (False, True))
    goal = tuner.objective if tuner.objective in PENALISED else "mean"
    objective = "loss" if tuner.objective in PENALISED else tuner.objective
    objective = loss_kind_of(rows) if objective == "auto" else objective
    problem = make_problem(meter, merge.candidates, seen, (0,) * len(seen), objective)
    space = SearchSpace(Point(merge.weights, merge.composition), smooth=problem.smooth)
    settings = SearchSettings(
        goal_named(goal, problem.tasks), Budget(trials=tuner.trials), seed,
        starts=() if protocol else start_points(space, len(merge.members)), racing=None if protocol else RACING,
    )  # fmt: skip
    result = search(problem, space, registry.build("sampler", tuner.sampler), settings)
    forwards = sum(trial.forwards for trial in result.trials)
    if protocol:
        trial = best_trial(result.trials)
        if trial is None:
            raise SpecError(f"sampler {tuner.sampler}: none of {len(result.trials)} trials is fit")
        return TunedMerge(merge.with_weights(trial.point.weights), forwards, f"best of {len(result.trials)} trials")
    winner = winner_of(result.trials, problem, unseen, (0,) * len(kept), seed=seed)
    return TunedMerge(merge.with_weights(winner.point.weights), forwards, winner.reason)
