"""Drawing blindly: the control every other sampler has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.tuning.samplers.history import ask_for, generator
from merge_advisor.tuning.space import ChoiceParameter, Parameter, ParameterValue, demand, walk
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class RandomSampler:
    """Draw uniformly in the space, whatever was tried before."""

    name: ClassVar[str] = "random"
    searches: ClassVar[frozenset[str]] = frozenset({"composition", "members", "density", "layers"})
    cost: ClassVar[str] = "the rows of one merge"

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """Return a uniform draw (of the scale: uniform in its logarithm).

        Raises:
            SpecError: the space is none.
        """
        demand(self, space)
        rng = generator(seed, len(history))

        def suggest(parameter: Parameter) -> ParameterValue:
            if isinstance(parameter, ChoiceParameter):
                return parameter.values[int(rng.integers(len(parameter.values)))]
            return parameter.at(rng.random())

        return ask_for(space, self, walk(space, suggest))
