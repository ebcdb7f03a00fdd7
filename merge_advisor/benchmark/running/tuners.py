"""Tuning the weights of what an arm chose, as `tune` does it; LoraHub's protocol is one of its ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.measuring.measure import loss_kind_of
from merge_advisor.advisor.searching.problem import make_problem
from merge_advisor.advisor.searching.tune_run import winner_of
from merge_advisor.errors import SpecError
from merge_advisor.tuning import Point, SearchSpace
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import PENALISED, best_trial, goal_named
from merge_advisor.tuning.racing import RACING
from merge_advisor.tuning.settings import Budget, SearchSettings, start_points
from merge_advisor.tuning.winner import confirmation_rows

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.benchmark.values import Tuner
    from merge_advisor.types import Candidate, Row


@dataclass(frozen=True, slots=True)
class TunedWeights:
    """What tuning made of a selection."""

    weights: tuple[float, ...]
    forwards: int
    reason: str


def tune_weights(
    session: Session,
    candidates: Sequence[Candidate],
    start: Point,
    tuner: Tuner,
    rows: Sequence[Row],
    seed: int,
) -> TunedWeights:
    """Search the members' weights on the choosing rows.

    Objective "lorahub" or "lorahub-clean" is the loss with LoraHub's penalty as the goal. With the sampler lorahub the
    search begins at weights 0, looks at all rows in every trial and ends in the best one, as LoraHub's own does (arXiv
    2307.13269); any other sampler begins with the starts of `tune` and ends by its rule for the winner.

    Args:
        session: base and store.
        candidates: the k members, the anchor first.
        start: their weights and composition.
        tuner: sampler, trials, objective.
        rows: the choosing rows.
        seed: of the search.

    Raises:
        SpecError: a sampler or objective that this composition or these rows do not allow, or no trial that is fit.
    """
    protocol = tuner.begins_at_zero
    kept = () if protocol else confirmation_rows([0] * len(rows), seed)
    parts = [[row for place, row in enumerate(rows) if (place in kept) == late] for late in (False, True)]
    goal = tuner.objective if tuner.objective in PENALISED else "mean"
    objective = "loss" if tuner.objective in PENALISED else tuner.objective
    objective = loss_kind_of(rows) if objective == "auto" else objective
    problem = make_problem(session, candidates, parts[0], (0,) * len(parts[0]), objective)
    space = SearchSpace(start, smooth=problem.smooth)
    settings = SearchSettings(
        goal_named(goal, problem.tasks), Budget(trials=tuner.trials), seed,
        starts=() if protocol else start_points(space, len(candidates)), racing=None if protocol else RACING,
    )  # fmt: skip
    found = search(problem, space, registry.build("sampler", tuner.sampler), settings)
    forwards = sum(trial.forwards for trial in found.trials)
    if protocol:
        trial = best_trial(found.trials)
        if trial is None:
            raise SpecError(f"sampler {tuner.sampler}: none of {len(found.trials)} trials is fit")
        return TunedWeights(trial.point.weights, forwards, f"best of {len(found.trials)} trials")
    winner = winner_of(found.trials, problem, parts[1], (0,) * len(kept), seed=seed)
    return TunedWeights(winner.point.weights, forwards, winner.reason)
