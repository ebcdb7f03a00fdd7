"""Non-dominated sorting: the front of merges between two tasks.

Ours, and not Optuna's `NSGAIISampler` (measured in `eval/samplers.md`): replayed from the trials Optuna's finds worse
fronts and takes longer. It draws the first generation blindly, and where members may be left out it crosses no weights,
since it crosses only parameters that all trials have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from merge_advisor.arrays import Float64Array
from merge_advisor.tuning.samplers.history import (
    SPREAD,
    ask_for,
    ask_generator,
    best_params,
    params_of,
    reflect,
    sample_near,
    trial_values,
)
from merge_advisor.tuning.space import (
    CategoricalParameter,
    Parameter,
    ParameterValue,
    Params,
    check_searchable,
    parameters,
    suggest_params,
    to_point,
)
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class Nsga2Sampler:
    """Breed the merges that no other beats on all tasks, the rarer the likelier (NSGA-II, Deb et al. 2002).

    One child an ask instead of a generation at a time: the parents are always the best of all trials, so that nothing
    has to be remembered. With one value it is a plain genetic search.

    >>> from merge_advisor.tuning.values import Point
    >>> ask = Nsga2Sampler(startup=10).ask(SearchSpace(Point((0.5, 0.5), "exact")), history=(), seed=0)
    >>> ask.notes
    {'sampler': 'nsga2'}
    """

    population: int = 20
    """Parents: this many trials, by front and then by distance to their neighbours on it."""
    startup: int = 10
    """Trials before breeding begins, the coordinator's first ones included; drawn near the best mean until then."""

    name: ClassVar[str] = "nsga2"
    searches: ClassVar[frozenset[str]] = frozenset({"composition", "members", "density", "layers"})
    cost: ClassVar[str] = "the rows of one merge, of each task"

    def __post_init__(self) -> None:
        if self.population < 2 or self.startup < 2:
            raise ValueError("population and startup are at least 2")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; a child of two parents that won a tournament.

        It is unlike all trials where 20 draws find such a one.
        """
        check_searchable(self, space)
        rng = ask_generator(seed, len(history))
        if len(history) < self.startup:
            return ask_for(space, self, sample_near(space, best_params(space, history), rng))
        losses = trial_values(history)
        ranks = fronts(losses)
        distances = crowding(losses, ranks)
        order = np.lexsort((np.arange(len(history)), -distances, ranks))[: self.population]
        parents = params_of(space, [history[i] for i in order])
        known = {trial.point for trial in history}

        def parent() -> Params:
            return parents[int(rng.integers(len(parents), size=2).min())]  # sorted: the smaller place wins

        child: Params = {}
        for _ in range(20):
            child = _child(space, parent(), parent(), rng)
            if to_point(space, child) not in known:
                break
        return ask_for(space, self, child)


def fronts(losses: Float64Array) -> NDArray[np.int64]:
    """Return the front each row of (n, m) losses is on, (n,): 0 where no row dominates it, 1 where only such do.

    A row dominates another where it is nowhere more and somewhere less.

    >>> fronts(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [0, 0, 1]

    Args:
        losses: (n, m) float64.
    """
    no_more = np.all(losses[:, None, :] <= losses[None, :, :], axis=2)
    dominates = np.logical_and(no_more, no_more.T ^ True)  # (n, n), row over column: no more, and not equal
    ranks = np.full(len(losses), -1, dtype=np.int64)
    for front in range(len(losses)):
        left = ranks < 0
        if not left.any():
            break
        ranks[left & ~np.any(dominates[left], axis=0)] = front
    return ranks


def crowding(losses: Float64Array, ranks: NDArray[np.int64]) -> Float64Array:
    """Return how far each row's neighbours on its front are apart, summed over the losses; infinite at its ends.

    >>> crowding(np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0]]), np.array([0, 0, 0])).tolist()
    [inf, 2.0, inf]

    Args:
        losses: (n, m) float64.
        ranks: (n,) the front of each row: see `fronts`.
    """
    distances = np.zeros(len(losses))
    for front in range(int(ranks.max()) + 1):
        members = np.flatnonzero(ranks == front)
        for column in losses[members].T:
            order = members[np.argsort(column, kind="stable")]
            values = np.sort(column)
            extent = values[-1] - values[0]
            distances[order[[0, -1]]] = np.inf
            if extent > 0:
                distances[order[1:-1]] += (values[2:] - values[:-2]) / extent
    return distances


def _child(space: SearchSpace, one: Params, other: Params, rng: np.random.Generator) -> Params:
    """Values on the line between the parents and a quarter beyond, one in d of them moved by SPREAD of its range."""
    rate = 1 / len(parameters(space))

    def suggest(parameter: Parameter) -> ParameterValue:
        moved = rng.random() < rate
        both = [params[parameter.name] for params in (one, other) if parameter.name in params]
        if isinstance(parameter, CategoricalParameter):
            pick = parameter.values if moved or not both else both
            return pick[int(rng.integers(len(pick)))]
        if not both:
            return parameter.from_unit(rng.random())
        first, last = parameter.to_unit(float(both[0])), parameter.to_unit(float(both[-1]))
        share = first + rng.uniform(-0.25, 1.25) * (last - first) + moved * SPREAD * rng.standard_normal()
        return reflect(parameter, share)

    return suggest_params(space, suggest)
