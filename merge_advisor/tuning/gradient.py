"""`gradient`: descent on a surrogate that knows slopes.

The loss is differentiable in the k weights, so one trial with a gradient (three forwards a row) tells k + 1 numbers
where a plain one (one forward) tells one. All of them, the plain trials' too, go into a Gaussian process on values and
derivatives; the next trial is where its mean is least inside a box around the best point so far, and the box grows and
shrinks with how well the last trial was foretold. Gradient trials and plain ones take turns: what a gradient taught is
worth one cheap step before the next is paid for. It follows valleys as quasi-Newton methods do (which are such
regressions on less data: Hennig and Kiefel, "Quasi-Newton methods: a new direction", JMLR 14, 2013), but needs no line
search, no curvature to start with, and no state: it is a function of the history.

Derivative observations: Solak et al., "Derivative observations in Gaussian process models of dynamic systems",
NIPS 2002.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import SpecError
from merge_advisor.tuning import Ask, Point, SearchSpace, Trial

Vector = NDArray[np.float64]
Surface = Callable[[Vector], tuple[float, Vector]]
"""A function of the weights (k,) with its gradient (k,)."""

SMOOTHNESS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Length scales tried, in units of a weight; the likelihood chooses. On the longest the surrogate is a parabola."""
NUGGET, ESTIMATED = 1e-6, 1e-2
"""Shares of the process's variance that are rounding, and the error of a value that racing estimated."""
OBSERVED = 400
"""Numbers a surrogate is fitted to at most: the fit takes their cube."""
SHORTEST = 1e-4
"""A step shorter than this in every weight changes no loss: the search has converged."""


@dataclass(frozen=True)
class Gradient:
    """Follow the gradient of the loss in the weights: few trials, every other one with a backward pass."""

    step: float = 0.5
    """Most that one weight changes in the first step; later steps adapt."""

    name: ClassVar[str] = "gradient"
    searches: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "every other trial takes a backward pass too: three forwards a row instead of one"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: a step that is not above 0.
        """
        if not 0 < self.step < math.inf:
            raise ValueError(f"step={self.step} is not above 0")

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """Return the next trial: the gradient at the best start first, then the surrogate's least point in the box.

        Weights alone are searched; composition, members and layers stay as in the start, and so does a factor on all
        weights (`space.scale`): the weights go anywhere within their bounds. A value is judged by the mean of its
        numbers. No point is asked twice, but for the start's, which was tried without its gradient. Where steps are
        too short to matter, plain trials a quarter of the range around look for another valley (`notes["restart"]`).

        Raises:
            SpecError: the space varies composition, members, density or layers, or the problem has no gradient.
        """
        _check(space)
        low, high = space.bounds
        known = [trial for trial in history if _usable(trial, space)]
        centres = [trial for trial in known if trial.whole and any(trial.point.weights)]  # not 0: see `_first`
        centre = min(centres, key=lambda trial: (_value(trial), trial.number), default=None)
        if centre is None:
            return self._first(space, history, seed)
        start = np.clip(np.array(centre.point.weights), low, high)
        slopes = [trial for trial in known if trial.gradient is not None]
        if not slopes:
            if _tried(start, [trial for trial in history if trial.gradient is not None]):
                return _elsewhere(space, start, history, seed, self.step)
            return _asked(space, start, gradient=True, notes={"reach": self.step})
        last = next((trial for trial in reversed(history) if "reach" in trial.notes), slopes[-1])
        reach = _reach(last, self.step, high - low)
        surface = _surrogate(known, slopes, start)
        aim = _least(surface, start, np.maximum(start - reach, low), np.minimum(start + reach, high))
        length = float(np.abs(aim - start).max())
        if length < SHORTEST or _tried(aim, history):
            return _elsewhere(space, start, history, seed, self.step)
        notes = {"best": _value(centre), "expected": surface(aim)[0], "length": length, "reach": reach}
        return _asked(space, aim, gradient=last.gradient is None, notes=notes)

    def _first(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """Nothing finite is known: the space's start, or where that was tried already, somewhere near it."""
        k = len(space.start.weights)
        start = np.clip(np.array(space.start.weights), *space.bounds)
        if not start.any():  # 0 is a stationary point of a product of sums
            start = np.clip(np.full(k, 1 / k), *space.bounds)
        if _tried(start, history):
            return _elsewhere(space, start, history, seed, self.step)
        return _asked(space, start, gradient=True, notes={"reach": self.step})


def _check(space: SearchSpace) -> None:
    varied = {
        "composition": len(set(space.compositions) - {space.start.composition}) > 0,
        "members": space.members,
        "density": space.density is not None,
        "layers": space.layers > 0,
    }
    if not space.smooth:
        raise SpecError(
            "sampler gradient: this objective has no gradient in the weights; choose --objective loss or tpe"
        )
    if found := ", ".join(name for name, asked in varied.items() if asked):
        raise SpecError(f"sampler gradient: it searches weights only, not {found}; use another sampler or fix these")


def _usable(trial: Trial, space: SearchSpace) -> bool:
    """Whether a trial is an observation of the function that is searched: finite, weights alone varied."""
    same = (trial.point.composition, trial.point.layers) == (space.start.composition, space.start.layers)
    return same and all(map(math.isfinite, (*trial.values, *(trial.gradient or ()))))


def _value(trial: Trial) -> float:
    return sum(trial.values) / len(trial.values)


def _asked(space: SearchSpace, weights: Vector, *, gradient: bool, notes: Mapping[str, float]) -> Ask:
    point: Point = replace(space.start, weights=tuple(weights.tolist()))
    return Ask(point, gradient=gradient, notes=notes)


def _tried(weights: Vector, history: Sequence[Trial]) -> bool:
    return any(np.abs(weights - trial.point.weights).max() < SHORTEST / 10 for trial in history)


def _reach(last: Trial, first: float, widest: float) -> float:
    """Half the side of the box for the next step, from how the last step went."""
    reach = float(last.notes.get("reach", first))
    if "expected" not in last.notes:
        return reach
    best, length = float(last.notes["best"]), float(last.notes["length"])
    gain = (best - _value(last)) / max(best - float(last.notes["expected"]), 1e-12)
    if not gain > 0.25:  # not a number, too
        return max(length / 2, SHORTEST)
    return min(2 * reach, widest) if gain > 0.75 and length > 0.8 * reach else reach


def _elsewhere(space: SearchSpace, start: Vector, history: Sequence[Trial], seed: int, reach: float) -> Ask:
    """A plain trial at a random point within a quarter of the range; the next step may be `reach` long again."""
    low, high = space.bounds
    rng = np.random.default_rng([seed, len(history)])
    aim = start
    for _ in range(100):  # bounds without width hold one point only
        aim = np.clip(start + rng.uniform(-0.25, 0.25, len(start)) * (high - low), low, high)
        if not _tried(aim, history):
            break
    return _asked(space, aim, gradient=False, notes={"restart": 1.0, "reach": reach})


def _least(surface: Surface, start: Vector, low: Vector, high: Vector) -> Vector:
    """Descend from `start` inside a box."""
    from scipy.optimize import minimize

    found = minimize(surface, start, jac=True, method="L-BFGS-B", bounds=list(zip(low, high, strict=True)))
    aim: Vector = np.clip(found.x, low, high)
    return aim


def _surrogate(known: Sequence[Trial], slopes: Sequence[Trial], start: Vector) -> Surface:
    """Fit the process to the trials nearest to `start`, at the smoothness of greatest likelihood."""

    def nearest(trials: Sequence[Trial], most: int) -> list[Trial]:
        return sorted(trials, key=lambda t: (float(np.sum((start - t.point.weights) ** 2)), t.number))[: max(1, most)]

    slopes = nearest(slopes, OBSERVED * 3 // 4 // len(start))
    known = nearest(known, OBSERVED // 4)
    x, at = (np.array([trial.point.weights for trial in trials]) for trials in (known, slopes))  # (n, k), (m, k)
    told = np.array([_value(trial) for trial in known] + [d for trial in slopes for d in trial.gradient or ()])
    noise = np.full(len(told), NUGGET)
    noise[: len(known)] = [NUGGET if trial.whole else ESTIMATED for trial in known]
    fits = [_fit(x, at, told, noise, scale) for scale in SMOOTHNESS]
    return max(fits, key=lambda fit: fit[0])[1]


def _fit(x: Vector, at: Vector, told: Vector, noise: Vector, scale: float) -> tuple[float, Surface]:
    """Log-likelihood and mean of the process with kernel exp(-r²/2) on weights / scale; constant mean, variance by fit.

    Args:
        x: (n, k) where values are known.
        at: (m, k) where gradients are.
        told: (n + m·k,) values, then gradients.
        noise: (n + m·k,) the share of the variance in each that is error.
        scale: length scale.
    """
    from scipy.linalg import cho_factor, cho_solve

    x, at = x / scale, at / scale
    (n, k), m = x.shape, len(at)
    told = np.concatenate([told[:n], told[n:] * scale])
    cross = x[:, None] - at  # (n, m, k)
    between = at[:, None] - at  # (m, m, k)
    values = np.exp(-0.5 * ((x[:, None] - x) ** 2).sum(-1))
    mixed = (np.exp(-0.5 * (cross**2).sum(-1))[..., None] * cross).reshape(n, m * k)
    inner = np.eye(k) - between[..., :, None] * between[..., None, :]  # (m, m, k, k)
    inner *= np.exp(-0.5 * (between**2).sum(-1))[..., None, None]
    covariance = np.block([[values, mixed], [mixed.T, inner.transpose(0, 2, 1, 3).reshape(m * k, m * k)]])
    covariance[np.diag_indices_from(covariance)] += noise
    factor = cho_factor(covariance, lower=True)
    level = np.concatenate([np.ones(n), np.zeros(m * k)])
    lifted = cho_solve(factor, level)
    mean = float(lifted @ told / (lifted @ level))
    weight = cho_solve(factor, told - mean * level)
    variance = float((told - mean * level) @ weight) / len(told)
    likelihood = -0.5 * len(told) * math.log(max(variance, 1e-300)) - float(np.log(np.diag(factor[0])).sum())
    of_values, of_slopes = weight[:n], weight[n:].reshape(m, k)

    def surface(weights: Vector) -> tuple[float, Vector]:
        to_values, to_slopes = weights / scale - x, weights / scale - at
        near = np.exp(-0.5 * (to_values**2).sum(-1)) * of_values  # (n,)
        close = np.exp(-0.5 * (to_slopes**2).sum(-1))  # (m,)
        along = close * (to_slopes * of_slopes).sum(-1)
        slope = close @ of_slopes - along @ to_slopes - near @ to_values
        return mean + float(near.sum() + along.sum()), slope / scale

    return likelihood, surface
