"""Bayesian optimisation with a Gaussian process, for few numbers and expensive trials."""

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
    single_values,
)
from merge_advisor.tuning.samplers.optuna_study import narrowed_parameters, suggest_with
from merge_advisor.tuning.space import check_searchable
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class GpSampler:
    """Take the greatest expected improvement under a Gaussian process (Optuna's, Matérn 5/2, a length per number).

    >>> from merge_advisor.tuning.values import Point
    >>> ask = GpSampler(startup=8).ask(SearchSpace(Point((0.5, 0.5), "exact")), history=(), seed=0)
    >>> ask.notes
    {'sampler': 'gp'}
    """

    startup: int = 8
    """Trials before the process is fitted, the coordinator's first ones included; drawn near the best until then."""

    name: ClassVar[str] = "gp"
    searches: ClassVar[frozenset[str]] = frozenset({"density", "layers"})
    cost: ClassVar[str] = "the rows of one merge, and a fit that takes up to seconds at hundreds of trials"

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ValueError("startup is at least 1")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; where a process fitted to all of `history` expects the most improvement."""
        check_searchable(self, space)
        losses = single_values(self, history)
        rng = ask_generator(seed, len(history))
        if len(history) < self.startup:
            return ask_for(space, self, sample_near(space, best_params(space, history), rng))
        from optuna.samplers import GPSampler

        params = params_of(space, history)
        known = narrowed_parameters(space, params, losses)
        # the startup draws are ours, around the best: Optuna's own would be uniform
        sampler = GPSampler(n_startup_trials=0, seed=int(rng.integers(2**32)))
        return ask_for(space, self, suggest_with(space, known, params, losses[:, None], sampler))
