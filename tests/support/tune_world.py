"""Losses with known answers for the samplers' tests, and a loop that only asks and tells."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from merge_advisor import registry
from merge_advisor.tuning import Point, SearchSpace, Trial

Loss = Callable[[Point], float]
Slope = Callable[[Point], tuple[float, ...]]
"""The gradient of a loss."""


def space_of(k: int, *, start: Sequence[float] | None = None, **fields: Any) -> SearchSpace:
    return SearchSpace(Point(tuple(start or [0.5 / k] * k), "exact"), **fields)


SPACES = {
    "weights": space_of(3),
    "one member": space_of(1),
    "scale": space_of(3, scale=(0.25, 4.0), bounds=(-1.0, 2.0)),
    "positive": space_of(3, bounds=(0.1, 1.0)),
    "layers": space_of(2, layers=3),
    "composition": space_of(3, compositions=("exact", "lorahub")),
    "members": space_of(3, members=True),
    "everything": space_of(3, members=True, scale=(0.5, 2.0), compositions=("lorahub", "exact"), layers=2),
}


def bowl(k: int, seed: int, condition: float = 30.0) -> tuple[Loss, Slope]:
    """A quadratic whose axes are turned, at its least at a distance of about 1 from 0; returns (loss, gradient)."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(k, k)))
    curves = (axes * np.geomspace(1, 1 / condition, k)) @ axes.T
    best = rng.normal(size=k) / np.sqrt(k)

    def loss(point: Point) -> float:
        away = np.array(point.weights) - best
        return float(away @ curves @ away)

    return loss, lambda point: tuple(float(g) for g in 2 * curves @ (np.array(point.weights) - best))


def trial(
    number: int,
    label: str,
    point: Point,
    values: Sequence[float],
    notes: Mapping[str, Any] | None = None,
    gradient: tuple[float, ...] | None = None,
) -> Trial:
    """A trial on one row, whose loss is the value."""
    sloped = () if gradient is None else (0,)
    return Trial(number, label, point, tuple(values), tuple(values), True, 1, gradient, sloped, notes or {})


def first_trials(space: SearchSpace, losses: Sequence[Loss]) -> list[Trial]:
    """What the coordinator tries before any sampler is asked."""
    k = len(space.start.weights)
    points = {
        "plan": space.start.weights,
        "uniform": (1 / k,) * k,
        "anchor": (1.0, *[0.0] * (k - 1)),
        "base": (0.0,) * k,
    }
    made = [(label, dataclasses.replace(space.start, weights=tuple(weights))) for label, weights in points.items()]
    return [trial(i, label, point, [loss(point) for loss in losses]) for i, (label, point) in enumerate(made)]


def grow(
    spec: str,
    space: SearchSpace,
    history: Sequence[Trial],
    count: int,
    losses: Sequence[Loss],
    seed: int,
    slope: Slope | None = None,
) -> list[Trial]:
    """Ask and tell until there are `count` trials."""
    sampler = registry.build("sampler", spec)
    history = list(history)
    while len(history) < count:
        ask = sampler.ask(space, history, seed)
        gradient = slope(ask.point) if ask.gradient and slope else None
        values = [loss(ask.point) for loss in losses]
        history.append(trial(len(history), sampler.name, ask.point, values, ask.notes, gradient))
    return history
