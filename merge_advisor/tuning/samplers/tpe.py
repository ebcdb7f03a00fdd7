"""Tree-structured Parzen estimators, for spaces of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.tuning.samplers.history import (
    ask_for,
    ask_generator,
    best_params,
    params_of,
    sample_near,
    trial_values,
)
from merge_advisor.tuning.samplers.optuna_study import narrowed_parameters, suggest_with
from merge_advisor.tuning.space import check_searchable, clip_params, parameters
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class TpeSampler:
    """Draw where good trials are denser than bad ones (Optuna's TPE, arXiv 2304.11127).

    Parameters that every trial has are modelled together, those that only some have (the weight of a member that may be
    left out, the density of some compositions) one by one. Ranges are narrowed to where the best quarter of the trials
    lies (`optuna_study.narrowed_parameters`), unless the trials have several values: it searches Pareto fronts as well.

    >>> from merge_advisor.tuning.values import Point
    >>> ask = TpeSampler(startup=10).ask(SearchSpace(Point((0.5, 0.5), "exact")), history=(), seed=0)
    >>> ask.notes
    {'sampler': 'tpe'}
    """

    startup: int = 10
    """Trials before the estimators are used, the coordinator's first ones included; drawn near the best until then."""

    name: ClassVar[str] = "tpe"
    searches: ClassVar[frozenset[str]] = frozenset({"composition", "members", "density", "layers"})
    cost: ClassVar[str] = "the rows of one merge"

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ValueError("startup is at least 1")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; a draw from a fresh estimator of all of `history`."""
        check_searchable(self, space)
        rng = ask_generator(seed, len(history))
        if len(history) < self.startup:
            return ask_for(space, self, sample_near(space, best_params(space, history), rng))
        from optuna.samplers import TPESampler

        losses, params = trial_values(history), params_of(space, history)
        known = parameters(space)
        if losses.shape[1] == 1:  # the ends of a Pareto front are far apart
            known = narrowed_parameters(space, params, losses[:, 0])
            params = [clip_params(known, trial) for trial in params]
        # the startup draws are ours, around the best: Optuna's own would be uniform
        sampler = TPESampler(n_startup_trials=0, multivariate=True, seed=int(rng.integers(2**32)))
        return ask_for(space, self, suggest_with(space, known, params, losses, sampler))
