"""The measured loss of every candidate: the most expensive ranking, and the most direct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.forward_selection import by_loss, finite_shot_loss, forward_selection
from merge_advisor.select.ranking import make_choice, while_positive


@dataclass(frozen=True)
class ShotLoss:
    """Take the k candidates that, each alone, have the lowest loss on the choosing rows.

    >>> losses = {(): 3.0, (0,): 2.0, (1,): 4.0, (2,): 2.5}
    >>> evidence = Evidence(
    ...     ("a", "b", "c"), np.eye(3), lambda: np.ones(3), shot_loss=lambda weights, share=1.0: losses[tuple(weights)]
    ... )
    >>> ShotLoss().select(evidence, 3).picks
    (Pick(position=0, gain=1.0), Pick(position=2, gain=0.5))
    """

    greedy: bool = False
    """Measure merges instead: add the partner that lowers the loss of the merge most, while one does."""
    least: float = 0.005
    """Smallest share of the merge's loss a partner has to take off (greedy only)."""

    name: ClassVar[str] = "shot_loss"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "n + 1 forward passes over the choosing rows; greedy about n for every member"
    stops: ClassVar[str] = "at a candidate no better than the base; greedy where the merge's loss falls no further"

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise ValueError(f"least={self.least} is not in 0..1")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain is the drop of the loss against the base (greedy: the merge so far)."""
        positions = range(len(evidence.ids))
        if self.greedy:
            return make_choice(forward_selection(evidence, positions, k, self.least)[0], k)
        base = finite_shot_loss(evidence, {})
        losses = {position: finite_shot_loss(evidence, {position: 1.0}) for position in positions}
        drops = np.array([base - loss for loss in losses.values()])
        return while_positive(by_loss(losses, evidence.anchor), drops, k)
