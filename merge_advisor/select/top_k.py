"""The nearest candidates by delta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.ranking import anchored, ranked, while_positive
from merge_advisor.select.similarity import task_similarity


@dataclass(frozen=True)
class TopK:
    """Take the k candidates whose deltas are most similar to the task's (cosine).

    >>> import numpy as np
    >>> evidence = Evidence(("a", "b", "c"), np.array([[1, 0], [0, 1], [1, 1]]), lambda: np.array([3, 1]))
    >>> [evidence.ids[pick.position] for pick in TopK().select(evidence, 2).picks]
    ['a', 'c']
    """

    centre: bool = False
    """Subtract the pool's mean delta from pool and task first."""

    name: ClassVar[str] = "top_k"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = "at a similarity of 0 or less"

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a pick is its cosine with the task delta."""
        scores = task_similarity(evidence, self.centre)
        return while_positive(anchored(ranked(scores), evidence.anchor), scores, k, used=("task_delta",))
