"""What all samplers read from the finished trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import SpecError
from merge_advisor.tuning.space import (
    ChoiceParameter,
    NumberParameter,
    Numbers,
    Parameter,
    ParameterValue,
    boxes,
    inside,
    parameters,
    to_numbers,
    to_point,
    walk,
)
from merge_advisor.tuning.values import Ask, Sampler, SearchSpace, Trial

SPREAD = 0.2
"""How far first draws lie from the best trial: in units of the ranges, root of the mean square of their distance."""


def generator(seed: int, step: int) -> np.random.Generator:
    """Return the random numbers of one ask."""
    return np.random.default_rng([seed % 2**64, step])


def ask_for(space: SearchSpace, sampler: Sampler, numbers: Mapping[str, ParameterValue]) -> Ask:
    """Return the ask for the merge of `numbers`; its notes keep the sampler's name and the scale."""
    notes: dict[str, Any] = {"sampler": sampler.name}
    if "scale" in numbers:
        notes["scale"] = numbers["scale"]
    return Ask(to_point(space, numbers), notes=notes)


def asked_by(sampler: Sampler, history: Sequence[Trial]) -> list[Trial]:
    """Return the trials that this sampler asked for."""
    return [trial for trial in history if trial.notes.get("sampler") == sampler.name]


def numbers_of(space: SearchSpace, history: Sequence[Trial]) -> list[Numbers]:
    """Return the numbers of each trial, those outside the space moved to its edge."""
    return [inside(parameters(space), to_numbers(space, trial.point, trial.notes)) for trial in history]


def vectors(space: SearchSpace, history: Sequence[Trial]) -> NDArray[np.float64]:
    """Return the trials as (n, d) float64 in [0, 1], columns as in `boxes(space)`; the space holds no choice."""
    dimensions = boxes(space)
    rows = [[box.unit(float(numbers[box.name])) for box in dimensions] for numbers in numbers_of(space, history)]
    return np.array(rows, dtype=np.float64).reshape(len(history), len(dimensions))


def from_vector(space: SearchSpace, shares: NDArray[np.float64]) -> Numbers:
    """Return the numbers of (d,) shares of the ranges, the inverse of `vectors`; those beyond 0 and 1 go to the end."""
    return {box.name: box.at(float(share)) for box, share in zip(boxes(space), shares, strict=True)}


def trial_losses(history: Sequence[Trial]) -> NDArray[np.float64]:
    """Return the values, (n, m) float64, less is better; what is not finite becomes worse than all that is.

    Raises:
        SpecError: trials with different numbers of values.
    """
    if len({len(trial.values) for trial in history}) > 1:
        raise SpecError("study: its trials have different numbers of values; start another study")
    found = np.array([trial.values for trial in history], dtype=np.float64).reshape(len(history), -1)
    for column in found.T:  # views
        good = column[np.isfinite(column)]
        column[~np.isfinite(column)] = good.max() + max(float(np.ptp(good)), 1e-6) if len(good) else 0.0
    return found


def one_loss(sampler: Sampler, history: Sequence[Trial]) -> NDArray[np.float64]:
    """Return the values of trials that have one each, (n,) float64, as `trial_losses`.

    Raises:
        SpecError: the search is for a Pareto front, which this sampler does not know.
    """
    if not history:
        return np.zeros(0)
    found = trial_losses(history)
    if found.shape[1] != 1:
        raise SpecError(f"sampler {sampler.name}: searches for one value, not {found.shape[1]}; use --sampler nsga2")
    return found[:, 0]


def best_numbers(space: SearchSpace, history: Sequence[Trial]) -> Numbers:
    """Return the numbers of the trial with the least (mean) value, the first on ties; the start's if there is none."""
    if not history:
        return inside(parameters(space), to_numbers(space, space.start))
    return numbers_of(space, [history[int(np.argmin(trial_losses(history).mean(axis=1)))]])[0]


def near(space: SearchSpace, centre: Numbers, rng: np.random.Generator) -> Numbers:
    """Draw around `centre`: numbers normally, by SPREAD/√d of their range, choices as there in 3 of 4 draws, else any.

    By √d, because a merge's loss grows with the distance from a good one, whatever the number of members.
    """
    spread = SPREAD / math.sqrt(len(boxes(space)))

    def suggest(parameter: Parameter) -> ParameterValue:
        if isinstance(parameter, ChoiceParameter):
            kept = parameter.name in centre and rng.random() < 0.75
            return centre[parameter.name] if kept else parameter.values[int(rng.integers(len(parameter.values)))]
        middle = centre.get(parameter.name)
        share = rng.random() if middle is None else parameter.unit(float(middle)) + spread * rng.standard_normal()
        return bounce(parameter, share)

    return walk(space, suggest)


def bounced(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reflect shares of the ranges at the end they passed, so that draws do not pile up there."""
    found: NDArray[np.float64] = np.clip(np.where(shares < 0, -shares, np.where(shares > 1, 2 - shares, shares)), 0, 1)
    return found


def bounce(box: NumberParameter, share: float) -> float:
    """Return the value at a share of the range, reflected where it lies outside."""
    return box.at(float(bounced(np.array(share))))
