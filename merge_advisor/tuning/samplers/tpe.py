"""Tree-structured Parzen estimators, for spaces of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.tuning.samplers.history import ask_for, best_numbers, generator, near, numbers_of, trial_losses
from merge_advisor.tuning.samplers.study import focus, suggest
from merge_advisor.tuning.space import demand, inside, parameters
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class TpeSampler:
    """Draw where good trials are denser than bad ones (Optuna's TPE, arXiv 2304.11127).

    Parameters that every trial has are modelled together, those that only some have (the weight of a member that may be
    left out, the density of some compositions) one by one. Ranges are narrowed to where the best quarter of the trials
    lies (`study.focus`), unless the trials have several values: it knows Pareto fronts as well.
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
        """Return a draw from a fresh estimator of all of `history`.

        Raises:
            SpecError: the space is none, or no space of these trials.
        """
        demand(self, space)
        rng = generator(seed, len(history))
        if len(history) < self.startup:
            return ask_for(space, self, near(space, best_numbers(space, history), rng))
        from optuna.samplers import TPESampler

        losses, numbers = trial_losses(history), numbers_of(space, history)
        known = parameters(space)
        if losses.shape[1] == 1:  # the ends of a Pareto front are far apart
            known = focus(space, numbers, losses[:, 0])
            numbers = [inside(known, trial) for trial in numbers]
        sampler = TPESampler(n_startup_trials=0, multivariate=True, seed=int(rng.integers(2**32)))
        return ask_for(space, self, suggest(space, known, numbers, losses, sampler))
