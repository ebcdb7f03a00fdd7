"""Uniform draws: the control that every other sampler has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.tuning.samplers.history import ask_for, ask_generator
from merge_advisor.tuning.space import CategoricalParameter, Parameter, ParameterValue, check_searchable, suggest_params
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class RandomSampler:
    """Draw uniformly in the space, whatever was tried before.

    >>> from merge_advisor.tuning.values import Point
    >>> ask = RandomSampler().ask(SearchSpace(Point((0.5, 0.5), "exact")), history=(), seed=0)
    >>> [round(weight, 2) for weight in ask.point.weights]
    [-0.69, 0.41]
    """

    name: ClassVar[str] = "random"
    searches: ClassVar[frozenset[str]] = frozenset({"composition", "members", "density", "layers"})
    cost: ClassVar[str] = "the rows of one merge"

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; a uniform draw, of the scale uniform in its logarithm."""
        check_searchable(self, space)
        rng = ask_generator(seed, len(history))

        def suggest(parameter: Parameter) -> ParameterValue:
            if isinstance(parameter, CategoricalParameter):
                return parameter.values[int(rng.integers(len(parameter.values)))]
            return parameter.from_unit(rng.random())

        return ask_for(space, self, suggest_params(space, suggest))
