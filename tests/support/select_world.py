"""Evidence made by hand: every number a strategy may ask for, with known truth and counted calls."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from merge_advisor.arrays import Float64Array, FloatingArray
from merge_advisor.select import Choice, Evidence
from merge_advisor.weights.updates import LowRankUpdate


class CountedLosses:
    """A fake shot loss that counts: 3 nats less what each member, at its weight, takes off, never below 1."""

    def __init__(self, drops: ArrayLike = ()) -> None:
        self.drops = np.asarray(drops, np.float64)
        self.calls: list[dict[int, float]] = []
        self.shares: list[float] = []

    def __call__(self, weights: Mapping[int, float], share: float = 1.0, /) -> float:
        self.calls.append(dict(weights))
        self.shares.append(share)
        return self.loss_of(weights, share)

    def loss_of(self, weights: Mapping[int, float], share: float) -> float:
        """What a call returns; subclasses have other losses."""
        return max(1.0, 3.0 - sum(weight * float(self.drops[position]) for position, weight in weights.items()))


def lowrank(rng: np.random.Generator, out: int = 6, width: int = 5, rank: int = 2, scale: float = 1.0) -> LowRankUpdate:
    return LowRankUpdate(
        rng.normal(size=(rank, width)).astype(np.float32), rng.normal(size=(out, rank)).astype(np.float32), scale
    )


def world(deltas: ArrayLike, task_delta: ArrayLike, *, seed: int = 0, **others: Any) -> Evidence:
    """Evidence on given deltas; losses, gains, texts and weights follow the deltas unless given."""
    rows = np.asarray(deltas, np.float32)
    task = np.asarray(task_delta, np.float32)
    n = len(rows)
    likeness = rows.astype(float) @ task.astype(float) / 10
    made: dict[str, Any] = {
        "ids": tuple(f"model-{number:03}" for number in range(n)),
        "texts": tuple(f"model-{number:03} about thing{number}" for number in range(n)),
        "query": "thing0 thing1 thing2",
        "rng": np.random.default_rng(seed),
        "shot_loss": CountedLosses(likeness),
        "gradient_gain": constant_gains(likeness),
        "weights_of": lambda position: {"layer.weight": lowrank(np.random.default_rng(position))},
    }
    return Evidence(deltas=rows, task_delta=lambda: task, **(made | others))


def constant_gains(gains: ArrayLike) -> Any:
    """A gradient gain that is the same beside every merge and on every share of the rows."""
    fixed: FloatingArray = np.asarray(gains, np.float64)
    return lambda weights, share=1.0: fixed


def seeded(evidence: Evidence, seed: int = 0, **changes: Any) -> Evidence:
    """The same evidence with fresh randomness."""
    return dataclasses.replace(evidence, **({"rng": np.random.default_rng(seed)} | changes))


def random_world(n: int = 9, d: int = 7, seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(n, d)) + 0.5
    return world(deltas, deltas[:2].sum(axis=0) + 0.1 * rng.normal(size=d), seed=seed)


def idle_world(n: int = 5, d: int = 4) -> Evidence:
    """Nothing in this pool adds anything to anything."""
    nothing = {
        "layer.weight": LowRankUpdate(np.zeros((1, 3), np.float32), np.zeros((3, 1), np.float32)),
    }
    return world(
        np.zeros((n, d)),
        np.zeros(d),
        texts=("",) * n,
        query="",
        shot_loss=lambda weights, share=1.0: 2.0,
        gradient_gain=constant_gains(np.zeros(n)),
        weights_of=lambda position: nothing,
    )


def places(choice: Choice) -> list[int]:
    """The positions of a choice, in its order."""
    return [pick.position for pick in choice.picks]


def gains_of(choice: Choice) -> Float64Array:
    """The gains of a choice that measured all of them, in its order."""
    gains = [pick.gain for pick in choice.picks]
    assert None not in gains
    return np.array(gains, np.float64)
