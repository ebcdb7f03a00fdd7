"""The nearest candidates by delta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.likeness import anchored, likeness, ranked, while_positive


@dataclass(frozen=True)
class TopK:
    """Take the k candidates whose deltas are most similar to the task's (cosine)."""

    centre: bool = False
    """Subtract the pool's mean delta from pool and task first."""

    name: ClassVar[str] = "top_k"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = "at a similarity of 0 or less"

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose by falling cosine with the task delta; the gain of a pick is its cosine."""
        scores = likeness(evidence, self.centre)
        return while_positive(anchored(ranked(scores), evidence.anchor), scores, k, used=("task_delta",))
