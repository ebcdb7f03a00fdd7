"""Objectives that trade similarity to the task against similarity to those already chosen.

Each is a set function grown one candidate at a time: `gains()` gives what every candidate would add now, `add` takes
one. `diversity` (0.01..0.99) moves each from similarity to the task alone towards spread alone.
Similarities are cosines clipped at 0: pointing away from a chosen member is no merit in itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from merge_advisor.arrays import Float64Array

_ROUND_OFF = 1e-10
"""Squared length under which what is left of a unit row is rounding."""


class SetObjective(Protocol):
    """A set function and the set it has been grown to.

    >>> grown: SetObjective = DIVERSITY_OBJECTIVES["mmr"](np.eye(2), np.array([0.9, 0.4]), 0.5)
    >>> grown.add(0)
    >>> grown.gains()
    array([-0.05,  0.2 ])
    """

    def gains(self) -> Float64Array:
        """Return what adding each candidate would gain now, (n,) float64; -inf where nothing is left of it."""
        ...

    def add(self, position: int) -> None:
        """Put a candidate, given by its position, into the set."""
        ...


class Mmr:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    gain(i) = (1 - diversity)·cos(i, task) - diversity·max over chosen j of cos(i, j).

    >>> mmr = Mmr(np.array([[1.0, 0.0], [0.6, 0.8]]), relevance=np.array([1.0, 0.5]), diversity=0.5)
    >>> mmr.add(0)
    >>> mmr.gains().round(6).tolist()
    [0.0, -0.05]
    """

    def __init__(self, rows: Float64Array, relevance: Float64Array, diversity: float) -> None:
        self.rows, self.relevance, self.diversity = rows, relevance, diversity
        self.redundancy = np.zeros(len(rows))

    def gains(self) -> Float64Array:
        """See `SetObjective.gains`."""
        return (1 - self.diversity) * self.relevance - self.diversity * self.redundancy

    def add(self, position: int) -> None:
        """See `SetObjective.add`."""
        self.redundancy = np.maximum(self.redundancy, self.rows @ self.rows[position])


class Facility:
    """Facility location: how well the set stands for the candidates that are like the task.

    f(S) = Σᵢ rᵢ·max over j in S of cos(i, j) / Σᵢ rᵢ with rᵢ = max(0, cos(i, task))^(1/diversity - 1), after the
    submodular summaries of Lin and Bilmes (ACL 2011). Small diversity: only the task's neighbourhood has to be covered.
    Holds an (n, n) float32 matrix.

    >>> facility = Facility(np.array([[1.0, 0.0], [0.0, 1.0]]), relevance=np.array([0.6, 0.2]), diversity=0.5)
    >>> facility.gains().round(6).tolist()
    [0.75, 0.25]
    """

    def __init__(self, rows: Float64Array, relevance: Float64Array, diversity: float) -> None:
        kept = relevance > 0
        weights = np.where(kept, relevance, 0.0) ** (1 / diversity - 1) * kept
        # tiny: where nothing is like the task the gains are 0, not NaN
        self.weights = weights[kept] / max(weights.sum(), np.finfo(float).tiny)
        single = rows.astype(np.float32)
        self.alike = np.maximum(single @ single[kept].T, 0)  # (n, candidates like the task)
        self.covered = np.zeros(self.alike.shape[1], np.float32)

    def gains(self) -> Float64Array:
        """See `SetObjective.gains`; the rises of f."""
        rises: Float64Array = np.maximum(self.alike - self.covered, 0).astype(np.float64) @ self.weights
        return rises

    def add(self, position: int) -> None:
        """See `SetObjective.add`."""
        self.covered = np.maximum(self.covered, self.alike[position])


class Kdpp:
    """Greedy MAP of a determinantal point process (Chen et al., NeurIPS 2018, algorithm 1).

    The kernel is Lᵢⱼ = qᵢ·cos(i, j)·qⱼ with log qᵢ = cos(i, task)·(1 - diversity) / (2·diversity) (their section 4.3),
    and the gain of i the rise of log det L_S: log of the squared length that qᵢ·rowᵢ has outside the span of the set.

    >>> kdpp = Kdpp(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0.9, 0.9, 0.5]), diversity=0.5)
    >>> kdpp.add(0)
    >>> kdpp.gains().tolist()
    [-inf, -inf, 0.5]
    """

    def __init__(self, rows: Float64Array, relevance: Float64Array, diversity: float) -> None:
        self.rows = rows
        self.quality = relevance * (1 - diversity) / diversity  # log qᵢ²
        self.outside = np.einsum("ij,ij->i", rows, rows)
        self.factors = np.empty((0, len(rows)))  # rows of the incremental Cholesky factor

    def gains(self) -> Float64Array:
        """See `SetObjective.gains`; the rises of log det L_S, -inf inside the span of the set."""
        left = self.outside > _ROUND_OFF
        return np.where(left, self.quality + np.log(np.where(left, self.outside, 1.0)), -np.inf)

    def add(self, position: int) -> None:
        """See `SetObjective.add`; takes the candidate's direction out of what is left of every row."""
        length = float(np.sqrt(max(self.outside[position], 0.0)))
        if length * length <= _ROUND_OFF:  # a demanded anchor without a delta: it rules nothing out
            self.outside[position] = 0.0
            return
        cross = self.rows @ self.rows[position] - self.factors.T @ self.factors[:, position]
        self.factors = np.vstack([self.factors, cross / length])
        self.outside = self.outside - self.factors[-1] ** 2


DIVERSITY_OBJECTIVES: dict[str, Callable[[Float64Array, Float64Array, float], SetObjective]] = {
    "facility": Facility,
    "kdpp": Kdpp,
    "mmr": Mmr,
}
"""By the name in `anchor_diverse:objective=`; made from unit rows (n, d), cosines with the task (n,) and diversity."""
