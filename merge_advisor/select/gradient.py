"""First-order gain of every candidate for the price of one backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.ranking import anchored, make_choice, make_pick, ranked, while_positive
from merge_advisor.select.similarity import weight_cosine


@dataclass(frozen=True)
class Gradient:
    """Take the k candidates along which the shot loss falls most steeply: -⟨∂L/∂W, ΔW⟩.

    >>> evidence = Evidence(
    ...     ("a", "b", "c"), np.eye(3), lambda: np.ones(3),
    ...     gradient_gain=lambda weights, share=1.0: np.array([0.2, -0.1, 0.3]),
    ... )
    >>> Gradient().select(evidence, 3).picks
    (Pick(position=2, gain=0.3), Pick(position=0, gain=0.2))
    """

    distinct: bool = False
    """Discount gains by the cosine of the weights with the nearest chosen ones: gain·(1 - max(0, cosine))."""

    name: ClassVar[str] = "gradient"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "one forward and backward pass over the choosing rows, and reading the weights of the pool"
    stops: ClassVar[str] = "at a gain of 0 or less"

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; gains are in nats per token, to first order."""
        gains = np.asarray(evidence.gradient_gain({}), np.float64)
        order = anchored(ranked(gains), evidence.anchor)
        if not self.distinct:
            return while_positive(order, gains, k)
        position, gain = order[0], float(gains[order[0]])
        picks = [make_pick(position, gain)]
        # reading weights is the expensive part: of candidates that cannot be chosen they are not read; those that can
        # are read one after the other, since together they may be more than fits into memory
        kept = [p for p in ranked(gains) if gains[p] > 0 or p == position]
        alike = np.zeros(len(gains))
        while len(picks) < k:
            kept.remove(position)
            member = evidence.weights_of(position)
            for other in kept:
                # six digits: a copy of a chosen one has exactly 1 and gains nothing; fmax ignores an empty update's NaN
                alike[other] = np.fmax(alike[other], weight_cosine(member, evidence.weights_of(other), digits=6))
            left = {p: gains[p] * (1 - alike[p]) for p in sorted(kept)}
            position = max(left, key=lambda p: left[p], default=position)
            if not left.get(position, 0) > 0:
                break
            picks.append(make_pick(position, left[position]))
        return make_choice(picks, k)
