"""Candidates whose deltas sum to the task's: deltas add up, so the parts of the sum are the members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.ranking import anchored, make_choice, make_pick, ranked
from merge_advisor.select.similarity import comparable_deltas, cosines, unit_rows


@dataclass(frozen=True)
class Additive:
    """Write the task delta as a sparse non-negative sum of the pool's; the coefficients are the direction.

    Deltas of merged data add up (arXiv 2509.04442, section on additivity), so the parts of a sum are the members.
    Non-negative orthogonal matching pursuit: take the delta most in line with what is left, fit all coefficients anew.

    >>> evidence = Evidence(("a", "b", "c"), np.eye(3), lambda: np.array([3, 1, 0]))
    >>> choice = Additive().select(evidence, 3)
    >>> [evidence.ids[pick.position] for pick in choice.picks], choice.direction
    (['a', 'b'], (0.75, 0.25))
    """

    least: float = 0.01
    """Smallest share of the task delta's squared length a member has to explain."""
    centre: bool = False
    """Subtract the pool's mean delta from pool and task first."""

    name: ClassVar[str] = "additive"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = "when a member explains less than the stated share of the task delta"

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise ValueError(f"least={self.least} is not in 0..1")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a pick is the share of the task delta's squared length it explained.

        A member whose coefficient later falls to 0 is dropped. A demanded anchor whose coefficient is 0 gets an equal
        share of the direction.
        """
        deltas, task_delta = comparable_deltas(evidence, self.centre)
        size = float(task_delta @ task_delta)
        gains: dict[int, float] = {}
        weights: Float64Array = np.empty(0)
        left, explained = task_delta, 0.0
        forced = [] if evidence.anchor is None else [evidence.anchor]
        while len(gains) < k and size > 0:
            scores = cosines(deltas, left)
            scores[list(gains)] = -np.inf
            position = forced[0] if not gains and forced else ranked(scores)[0]
            if position not in forced and scores[position] <= 0:
                break
            members = [*gains, position]
            fitted = _fit(deltas[members], task_delta)
            rest = task_delta - fitted @ deltas[members]
            now = 1 - float(rest @ rest) / size
            # even with least=0, a copy of a member must not count for what rounding makes it explain
            if position not in forced and now - explained < max(self.least, np.finfo(float).eps):
                break
            gains[position] = now - explained
            kept = [p for p, weight in zip(members, fitted, strict=True) if weight > 0 or p in forced]
            weights = fitted[[members.index(p) for p in kept]]
            gains = {p: gains[p] for p in kept}
            left, explained = rest, now
        if not weights.any():  # no delta points towards the task; a choice is never empty
            nearest = anchored(ranked(cosines(deltas, task_delta)), evidence.anchor)[0]
            return make_choice([make_pick(nearest, 0.0)], k, used=("task_delta",))
        if weights[0] == 0:  # only a demanded anchor is kept at 0
            weights[0] = weights.sum() / (len(weights) - 1)
        direction = tuple(float(weight) for weight in weights / weights.sum())
        return make_choice([make_pick(p, gain) for p, gain in gains.items()], k, direction, ("task_delta",))


def _fit(deltas: Float64Array, task_delta: Float64Array) -> Float64Array:
    """Return the coefficients c >= 0 that minimise |task_delta - Σ cᵢ·deltasᵢ|, (m,) float64."""
    from scipy.optimize import nnls

    # on unit rows: deltas of very different lengths would make the fit lose digits
    lengths = np.linalg.norm(deltas, axis=1)
    on_units: Float64Array = nnls(unit_rows(deltas).T, task_delta)[0]
    coefficients: Float64Array = np.divide(on_units, lengths, out=np.zeros_like(on_units), where=lengths > 0)
    return coefficients
