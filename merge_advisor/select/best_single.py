"""One candidate and no merge: what a merge has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import Choice, Evidence, Strategy
from merge_advisor.select.gradient import Gradient
from merge_advisor.select.shot_loss import ShotLoss
from merge_advisor.select.top_k import TopK


@dataclass(frozen=True)
class BestSingle:
    """Take the one best candidate, by delta, by shot loss or by gradient.

    >>> import numpy as np
    >>> evidence = Evidence(("a", "b", "c"), np.array([[1, 0], [0, 1], [1, 1]]), lambda: np.array([1, 3]))
    >>> BestSingle().select(evidence, 2).picks
    (Pick(position=1, gain=0.948683298),)
    """

    by: str = "delta"
    """"delta" (cosine with the task delta), "shot_loss" or "gradient"."""
    centre: bool = False
    """With by=delta: subtract the pool's mean delta from pool and task."""

    name: ClassVar[str] = "best_single"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "what top_k, shot_loss or gradient costs"
    stops: ClassVar[str] = "after one"

    def __post_init__(self) -> None:
        if self.by not in ("delta", "shot_loss", "gradient"):
            raise ValueError(f"by={self.by} is unknown; choose one of: delta, shot_loss, gradient")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; it chooses one, whatever k is, with the gain of `top_k`, `shot_loss` or `gradient`."""
        rankings: dict[str, Strategy] = {"delta": TopK(self.centre), "shot_loss": ShotLoss(), "gradient": Gradient()}
        best = rankings[self.by].select(evidence, 1)
        return Choice(best.picks, "one member is all it takes", used=best.used)
