"""What all samplers read from the finished trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.errors import SpecError
from merge_advisor.tuning.space import (
    CategoricalParameter,
    FloatParameter,
    Parameter,
    ParameterValue,
    Params,
    clip_params,
    float_parameters,
    parameters,
    suggest_params,
    to_params,
    to_point,
)
from merge_advisor.tuning.values import Ask, Sampler, SearchSpace, Trial

SPREAD = 0.2
"""How far first draws lie from the best trial: in units of the ranges, root of the mean square of their distance."""


def ask_generator(seed: int, step: int) -> np.random.Generator:
    """Return the random numbers of one ask.

    An ask has a generator of its own, so that what it draws depends on no earlier ask: a resumed search then draws what
    an undisturbed one draws.

    Args:
        seed: of the search.
        step: the number of finished trials.
    """
    return np.random.default_rng([seed % 2**64, step])


def ask_for(space: SearchSpace, sampler: Sampler, params: Mapping[str, ParameterValue]) -> Ask:
    """Return the ask for a merge; its notes keep the sampler's name and the scale, which the merge does not show.

    Args:
        space: what is searched.
        sampler: who asks.
        params: of the merge.
    """
    notes: dict[str, Any] = {"sampler": sampler.name}
    if "scale" in params:
        notes["scale"] = params["scale"]
    return Ask(to_point(space, params), notes=notes)


def asked_by(sampler: Sampler, history: Sequence[Trial]) -> list[Trial]:
    """Return the trials that a sampler asked for.

    Args:
        sampler: known by its name.
        history: the finished trials.
    """
    return [trial for trial in history if trial.notes.get("sampler") == sampler.name]


def params_of(space: SearchSpace, history: Sequence[Trial]) -> list[Params]:
    """Return the parameters of each trial, those outside the space moved to its edge.

    Args:
        space: what is searched.
        history: the finished trials.

    Raises:
        SpecError: a trial of another plan: see `space.to_params`.
    """
    return [clip_params(parameters(space), to_params(space, trial.point, trial.notes)) for trial in history]


def unit_vectors(space: SearchSpace, history: Sequence[Trial]) -> Float64Array:
    """Return the trials as (n, d) float64 in [0, 1], columns as in `space.float_parameters`.

    Args:
        space: what is searched; it holds no choice.
        history: the n finished trials.

    Raises:
        SpecError: a trial of another plan: see `space.to_params`.
    """
    dimensions = float_parameters(space)
    rows = [[one.to_unit(float(params[one.name])) for one in dimensions] for params in params_of(space, history)]
    return np.array(rows, dtype=np.float64).reshape(len(history), len(dimensions))


def params_from_vector(space: SearchSpace, shares: Float64Array) -> Params:
    """Return the parameters at shares of the ranges, the inverse of `unit_vectors`.

    Args:
        space: what is searched; it holds no choice.
        shares: (d,) float64; those beyond 0 and 1 give the end of the range.
    """
    return {one.name: one.from_unit(float(share)) for one, share in zip(float_parameters(space), shares, strict=True)}


def trial_values(history: Sequence[Trial]) -> Float64Array:
    """Return the values, (n, m) float64, less is better; what is not finite becomes worse than all that is.

    Args:
        history: the n finished trials, of m values each.

    Raises:
        SpecError: trials with different numbers of values.
    """
    if len({len(trial.values) for trial in history}) > 1:
        raise SpecError("study: its trials have different numbers of values; start another study")
    values = np.array([trial.values for trial in history], dtype=np.float64).reshape(len(history), -1)
    for column in values.T:  # views
        good = column[np.isfinite(column)]
        # by how much does not matter to ranks, but a model of the values must not be bent by an enormous one
        column[~np.isfinite(column)] = good.max() + max(float(np.ptp(good)), 1e-6) if len(good) else 0.0
    return values


def single_values(sampler: Sampler, history: Sequence[Trial]) -> Float64Array:
    """Return the values of trials that have one each, (n,) float64, as `trial_values`.

    Args:
        sampler: who asks, for the message.
        history: the n finished trials.

    Raises:
        SpecError: the search is for a Pareto front, which this sampler does not know.
    """
    if not history:
        return np.zeros(0)
    values = trial_values(history)
    if values.shape[1] != 1:
        raise SpecError(f"sampler {sampler.name}: searches for one value, not {values.shape[1]}; use `sampler=nsga2`")
    return values[:, 0]


def best_params(space: SearchSpace, history: Sequence[Trial]) -> Params:
    """Return the parameters of the trial with the least (mean) value, the first of equals.

    Args:
        space: what is searched.
        history: the finished trials; where there are none, the parameters are the start's.
    """
    if not history:
        return clip_params(parameters(space), to_params(space, space.start))
    return params_of(space, [history[int(np.argmin(trial_values(history).mean(axis=1)))]])[0]


def sample_near(space: SearchSpace, centre: Params, rng: np.random.Generator) -> Params:
    """Return a draw around `centre`: numbers normally distributed, choices as there in 3 of 4 draws, else any.

    The deviation is SPREAD/√d of a range, because a merge's loss grows with the distance from a good one, whatever the
    number of members.

    Args:
        space: what is searched.
        centre: the parameters to draw around.
        rng: of the ask.
    """
    spread = SPREAD / math.sqrt(len(float_parameters(space)))

    def suggest(parameter: Parameter) -> ParameterValue:
        if isinstance(parameter, CategoricalParameter):
            kept = parameter.name in centre and rng.random() < 0.75
            return centre[parameter.name] if kept else parameter.values[int(rng.integers(len(parameter.values)))]
        middle = centre.get(parameter.name)
        share = rng.random() if middle is None else parameter.to_unit(float(middle)) + spread * rng.standard_normal()
        return reflect(parameter, share)

    return suggest_params(space, suggest)


def reflected(shares: Float64Array) -> Float64Array:
    """Return shares of the ranges reflected at the end they passed, so that draws do not pile up there.

    >>> reflected(np.array([-0.25, 0.5, 1.25])).tolist()
    [0.25, 0.5, 0.75]

    Args:
        shares: float64 of any shape.
    """
    inside: Float64Array = np.clip(np.where(shares < 0, -shares, np.where(shares > 1, 2 - shares, shares)), 0, 1)
    return inside


def reflect(parameter: FloatParameter, share: float) -> float:
    """Return the value at a share of the range, reflected where it lies outside.

    Args:
        parameter: has the range.
        share: 0 is its lower end, 1 its upper one.
    """
    return parameter.from_unit(float(reflected(np.array(share))))
