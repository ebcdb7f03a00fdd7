"""Evidence made by hand: every number a strategy may ask for, with known truth and counted calls."""

import dataclasses

import numpy as np

from merge_advisor.select import Evidence
from merge_advisor.weights.updates import LowRankUpdate


class Losses:
    """A fake shot loss that counts: 3 nats less what each member, at its weight, takes off, never below 1."""

    def __init__(self, drops):
        self.drops = drops
        self.calls = []
        self.shares = []

    def __call__(self, weights, share=1.0):
        self.calls.append(dict(weights))
        self.shares.append(share)
        return max(1.0, 3.0 - sum(weight * self.drops[position] for position, weight in weights.items()))


def lowrank(rng, out=6, width=5, rank=2, scale=1.0):
    return LowRankUpdate(
        rng.normal(size=(rank, width)).astype(np.float32), rng.normal(size=(out, rank)).astype(np.float32), scale
    )


def world(deltas, task, *, seed=0, **others):
    """Evidence on given deltas; losses, gains, texts and weights follow the deltas unless given."""
    deltas = np.asarray(deltas, np.float32)
    task = np.asarray(task, np.float32)
    n = len(deltas)
    likeness = deltas.astype(float) @ task.astype(float) / 10
    made = {
        "ids": tuple(f"model-{number:03}" for number in range(n)),
        "texts": tuple(f"model-{number:03} about thing{number}" for number in range(n)),
        "query": "thing0 thing1 thing2",
        "rng": np.random.default_rng(seed),
        "shot_loss": Losses(likeness),
        "gradient_gain": lambda weights, share=1.0: likeness,
        "weights_of": lambda p: {"layer.weight": lowrank(np.random.default_rng(p))},
    }
    return Evidence(deltas=deltas, task_delta=lambda: task, **(made | others))


def seeded(evidence, seed=0, **changes):
    """The same evidence with fresh randomness."""
    return dataclasses.replace(evidence, **({"rng": np.random.default_rng(seed)} | changes))


def random_world(n=9, d=7, seed=0):
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(n, d)) + 0.5
    return world(deltas, deltas[:2].sum(axis=0) + 0.1 * rng.normal(size=d), seed=seed)


def idle_world(n=5, d=4):
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
        gradient_gain=lambda weights, share=1.0: np.zeros(n),
        weights_of=lambda p: nothing,
    )
