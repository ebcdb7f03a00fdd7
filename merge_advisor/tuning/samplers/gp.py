"""Bayesian optimisation with a Gaussian process, for few numbers and dear trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.tuning.samplers.history import ask_for, best_numbers, generator, near, numbers_of, one_loss
from merge_advisor.tuning.samplers.study import focus, suggest
from merge_advisor.tuning.space import demand
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class GpSampler:
    """Take the greatest expected improvement under a Gaussian process (Optuna's, Matérn 5/2, a length per number)."""

    startup: int = 8
    """Trials before the process is fitted, the coordinator's first ones included; drawn near the best until then."""

    name: ClassVar[str] = "gp"
    searches: ClassVar[frozenset[str]] = frozenset({"density", "layers"})
    cost: ClassVar[str] = "the rows of one merge, and a fit that takes up to seconds at hundreds of trials"

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ValueError("startup is at least 1")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """Return where a process fitted to all of `history` expects most.

        Raises:
            SpecError: the space is none, holds a choice, or the trials have several values.
        """
        demand(self, space)
        losses = one_loss(self, history)
        rng = generator(seed, len(history))
        if len(history) < self.startup:
            return ask_for(space, self, near(space, best_numbers(space, history), rng))
        from optuna.samplers import GPSampler

        numbers = numbers_of(space, history)
        known = focus(space, numbers, losses)
        sampler = GPSampler(n_startup_trials=0, seed=int(rng.integers(2**32)))
        return ask_for(space, self, suggest(space, known, numbers, losses[:, None], sampler))
