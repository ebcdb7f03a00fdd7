"""A Gaussian process of several outputs, fitted to values and derivatives.

The covariance of output a at x with output b at y is (ρ + (1 - ρ)·[a = b]) · exp(-|x - y|²/2s²): a share ρ of how the
outputs vary is common to them (the intrinsic model of coregionalisation: Bonilla, Chai and Williams, "Multi-task
Gaussian process prediction", NIPS 2007), so that what a derivative of one output teaches counts for the others. Each
output has a constant mean; means and variance by generalised least squares, length scale s and share ρ by the
likelihood. Derivative observations: Solak et al., "Derivative observations in Gaussian process models of dynamic
systems", NIPS 2002.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge_advisor.arrays import Float64Array

Surface = Callable[[Float64Array], tuple[Float64Array, Float64Array]]
"""From (k,) to the m outputs there, (m,), and their gradients, (m, k)."""

_SMOOTHNESS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Length scales tried, in units of an input. On the longest the process is nearly a parabola."""
_COMMON = (0.0, 0.5, 0.8, 0.95)
"""Shares of the variance tried that are common to the outputs."""
_NUGGET = 1e-6
"""Share of the variance that is rounding."""


class KnownGradient(NamedTuple):
    """A known gradient of one output.

    >>> KnownGradient(at=0, output=1, gradient=np.array([0.5, -0.2])).output
    1
    """

    at: int
    """Position of its point."""
    output: int
    gradient: Float64Array
    """(k,)."""


def fit_surrogate(points: Float64Array, values: Float64Array, gradients: Sequence[KnownGradient]) -> Surface:
    """Return the mean of the process, at the length scale and then the common share of greatest likelihood.

    >>> surface = fit_surrogate(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]), gradients=())
    >>> values, gradients = surface(np.array([1.0]))
    >>> round(float(values[0]), 3), gradients.shape
    (1.0, (1, 1))

    Args:
        points: (t, k) inputs.
        values: (t, m) outputs there, NaN where not known; every output is known somewhere.
        gradients: those known.
    """
    (t, k), m = points.shape, values.shape[1]
    at, output = np.nonzero(np.isfinite(values))
    entries = np.concatenate([at, *(np.arange(t + s.at * k, t + (s.at + 1) * k) for s in gradients)])
    outputs = np.concatenate([output, np.repeat([s.output for s in gradients], k)]).astype(np.int64)
    observed = np.concatenate([values[at, output], *(s.gradient for s in gradients)])
    known = _Known(points, entries, outputs, observed, len(at), m)
    grams = {scale: _covariances(points / scale) for scale in _SMOOTHNESS}
    fits = {scale: _fit(known, grams[scale], scale, _COMMON[len(_COMMON) // 2]) for scale in _SMOOTHNESS}
    scale = max(fits, key=lambda scale: fits[scale][0])
    # one after the other: both at once would be 20 fits instead of 9, and a fit is what an ask costs
    _, surface = max((_fit(known, grams[scale], scale, share) for share in _COMMON), key=lambda one: one[0])
    return surface


class _Known(NamedTuple):
    """What is known, one number after another: values, then derivatives."""

    points: Float64Array
    entries: NDArray[np.int64]
    """(N,) rows of `_covariances`."""
    outputs: NDArray[np.int64]
    observed: Float64Array
    """(N,)."""
    values: int
    """How many of the N are values."""
    width: int
    """m."""


def _covariances(x: Float64Array) -> Float64Array:
    """exp(-r²/2) between values, then derivatives point by point, at (t, k) points: (t + t·k) squared."""
    t, k = x.shape
    away = x[:, None] - x
    near = np.exp(-0.5 * (away**2).sum(-1))
    mixed = (near[..., None] * away).reshape(t, t * k)
    inner = near[..., None, None] * (np.eye(k) - away[..., :, None] * away[..., None, :])
    return np.block([[near, mixed], [mixed.T, inner.transpose(0, 2, 1, 3).reshape(t * k, t * k)]])


def _fit(known: _Known, gram: Float64Array, scale: float, share: float) -> tuple[float, Surface]:
    """Return the log-likelihood, and the mean of the process."""
    from scipy.linalg import cho_factor, cho_solve

    (t, k), size = known.points.shape, len(known.observed)
    alike = share + (1 - share) * np.eye(known.width)
    covariance = gram[np.ix_(known.entries, known.entries)] * alike[np.ix_(known.outputs, known.outputs)]
    # points that nearly coincide would make the matrix singular in float64
    covariance[np.diag_indices(size)] += _NUGGET
    factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
    observed = known.observed.copy()
    observed[known.values :] *= scale
    level = np.zeros((size, known.width))
    level[np.arange(known.values), known.outputs[: known.values]] = 1.0
    lifted = cho_solve(factor, level)
    means = np.linalg.solve(level.T @ lifted, lifted.T @ observed)
    rest = observed - level @ means
    weight = cho_solve(factor, rest)
    variance = max(float(rest @ weight) / size, 1e-300)
    likelihood = -0.5 * size * math.log(variance) - float(np.log(np.diag(factor[0])).sum())
    likelihood += (size - known.values) * math.log(scale)  # of the derivatives as observed, not as scaled
    spread = np.zeros((len(gram), known.width))
    np.add.at(spread, known.entries, alike[known.outputs] * weight[:, None])
    of_values, of_slopes = spread[:t], spread[t:].reshape(t, k, -1)
    x = known.points / scale

    def surface(point: Float64Array) -> tuple[Float64Array, Float64Array]:
        away = point / scale - x
        near = np.exp(-0.5 * (away**2).sum(-1))
        along = near[:, None] * np.einsum("tk,tkm->tm", away, of_slopes)
        straight = near[:, None] * of_values
        gradient = np.einsum("t,tkm->mk", near, of_slopes) - (along + straight).T @ away
        return means + (along + straight).sum(0), gradient / scale

    return likelihood, surface
