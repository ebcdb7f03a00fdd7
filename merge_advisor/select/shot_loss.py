"""The loss of every candidate on the shots: the dear and strong way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.forward_selection import by_loss, finite_shot_loss, forward_selection
from merge_advisor.select.likeness import make_choice, while_positive


@dataclass(frozen=True)
class ShotLoss:
    """Take the k candidates that, each alone, have the lowest loss on the choosing rows."""

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
        """Choose by rising loss; the gain is the drop against the base (greedy: against the merge so far)."""
        everyone = range(len(evidence.ids))
        if self.greedy:
            return make_choice(forward_selection(evidence, everyone, k, self.least)[0], k)
        base = finite_shot_loss(evidence, {})
        losses = {position: finite_shot_loss(evidence, {position: 1.0}) for position in everyone}
        drops = np.array([base - loss for loss in losses.values()])
        return while_positive(by_loss(losses, evidence.anchor), drops, k)
