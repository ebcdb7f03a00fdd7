"""Covariance matrix adaptation, for spaces of numbers.

Ours, and not Optuna's `CmaEsSampler` or the package `cmaes` that it wraps (measured in `eval/samplers.md`). Optuna's
keeps the optimiser pickled in the attributes of trials, and its start and step size can no longer be given in Optuna 6.
The package, given every generation anew as here, would be a dependency for the 40 lines of `_updated` and finds no
better merges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.tuning.samplers.history import (
    SPREAD,
    ask_for,
    ask_generator,
    asked_by,
    best_params,
    params_from_vector,
    reflected,
    single_values,
    unit_vectors,
)
from merge_advisor.tuning.space import check_searchable, float_parameters, to_point
from merge_advisor.tuning.values import Ask, SearchSpace, Trial


@dataclass(frozen=True)
class CmaEsSampler:
    """Draw from a normal distribution that moves and bends towards the better half of what it drew.

    The (μ/μ_w, λ)-CMA-ES of Hansen's tutorial (arXiv 1604.00772, its default constants, without active updates), in
    coordinates where every range is 0 to 1. It starts at the best trial before its first own one. Its generations are
    replayed from the trials at every ask: they are few, and what is replayed cannot be lost.

    >>> from merge_advisor.tuning.values import Point
    >>> ask = CmaEsSampler(sigma=0.1).ask(SearchSpace(Point((0.5, 0.5), "exact")), history=(), seed=0)
    >>> [round(weight, 2) for weight in ask.point.weights]
    [0.53, 0.47]
    """

    sigma: float = SPREAD
    """First distance of draws from the mean, in units of the ranges: σ is this divided by √d."""
    population: int = 0
    """λ, draws of a generation; 0: 4 + ⌊3 ln d⌋."""

    name: ClassVar[str] = "cmaes"
    searches: ClassVar[frozenset[str]] = frozenset({"density", "layers"})
    cost: ClassVar[str] = "the rows of one merge"

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError("sigma is above 0")
        if self.population != 0 and self.population < 4:
            raise ValueError("population is 4 or more, or 0 for the usual one")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """See `Sampler.ask`; a draw of the generation under way."""
        check_searchable(self, space)
        single_values(self, history)
        own = asked_by(self, history)
        d = len(float_parameters(space))
        size = self.population or 4 + int(3 * math.log(d))
        # the start is fixed by the trials before the first own one: later ones of others must not move it
        foreign = history[: history.index(own[0])] if own else history
        first = Trial(0, "", to_point(space, best_params(space, foreign)), (), (0.0,), True, 0)
        state = _State(unit_vectors(space, [first])[0], self.sigma / math.sqrt(d), np.zeros(d), np.zeros(d), np.eye(d))
        drawn, losses = unit_vectors(space, own), single_values(self, own)
        for end in range(size, len(own) + 1, size):  # whole generations; the last one is under way
            generation = slice(end - size, end)
            order = np.argsort(losses[generation], kind="stable")
            state = _updated(state, drawn[generation][order], end // size)
        z = ask_generator(seed, len(history)).standard_normal(d)
        drawn_now = reflected(state.mean + state.sigma * (_root(state.c) @ z))
        return ask_for(space, self, params_from_vector(space, drawn_now))


@dataclass(frozen=True, slots=True)
class _State:
    mean: Float64Array
    sigma: float
    path_sigma: Float64Array
    path_c: Float64Array
    c: Float64Array
    """(d, d) covariance of the draws in units of sigma²."""


def _root(c: Float64Array, power: float = 0.5) -> Float64Array:
    """Return the symmetric c^power; eigenvalues are kept above 0, where rounding may take those of a flat direction."""
    values, vectors_ = np.linalg.eigh(c)
    root: Float64Array = (vectors_ * np.maximum(values, 1e-14) ** power) @ vectors_.T
    return root


def _updated(state: _State, drawn: Float64Array, number: int) -> _State:
    """Return the state after generation `number` (from 1); `drawn` is (λ, d), best first. Names as in the tutorial."""
    size, d = drawn.shape
    mu = size // 2
    w = math.log((size + 1) / 2) - np.log(np.arange(1, mu + 1))
    w /= w.sum()
    mu_eff = 1 / float(np.sum(w**2))
    c_sigma = (mu_eff + 2) / (d + mu_eff + 5)
    d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + c_sigma
    c_c = (4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d)
    c_1 = 2 / ((d + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((d + 2) ** 2 + mu_eff))
    expected = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))

    y = (drawn[:mu] - state.mean) / state.sigma
    step = w @ y
    path_sigma = (1 - c_sigma) * state.path_sigma + math.sqrt(c_sigma * (2 - c_sigma) * mu_eff) * (
        _root(state.c, -0.5) @ step
    )
    length = float(np.linalg.norm(path_sigma))
    # a long path: the step size is still growing, and the covariance must not grow with it
    stalls = length / math.sqrt(1 - (1 - c_sigma) ** (2 * number)) >= (1.4 + 2 / (d + 1)) * expected
    going = 0.0 if stalls else 1.0
    path_c = (1 - c_c) * state.path_c + going * math.sqrt(c_c * (2 - c_c) * mu_eff) * step
    kept = 1 - c_1 - c_mu + (1 - going) * c_1 * c_c * (2 - c_c)
    c = kept * state.c + c_1 * np.outer(path_c, path_c) + c_mu * (y.T * w) @ y
    # the exponent and the step size are bounded: a single odd generation must not end the search
    sigma = state.sigma * math.exp(min(1.0, c_sigma / d_sigma * (length / expected - 1)))
    return _State(state.mean + state.sigma * step, min(max(sigma, 1e-6), 1.0), path_sigma, path_c, (c + c.T) / 2)
