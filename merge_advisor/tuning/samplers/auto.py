"""`auto`: the sampler that suits the space and what is known so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor import registry
from merge_advisor.tuning.space import check_space, float_parameters, searched_parts
from merge_advisor.tuning.values import Ask, Sampler, SearchSpace, Trial


@dataclass(frozen=True)
class AutoSampler:
    """Ask nsga2, gradient, gp, cmaes or tpe, by these rules, the first that fits.

    1. Trials with several values (Pareto): `nsga2`.
    2. A problem and one composition that are differentiable in the weights: `gradient`, for `steps` trials.
    3. Numbers alone, at most `few` of them: `gp`, and after `fits` trials `cmaes`, as the fits of `gp` get expensive.
    4. Everything else: `tpe`.

    Measured in `eval/samplers.md`: nothing was gained by leaving `gradient` for another after 4, 8 or 16 of its trials.

    >>> from merge_advisor.tuning.values import Point
    >>> AutoSampler().choose(SearchSpace(Point((0.5, 0.5), "exact")), history=())
    'gradient'
    """

    steps: int = 1000
    """Trials of `gradient` before another sampler; 0: none."""
    few: int = 8
    """Most parameters of a space that `gp` and `cmaes` search."""
    fits: int = 100
    """Trials in all after which `cmaes` takes the place of `gp`."""

    name: ClassVar[str] = "auto"
    searches: ClassVar[frozenset[str]] = frozenset({"composition", "members", "density", "layers"})
    cost: ClassVar[str] = "the rows of one merge, 1.4 times that where it takes a gradient"

    def __post_init__(self) -> None:
        if min(self.steps, self.few, self.fits) < 0:
            raise ValueError("steps, few and fits are at least 0")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; the chosen sampler's, which the notes name."""
        check_space(space)
        name = self.choose(space, history)
        sampler: Sampler = registry.build("sampler", name)
        asked = sampler.ask(space, history, seed)
        return dataclasses.replace(asked, notes={**asked.notes, "auto": name})

    def choose(self, space: SearchSpace, history: Sequence[Trial]) -> str:
        """Return the name of the sampler that the rules give.

        Args:
            space: what is searched.
            history: the finished trials.
        """
        if history and len(history[0].values) > 1:
            return "nsga2"
        steps = [trial for trial in history if trial.notes.get("auto") == "gradient"]
        if len(steps) < self.steps and _smooth(space) and _fits("gradient", space):
            return "gradient"
        if not _fits("gp", space) or len(float_parameters(space)) > self.few:
            return "tpe"
        return "gp" if len(history) < self.fits else "cmaes"


def _smooth(space: SearchSpace) -> bool:
    """Return whether problem and compositions have gradients."""
    names = [spec.partition(":")[0].strip() for spec in space.compositions or (space.start.composition,)]
    # some compositions choose entries by size, sign or chance: they define no slopes
    return space.smooth and all(hasattr(registry.load("composition", name), "slopes") for name in names)


def _fits(name: str, space: SearchSpace) -> bool:
    """Return whether the sampler is registered and can search the space."""
    return name in registry.names("sampler") and set(searched_parts(space)) <= registry.load("sampler", name).searches
